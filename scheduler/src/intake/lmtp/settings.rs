//! What all LMTP sessions of a listener share.

use std::time::Duration;

use domain::account::Account;

use crate::intake::dsn::Reports;

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) reports: Reports,
    /// The name by which we greet.
    pub(super) host: String,
    /// The account of the mail if its return path names none.
    pub(super) account: Account,
    /// The largest message, in bytes.
    pub(super) message_max: usize,
    /// How many recipients one message may have.
    pub(super) recipients_max: usize,
    /// How long a client may send nothing.
    pub(super) idle_max: Duration,
}
