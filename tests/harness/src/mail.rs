//! A mail system that follows a script. It is the sender in most tests.

use std::sync::Mutex;

use async_trait::async_trait;
use domain::outcome::{Fault, FaultKind, Outcome};
use domain::reply::Reply;
use senders::attempt::Attempt;
use senders::sender::Sender;
use tokio::sync::watch;

use crate::bounce::{AWAY, OK};
use crate::wait::in_time;

type Script = Box<dyn FnMut(&Attempt) -> Outcome + Send>;

/// Answers by a script, and records the messages that it was sent. A test can make it hold its
/// answers, so that attempts stay in flight.
pub struct MailSystem {
    script: Mutex<Script>,
    tried: watch::Sender<Vec<Tried>>,
    /// How many messages are answered, counted from the first one that was tried. All later
    /// messages stay in flight.
    answered: watch::Sender<usize>,
    /// The recipient whose attempts panic, as if the sender had a bug.
    panicking: watch::Sender<Option<String>>,
}

/// One message that a worker tried to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The recipient.
    pub recipient: String,
    /// The message's id.
    pub message: String,
    /// The number of the attempt.
    pub attempt: u32,
}

impl Default for MailSystem {
    fn default() -> Self {
        let (tried, answered) = (
            watch::Sender::new(Vec::new()),
            watch::Sender::new(usize::MAX),
        );
        let panicking = watch::Sender::new(None);
        Self {
            script: Mutex::new(Box::new(|_| outcome(OK))),
            tried,
            answered,
            panicking,
        }
    }
}

impl MailSystem {
    /// From now on, answers every message with `reply`.
    pub fn reply_with(&self, reply: &str) {
        let reply = outcome(reply);
        self.set_script(move |_| reply.clone());
    }

    /// Answers the next messages with `replies`, one each and in this order. All messages after
    /// them are delivered.
    pub fn reply_in_turn(&self, replies: &[&str]) {
        let mut replies: Vec<Outcome> = replies.iter().rev().map(|reply| outcome(reply)).collect();
        self.set_script(move |_| replies.pop().unwrap_or_else(|| outcome(OK)));
    }

    /// From now on, answers by `script`.
    pub fn set_script(&self, script: impl FnMut(&Attempt) -> Outcome + Send + 'static) {
        *self.script.lock().expect("no script panics") = Box::new(script);
    }

    /// From now on, an attempt for this recipient panics. Attempts for other recipients do not.
    pub fn panic_for(&self, recipient: &str) {
        let recipient = recipient.to_owned();
        self.panicking.send_replace(Some(recipient));
    }

    /// From now on, messages stay in flight, until [`Self::release_held`].
    pub fn hold(&self) {
        self.hold_after(0);
    }

    /// Answers the next `count` messages. The messages after them stay in flight, until
    /// [`Self::release_held`].
    pub fn hold_after(&self, count: usize) {
        self.answered
            .send_replace(self.tried.borrow().len() + count);
    }

    /// Answers the first `count` messages, counted from the first one that was ever tried. The
    /// others stay in flight, until [`Self::release_held`].
    pub fn answer_first(&self, count: usize) {
        self.answered.send_replace(count);
    }

    /// Answers all messages in flight, and from now on every message at once.
    pub fn release_held(&self) {
        self.answered.send_replace(usize::MAX);
    }

    /// Returns all messages that were tried so far, in order, including those in flight.
    pub fn tried(&self) -> Vec<Tried> {
        self.tried.borrow().clone()
    }

    /// Returns the ids of the messages that were tried so far, in order.
    pub fn messages(&self) -> Vec<String> {
        self.tried()
            .into_iter()
            .map(|tried| tried.message)
            .collect()
    }

    /// How many messages are in flight.
    pub fn in_flight(&self) -> usize {
        self.answered.receiver_count()
    }

    /// Waits until `count` messages have been tried.
    pub async fn wait_for_attempts(&self, count: usize) {
        let mut tried = self.tried.subscribe();
        let enough = tried.wait_for(|tried| tried.len() >= count);
        in_time("messages to be tried", enough)
            .await
            .expect("the watch channel is open as long as this value exists");
    }
}

#[async_trait]
impl Sender for MailSystem {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        let (recipient, message) = (
            attempt.recipient.as_str().to_owned(),
            attempt.message_id.clone(),
        );
        let mut answered = self.answered.subscribe();
        let mut place = 0;
        self.tried.send_modify(|tried| {
            tried.push(Tried {
                recipient,
                message,
                attempt: attempt.number,
            });
            place = tried.len();
        });
        answered
            .wait_for(|answered| place <= *answered)
            .await
            .expect("the watch channel is open as long as this value exists");
        assert_ne!(
            self.panicking.borrow().as_deref(),
            Some(attempt.recipient.as_str()),
            "the test wants a panic"
        );
        let mut script = self.script.lock().expect("no script panics");
        script(attempt)
    }
}

/// Returns the outcome that a sender reports for `reply`, or for a relay that is [`AWAY`].
pub fn outcome(reply: &str) -> Outcome {
    if reply == AWAY {
        return Outcome::Unreachable(Fault::ours(FaultKind::Local, reply.to_owned()));
    }
    let reply = Reply::parse(reply);
    match reply.code {
        Some(..400) => Outcome::Delivered(reply),
        Some(500..) => Outcome::Refused(reply),
        _ => Outcome::Deferred(reply),
    }
}
