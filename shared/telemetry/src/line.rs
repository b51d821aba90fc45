//! A line of the log, as text or as JSON. If it belongs to a span that is sent to a collector, it
//! names the span and its trace.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use crate::current;
use crate::traceparent::TraceContext;

/// Writes lines in one of two forms.
pub(crate) struct Line {
    is_json: bool,
    text: format::Format<Full>,
}

impl Line {
    /// `has_colors`: whether text has colours.
    pub(crate) fn new(is_json: bool, has_colors: bool) -> Self {
        // A line inside a span is first written to a buffer, which knows nothing of the terminal.
        let text = format::Format::default().with_ansi(has_colors);
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
        let span = current::span();
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

fn json(event: &Event<'_>, span: Option<&TraceContext>) -> Result<Value, fmt::Error> {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    let mut fields = Fields(Map::new());
    fields.0.insert("timestamp".to_owned(), time.into());
    let level = event.metadata().level().as_str();
    fields.0.insert("level".to_owned(), level.into());
    let target = event.metadata().target();
    fields.0.insert("target".to_owned(), target.into());
    event.record(&mut fields);
    if let Some(span) = span {
        fields
            .0
            .insert("trace_id".to_owned(), span.trace_id().into());
        fields.0.insert("span_id".to_owned(), span.span_id().into());
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

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry;

    use super::*;

    const SPAN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Clone, Default)]
    struct Terminal(Arc<Mutex<Vec<u8>>>);

    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns a line as it is written inside this span, or outside of any.
    async fn line(has_colors: bool, span: Option<&str>) -> String {
        let terminal = Terminal::default();
        let writer = terminal.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(has_colors)
            .event_format(Line::new(false, has_colors));
        let subscriber = tracing::subscriber::set_default(registry().with(lines));
        let span = span.and_then(TraceContext::parse);
        current::within(span, async { tracing::info!(shard = 3, "it has happened") }).await;
        drop(subscriber);
        let written = terminal.0.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[tokio::test]
    async fn a_line_has_its_colours_inside_a_span_too() {
        for (has_colors, span) in [
            (true, None),
            (true, Some(SPAN)),
            (false, None),
            (false, Some(SPAN)),
        ] {
            let line = line(has_colors, span).await;
            assert_eq!(line.contains("\u{1b}[32m INFO"), has_colors, "{line:?}");
            assert_eq!(line.contains('\u{1b}'), has_colors, "{line:?}");
            assert!(line.contains("telemetry::line::tests"), "{line:?}");
            let names_trace = line.ends_with(" trace_id=0af7651916cd43dd8448eb211c80319c\n");
            assert_eq!(names_trace, span.is_some(), "{line:?}");
            assert_eq!(line.matches('\n').count(), 1);
        }
    }
}
