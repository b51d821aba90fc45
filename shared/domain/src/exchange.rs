//! What an attempt did on the wire, or with a program, for traces. It contains nothing of the
//! message and no address.

use std::time::Duration;

use crate::transcript::Transcript;

/// What a sender did with a message, by the kind of sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// It had an SMTP conversation.
    Smtp(Transcript),
    /// It posted a request to an HTTP service.
    Http(HttpExchange),
    /// It ran a program.
    Program(ProgramRun),
}

/// A request to an HTTP service, and the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpExchange {
    /// The URL, without user, password, query and fragment, which may be secret.
    pub url: String,
    /// The host in the URL.
    pub host: String,
    /// The port of that host.
    pub port: u16,
    /// The status code of the answer; none if there was no answer.
    pub status: Option<u16>,
    /// How long it took until the head of the answer was read: connecting, if no connection was
    /// free, sending, and waiting. None if there was no answer.
    pub answered_after: Option<Duration>,
    /// How long it took to read the body of the answer. None if there was no answer.
    pub read_in: Option<Duration>,
}

/// A program that was run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramRun {
    /// The name of its file.
    pub name: String,
    /// Its exit code; none if it did not start, or if a signal ended it.
    pub exit_code: Option<i32>,
}
