//! The logs of mail systems as a source of bounces: each adapter reads one line at a time and gives
//! bounces in the wire format. They know nothing of files or of the store.

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;

pub mod kumomta;
pub mod postfix;

/// Reads the lines of one log, in their order.
pub trait LogReader: Send {
    /// The bounces that this line tells of, in the wire format; mostly none.
    ///
    /// # Errors
    /// Where the line is not one of such a log; the text says what was expected.
    fn bounces(&mut self, line: &str) -> Result<Vec<Value>, String>;
}

/// An instant as the wire has it.
fn instant(ms: i64) -> Option<String> {
    Some(DateTime::from_timestamp_millis(ms)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}
