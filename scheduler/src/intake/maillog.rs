//! Logs of mail systems as a source of bounces. Each adapter reads one line at a time, and returns
//! bounces in the wire format. Knows nothing of files or of the store.

use serde_json::Value;

pub mod kumomta;
pub mod postfix;

/// Reads the lines of one log, in order.
pub trait LogReader: Send {
    /// Returns the bounces that this line reports, in the wire format. Most lines report none.
    ///
    /// # Errors
    /// If the line does not belong to a log of this kind, or may report a bounce but is not
    /// understood. The text explains what was expected.
    fn bounces(&mut self, line: &str) -> Result<Vec<Value>, String>;
}
