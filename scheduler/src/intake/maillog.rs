//! Logs of mail systems as a source of bounces and facts. Each adapter reads one line at a time,
//! and returns items in the wire format. Knows nothing of files or of the store.

use serde_json::Value;

pub mod kumomta;
pub mod postfix;
mod recent;

/// How many recipients whose delivery failed for now are remembered. Beyond that the oldest are
/// forgotten, and their later delivery is not reported.
const WAITING_MAX: usize = 200_000;

/// One item that a line reports, in the wire format.
#[derive(Clone, Debug, PartialEq)]
pub enum LogItem {
    /// A bounce, as for `POST /v1/bounces`.
    Bounce(Value),
    /// A fact, as for `POST /v1/facts`.
    Fact(Value),
}

/// Reads the lines of one log, in order.
pub trait LogReader: Send {
    /// Returns what this line reports. Most lines report nothing. A delivery is a fact if an
    /// earlier line reported a failure of the same message to the same recipient. All other
    /// deliveries are left out, because nothing waits for them.
    ///
    /// # Errors
    /// If the line does not belong to a log of this kind, or may report a bounce but is not
    /// understood. The text explains what was expected.
    fn items(&mut self, line: &str) -> Result<Vec<LogItem>, String>;
}

/// Returns the key of a message to one recipient, by its id in the mail system's queue.
fn waiting_key(queue_id: &str, recipient: &str) -> String {
    format!("{queue_id} {recipient}")
}
