//! Records since when the destination's own host has been silent during an attempt. The sender that
//! talks to that host writes the record. The worker reads it to find attempts that hang. It may
//! give up an attempt whose content is not being sent yet.
//!
//! The record is a variable of the attempt's task, so functions that open and read connections need
//! no extra parameter. For a relay, a program or an HTTP service nothing is recorded, because their
//! silence does not mean that the destination is silent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

tokio::task_local! {
    static CURRENT: Contact;
}

/// The contact of one attempt with its destination. Clones share the same attempt.
#[derive(Clone, Debug, Default)]
pub struct Contact(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Whether the sender talks to the destination's own hosts.
    is_direct: bool,
    /// Since when the host has been silent, if the sender waits for a host.
    silent_since: Option<Instant>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    BeforeContent,
    /// Content is being sent, and the host may soon have the message. The attempt is no longer
    /// given up.
    Content,
    /// The attempt was given up. Its host had been silent since this instant.
    GivenUp(Instant),
}

impl Contact {
    /// Runs an attempt, and records its contact here.
    pub async fn during<T>(self, attempt: impl Future<Output = T>) -> T {
        CURRENT.scope(self, attempt).await
    }

    /// Whether the attempt talks to the destination's own hosts, or waits for a free connection to
    /// them.
    pub fn is_direct(&self) -> bool {
        self.state().is_direct
    }

    /// Returns since when a host has been silent; `None` if the sender waits for no host.
    pub fn silent_since(&self) -> Option<Instant> {
        self.state().silent_since
    }

    /// Gives the attempt up, unless its content may be on its way. Its host has been silent since
    /// `silent_since`. Returns whether it was given up; if so, the caller has to cancel it.
    pub fn give_up(&self, silent_since: Instant) -> bool {
        let mut state = self.state();
        let is_given_up = state.stage == Stage::BeforeContent;
        if is_given_up {
            state.stage = Stage::GivenUp(silent_since);
        }
        is_given_up
    }

    /// If the attempt was given up, returns since when its host had been silent at that time.
    pub fn given_up(&self) -> Option<Instant> {
        match self.state().stage {
            Stage::GivenUp(silent_since) => Some(silent_since),
            Stage::BeforeContent | Stage::Content => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(change: impl FnOnce(&mut State)) {
    // There is no contact outside an attempt, for example in tests that call a sender directly.
    let _ = CURRENT.try_with(|contact| change(&mut contact.state()));
}

/// Records that the sender contacts one of the destination's own hosts.
pub(crate) fn begin_host() {
    note(|state| {
        state.is_direct = true;
        if state.stage == Stage::Content {
            state.stage = Stage::BeforeContent;
        }
    });
}

/// Records that the sender waits for a host, from now if it did not wait already.
pub(crate) fn begin_waiting() {
    note(|state| {
        if state.is_direct {
            state.silent_since.get_or_insert_with(Instant::now);
        }
    });
}

/// Records that the sender waits for no host, but for something on our side.
pub(crate) fn stop_waiting() {
    note(|state| state.silent_since = None);
}

/// Records that a host sent something: its silence starts anew.
pub(crate) fn note_answer() {
    note(|state| {
        if state.silent_since.is_some() {
            state.silent_since = Some(Instant::now());
        }
    });
}

/// Records that content is about to be sent. Returns false if it must not be sent, because the
/// attempt was given up and is being cancelled.
pub(crate) fn begin_content() -> bool {
    let mut may_send = true;
    note(|state| match state.stage {
        Stage::GivenUp(_) => may_send = false,
        Stage::BeforeContent | Stage::Content => state.stage = Stage::Content,
    });
    may_send
}

#[cfg(any(test, feature = "conformance"))]
impl Contact {
    /// For tests: returns the contact of an attempt at one of the destination's own hosts. If
    /// `is_connected`, the attempt waits for an answer of the host, otherwise for a free
    /// connection.
    pub async fn with_host(is_connected: bool) -> Self {
        let contact = Self::default();
        let attempt = async {
            begin_host();
            if is_connected {
                begin_waiting();
            }
        };
        contact.clone().during(attempt).await;
        contact
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_counts_from_the_last_bytes_of_a_host() {
        let contact = Contact::default();
        let read = contact.clone();
        let since = || read.silent_since();
        let attempt = async {
            begin_waiting();
            assert_eq!(since(), None, "a relay's silence is not recorded");
            assert!(!read.is_direct());
            begin_host();
            assert!(read.is_direct());
            note_answer();
            assert_eq!(since(), None, "the sender waits for no host");
            begin_waiting();
            let first = since().expect("the sender waits");
            while first.elapsed().is_zero() {}
            begin_waiting();
            assert_eq!(since(), Some(first), "the sender still waits");
            note_answer();
            assert!(since() > Some(first));
            stop_waiting();
            assert_eq!(since(), None);
        };
        contact.during(attempt).await;
    }

    #[tokio::test]
    async fn an_attempt_whose_content_is_being_sent_is_not_given_up() {
        let (given_up, sent) = (Contact::default(), Contact::default());
        let now = Instant::now();
        assert!(given_up.give_up(now));
        assert!(!given_up.clone().during(async { begin_content() }).await);
        assert!(sent.clone().during(async { begin_content() }).await);
        assert!(!sent.give_up(now), "the host may have the message");
        assert_eq!((given_up.given_up(), sent.given_up()), (Some(now), None));
        sent.clone().during(async { begin_host() }).await;
        assert!(sent.give_up(now), "another message, or another host");
    }
}
