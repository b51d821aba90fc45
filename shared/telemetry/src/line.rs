//! A line of the log, as text or as JSON. If it belongs to a span that is sent to a collector, it
//! names the span and its trace.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

/// Writes lines in one of two forms.
pub(crate) struct Line {
    is_json: bool,
    text: format::Format<Full>,
}

impl Line {
    pub(crate) fn new(is_json: bool) -> Self {
        let text = format::Format::default().with_target(false);
        Self { is_json, text }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let span = current_span();
        if self.is_json {
            return writeln!(writer, "{}", json(event, span.as_ref())?);
        }
        let Some(span) = span else {
            return self.text.format_event(context, writer, event);
        };
        let mut line = String::new();
        let inner = Writer::new(&mut line);
        self.text.format_event(context, inner, event)?;
        writeln!(writer, "{} trace_id={}", line.trim_end(), span.trace_id())
    }
}

/// Returns the span that the current task works for, if it is sent to a collector.
fn current_span() -> Option<SpanContext> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        (span.is_valid() && span.is_sampled()).then(|| span.clone())
    })
}

fn json(event: &Event<'_>, span: Option<&SpanContext>) -> Result<Value, fmt::Error> {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    let mut fields = Fields(Map::new());
    fields.0.insert("timestamp".to_owned(), time.into());
    let level = event.metadata().level().as_str();
    fields.0.insert("level".to_owned(), level.into());
    event.record(&mut fields);
    if let Some(span) = span {
        let (trace, span) = (span.trace_id().to_string(), span.span_id().to_string());
        fields.0.insert("trace_id".to_owned(), trace.into());
        fields.0.insert("span_id".to_owned(), span.into());
    }
    Ok(Value::Object(fields.0))
}

struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}
