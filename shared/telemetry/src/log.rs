//! The log of a process. Addresses are personal data and never appear in it: their `Debug` and
//! `Display` are redacted, and a line about a job names only its destination.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

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
    /// For people.
    #[default]
    Text,
    /// As one JSON object.
    Json,
}

/// Starts the log on standard error. `RUST_LOG` overrides the configured filter. Call it once per
/// process; a second call changes nothing.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(&log.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false);
    // An error means that a log was started before. That log stays active.
    let _ = if log.format == Format::Json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(io::stderr().is_terminal()).try_init()
    };
}
