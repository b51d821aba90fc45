//! Since when the destination's own host has been silent during an attempt. The sender that
//! speaks to that host notes it here; the worker reads it, to see which attempts hang, and may give
//! up one whose content is not on its way yet.
//!
//! It belongs to the attempt's task, so that what opens and reads connections need not hand it on.
//! For a relay, a program or an HTTP service nothing is noted: their silence says nothing of the
//! destination.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

tokio::task_local! {
    static CURRENT: Contact;
}

/// The contact of one attempt with its destination. Clones are of the same attempt.
#[derive(Clone, Debug, Default)]
pub struct Contact(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Whether the sender speaks to the destination's own hosts.
    is_direct: bool,
    /// Since when a host has been silent, if one is to speak.
    silent_since: Option<Instant>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    BeforeContent,
    /// The host may have the message soon: from here on the attempt is not given up.
    Content,
    /// It is given up: its host has been silent since then.
    GivenUp(Instant),
}

impl Contact {
    /// Runs an attempt that notes its contact here.
    pub async fn during<T>(self, attempt: impl Future<Output = T>) -> T {
        CURRENT.scope(self, attempt).await
    }

    /// Whether the attempt speaks to the destination's own hosts, or waits for a connection to one.
    pub fn is_direct(&self) -> bool {
        self.state().is_direct
    }

    /// Since when a host has been silent; `None` if none is to speak.
    pub fn silent_since(&self) -> Option<Instant> {
        self.state().silent_since
    }

    /// Gives the attempt up, which has waited since then for an answer, unless its content may be
    /// on its way. Whether it is given up now; then it has to be cut off.
    pub fn give_up(&self, silent_since: Instant) -> bool {
        let mut state = self.state();
        let may = state.stage == Stage::BeforeContent;
        if may {
            state.stage = Stage::GivenUp(silent_since);
        }
        may
    }

    /// Since when its host had been silent when it was given up; `None` if it was not.
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
    // There is no contact outside an attempt, as in tests that call a sender directly.
    let _ = CURRENT.try_with(|contact| change(&mut contact.state()));
}

/// The sender turns to a host of the destination's own.
pub(crate) fn turn_to_host() {
    note(|state| {
        state.is_direct = true;
        if state.stage == Stage::Content {
            state.stage = Stage::BeforeContent;
        }
    });
}

/// A host has to speak now.
pub(crate) fn wait() {
    note(|state| {
        if state.is_direct {
            state.silent_since.get_or_insert_with(Instant::now);
        }
    });
}

/// No host has to speak now: the sender waits for something of our own.
pub(crate) fn pause() {
    note(|state| state.silent_since = None);
}

/// A host has spoken.
pub(crate) fn note_answer() {
    note(|state| {
        if state.silent_since.is_some() {
            state.silent_since = Some(Instant::now());
        }
    });
}

/// Content is about to go out. Whether it may: not in an attempt that was given up, which is being
/// cut off.
pub(crate) fn begin_content() -> bool {
    let mut may = true;
    note(|state| match state.stage {
        Stage::GivenUp(_) => may = false,
        Stage::BeforeContent | Stage::Content => state.stage = Stage::Content,
    });
    may
}

#[cfg(any(test, feature = "conformance"))]
impl Contact {
    /// For tests: that of an attempt which has turned to a host of the destination's own. It waits for the
    /// host to speak, or for a connection.
    pub async fn with_host(is_connected: bool) -> Self {
        let contact = Self::default();
        let attempt = async {
            turn_to_host();
            if is_connected {
                wait();
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
    async fn silence_counts_from_what_a_host_said_last() {
        let contact = Contact::default();
        let read = contact.clone();
        let since = || read.silent_since();
        let attempt = async {
            wait();
            assert_eq!(since(), None, "a relay's silence says nothing");
            assert!(!read.is_direct());
            turn_to_host();
            assert!(read.is_direct());
            note_answer();
            assert_eq!(since(), None, "nobody waits");
            wait();
            let first = since().expect("it waits");
            while first.elapsed().is_zero() {}
            wait();
            assert_eq!(since(), Some(first), "it still waits");
            note_answer();
            assert!(since() > Some(first));
            pause();
            assert_eq!(since(), None);
        };
        contact.during(attempt).await;
    }

    #[tokio::test]
    async fn either_content_goes_out_or_the_attempt_is_given_up() {
        let (given_up, sent) = (Contact::default(), Contact::default());
        let now = Instant::now();
        assert!(given_up.give_up(now));
        assert!(!given_up.clone().during(async { begin_content() }).await);
        assert!(sent.clone().during(async { begin_content() }).await);
        assert!(!sent.give_up(now), "the host may have the message");
        assert_eq!((given_up.given_up(), sent.given_up()), (Some(now), None));
        sent.clone().during(async { turn_to_host() }).await;
        assert!(sent.give_up(now), "another message, or another host");
    }
}
