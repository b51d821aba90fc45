//! The log of a process. Addresses are personal data and never appear in it: their `Debug` and
//! `Display` are redacted, and a line about a job names only its destination and its hash.

use std::env;
use std::io::{self, IsTerminal};

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use tracing_subscriber::filter::{Directive, FilterFn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::line::Line;
use crate::pipeline::Pipeline;

/// How the log is written.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// How a line is written.
    pub format: Format,
    /// Which lines are written: a filter in the syntax of `tracing-subscriber`.
    pub filter: String,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people on a terminal, as JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// As one JSON object.
    Json,
}

/// Libraries that talk to the collector. Their lines are not sent, because each would cause
/// another. And they are not written below a warning unless the filter names them, because they
/// describe each frame.
const SENDS: [&str; 6] = ["opentelemetry", "tonic", "h2", "hyper", "reqwest", "tower"];

/// Starts the log on standard error, and to a collector if `pipeline` sends logs. `RUST_LOG`
/// overrides the configured filter. Call it once per process; a second call changes nothing.
///
/// # Errors
/// If `RUST_LOG` or the configured filter cannot be used.
pub fn start(log: &Log, pipeline: &Pipeline) -> Result<(), String> {
    let wanted = env::var("RUST_LOG").ok();
    let wanted = wanted.filter(|wanted| !wanted.trim().is_empty());
    let (name, wanted) = match &wanted {
        Some(wanted) => ("RUST_LOG", wanted),
        None => ("log.filter", &log.filter),
    };
    let fault = fault_of_filter(wanted);
    let filter = match fault {
        Some(fault) => return Err(format!("{name} {fault}")),
        None => filter(wanted),
    };
    let is_terminal = io::stderr().is_terminal();
    let is_json = match log.format {
        Format::Auto => !is_terminal,
        Format::Text => false,
        Format::Json => true,
    };
    let has_colors = is_terminal && !is_json;
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(has_colors)
        .event_format(Line::new(is_json, has_colors));
    let sent = pipeline.logger().map(|logger| {
        OpenTelemetryTracingBridge::new(logger).with_filter(FilterFn::new(|line| {
            !SENDS
                .iter()
                .any(|library| line.target().starts_with(library))
        }))
    });
    // An error means that a log was started before. That log stays active.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(sent)
        .try_init();
    pipeline.announce();
    Ok(())
}

/// Returns what is wrong with a filter in the syntax of `RUST_LOG`. `None` if it can be used.
pub fn fault_of_filter(wanted: &str) -> Option<String> {
    let mut parts = wanted.split(',').filter(|part| !part.is_empty());
    let wrong = parts.find(|part| part.parse::<Directive>().is_err())?;
    Some(format!(
        "has \"{wrong}\", which selects no lines; it may have levels (off, error, warn, info, \
         debug, trace) and target=level, with commas between: info,worker=debug,senders=trace"
    ))
}

/// Returns a filter in the syntax of `RUST_LOG`. Text that is none counts as `info`.
fn filter(wanted: &str) -> EnvFilter {
    let mut directives = wanted.to_owned();
    for library in SENDS {
        if !wanted.contains(library) {
            directives.push_str(&format!(",{library}=warn"));
        }
    }
    EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_selects_no_lines_is_refused_with_what_is_allowed() {
        for (wrong, part) in [
            ("x==bad", "x==bad"),
            ("[[", "[["),
            ("redeliver=loud", "redeliver=loud"),
            ("info,redeliver=loud,,x==", "redeliver=loud"),
        ] {
            let fault = fault_of_filter(wrong).unwrap();
            assert!(
                fault.contains(&format!("\"{part}\"")) && fault.contains("worker=debug"),
                "{fault}"
            );
        }
        for right in ["", "info", "info,worker=debug,", "worker::run=trace,off"] {
            assert_eq!(fault_of_filter(right), None, "{right}");
        }
    }

    #[test]
    fn what_sends_the_log_is_quiet_unless_the_filter_names_it() {
        assert!(filter("debug").to_string().contains("h2=warn"));
        let named = filter("info,h2=trace").to_string();
        assert!(
            named.contains("h2=trace") && !named.contains("h2=warn"),
            "{named}"
        );
        assert_eq!(filter("=,=").to_string(), "info");
    }
}
