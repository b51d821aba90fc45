//! What a process says about itself. Addresses are personal data and never appear here: their
//! `Debug` and `Display` are redacted, and whoever logs a job logs its destination.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// How the log is written.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Whether lines are JSON.
    pub json: bool,
    /// Which lines are written, as `tracing-subscriber` reads filters.
    pub filter: String,
}

/// Starts the log on standard error. `RUST_LOG` goes before the configured filter. Call it once per
/// process; a second call changes nothing.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(&log.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false);
    // An error means that a log was started before; that one stays.
    let _ = if log.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(io::stderr().is_terminal()).try_init()
    };
}
