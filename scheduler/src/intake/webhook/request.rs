//! A webhook request: what arrived, the result of its verification, and why it may be denied. Knows
//! no mail service and no store.

use std::time::Duration;

use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;

/// How far the clock of a mail service may be ahead of ours.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// A webhook request as it arrived.
#[derive(Debug)]
pub struct WebhookRequest<'r> {
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// Its body, byte for byte, because signatures are computed over these bytes.
    pub body: &'r [u8],
}

/// The result of a successful verification.
pub(super) enum Verified {
    /// The request carries events, which the adapter of the service reads.
    Events {
        /// The body with the events.
        body: Vec<u8>,
        /// What identifies the whole request, if the service gives it an id. The request is then
        /// valid only once.
        request_id: Option<String>,
    },
    /// The request carries no event, and everything it asks for is done. Contains its type.
    Handled(&'static str),
}

/// Why a request is not processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The request is not verified. The text names what is missing, and does not reveal what is
    /// expected.
    Unverified(&'static str),
    /// The request is not in a form that the service sends.
    Unreadable(String),
    /// Whether the request is genuine could not be decided now. Worth another try.
    Undecided(String),
    /// The request is valid only once, and is being processed at this moment. Worth another try, in
    /// case that processing fails.
    UnderWay,
}

/// The answer to a request whose signed timestamp is not [fresh](is_fresh).
pub(super) const NOT_FRESH: Denied =
    Denied::Unverified("the signed timestamp is missing, unreadable, too old, or in the future");

/// Whether a request signed at `signed` is accepted at `now`: neither older than the hook's window,
/// nor further in the future than clocks may differ.
pub(super) fn is_fresh(signed: Timestamp, now: Timestamp, hook: &Hook) -> bool {
    now.since(signed) <= hook.window && signed.since(now) <= CLOCK_SKEW_MAX
}
