//! Events: what happened, in the past tense. The journal keeps them; streams, traces and reports
//! are made of them.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::destination::Destination;
use crate::job::Message;
use crate::pace::PaceLimits;
use crate::standing::Standing;
use crate::status::EnhancedStatus;
use crate::transcript::Transcript;

/// The kinds of event, and what each carries beside job and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// A job came to be: message, status, policy, reply, due.
    JobScheduled,
    /// A message joined a job that was there: message, status, reply.
    MessageJoined,
    /// An attempt failed: attempt, message, status, policy, reply, late; due where another attempt
    /// follows.
    AttemptDeferred,
    /// A relay took a message, and a bounce may still come: attempt, message, reply, late; due
    /// where the job waits for it.
    MessageAccepted,
    /// Final. A message got through: attempt, message, reply, late.
    MessageDelivered,
    /// Final. A message was given up: message, reason, and what led to it.
    MessageDropped,
    /// Final. A message's time was over before it could be sent: message.
    MessageExpired,
    /// A job ended with nobody retired: attempt.
    JobClosed,
    /// An address left the active list: attempt, standing, policy, reply.
    AddressRetired,
    /// An address came back to the active list: reason.
    AddressReinstated,
    /// An address wants no more mail: standing, reason.
    AddressSuppressed,
    /// A lease ran out unsettled and its job is due again.
    JobLapsed,
    /// A job lapsed too often in a row and waits for an operator.
    JobQuarantined,
    /// An operator took a job out of quarantine and it is due again.
    JobReinstated,
    /// A job was in no set, which no crash can bring about, and is due again.
    JobRecovered,
    /// An entry of the intake stream is no bounce, and was put aside: reason.
    IntakeRefused,
    /// Redis has lost its last writes in one shard: reason.
    WritesLost,
    /// A destination failed too often and gets no attempts for a time: until.
    BreakerOpened,
    /// A probe got through and the destination gets attempts again, few at first.
    BreakerClosed,
    /// An operator keeps attempts from a destination: reason, until where there is an end.
    DestinationHeld,
    /// An operator lets attempts through again.
    DestinationReleased,
    /// An operator gave a destination other limits: limits; none where those of the configuration
    /// hold again.
    DestinationLimited,
    /// A server is set in a way that weakens or breaks a promise: reason.
    ServerMisconfigured,
    /// It is not any more: reason.
    ServerCorrected,
    /// A value in Redis could not be read, and its first one holds again: reason names it; of a job
    /// or of a destination.
    ValueReset,
}

impl EventKind {
    /// Every kind, in the order of a job's life.
    pub const ALL: [Self; 25] = [
        Self::JobScheduled,
        Self::MessageJoined,
        Self::AttemptDeferred,
        Self::MessageAccepted,
        Self::MessageDelivered,
        Self::MessageDropped,
        Self::MessageExpired,
        Self::JobClosed,
        Self::AddressRetired,
        Self::AddressReinstated,
        Self::AddressSuppressed,
        Self::JobLapsed,
        Self::JobQuarantined,
        Self::JobReinstated,
        Self::JobRecovered,
        Self::IntakeRefused,
        Self::WritesLost,
        Self::BreakerOpened,
        Self::BreakerClosed,
        Self::DestinationHeld,
        Self::DestinationReleased,
        Self::DestinationLimited,
        Self::ServerMisconfigured,
        Self::ServerCorrected,
        Self::ValueReset,
    ];

    /// Whether this ends a message's story. Each accepted message gets exactly one such event.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::MessageDelivered | Self::MessageDropped | Self::MessageExpired
        )
    }

    /// The name used in JSON and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::JobScheduled => "JobScheduled",
            Self::MessageJoined => "MessageJoined",
            Self::AttemptDeferred => "AttemptDeferred",
            Self::MessageAccepted => "MessageAccepted",
            Self::MessageDelivered => "MessageDelivered",
            Self::MessageDropped => "MessageDropped",
            Self::MessageExpired => "MessageExpired",
            Self::JobClosed => "JobClosed",
            Self::AddressRetired => "AddressRetired",
            Self::AddressReinstated => "AddressReinstated",
            Self::AddressSuppressed => "AddressSuppressed",
            Self::JobLapsed => "JobLapsed",
            Self::JobQuarantined => "JobQuarantined",
            Self::JobReinstated => "JobReinstated",
            Self::JobRecovered => "JobRecovered",
            Self::IntakeRefused => "IntakeRefused",
            Self::WritesLost => "WritesLost",
            Self::BreakerOpened => "BreakerOpened",
            Self::BreakerClosed => "BreakerClosed",
            Self::DestinationHeld => "DestinationHeld",
            Self::DestinationReleased => "DestinationReleased",
            Self::DestinationLimited => "DestinationLimited",
            Self::ServerMisconfigured => "ServerMisconfigured",
            Self::ServerCorrected => "ServerCorrected",
            Self::ValueReset => "ValueReset",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One event as the journal has it; instants are milliseconds there. Fields that a kind does not
/// carry are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// To which job, `account/recipient`; empty for what happens to a destination.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub job: Arc<str>,
    /// Where its attempts go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// The number of the attempt; the platform's own was 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The message's id within the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The enhanced status of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<EnhancedStatus>,
    /// The policy row that judged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What the mail system said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// What the wire showed of the attempt, where it was made over SMTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<Box<Transcript>>,
    /// By how much the attempt was claimed after it was due, in milliseconds; below zero would be
    /// too early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_ms: Option<i64>,
    /// Where the address went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// Why: a word of [`DropReason`], or who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the platform sent with the message.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Until when the address is unavailable; written by the scripts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// What a destination may get, as an operator said; written by the scripts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<PaceLimits>,
    /// When the next attempt is due. The journal has `delay` in its place, for its entry has the
    /// instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// How long the job waits from when this was written, or from `occurred` where that is earlier,
    /// in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<u64>,
    /// When the bounce happened that the delay counts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred: Option<i64>,
}

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The address was retired.
    Retired,
    /// The failure is about this message, or the tries that its policy row allows are used up.
    GivenUp,
    /// The job had no room left and a newer message took its place.
    Replaced,
    /// Its content could not be read.
    ContentMissing,
    /// The address was suppressed.
    Suppressed,
}

impl DropReason {
    /// The word used in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retired => "retired",
            Self::GivenUp => "given_up",
            Self::Replaced => "replaced",
            Self::ContentMissing => "content_missing",
            Self::Suppressed => "suppressed",
        }
    }
}

/// Room for an event that says no more than most do, in bytes.
const ROOM: usize = 512;

/// Events as the journal has them, joined by commas.
#[derive(Clone, Debug, Default)]
pub struct EventLines {
    text: String,
    /// How many bytes the last one takes, with the comma before it.
    last: usize,
}

impl EventLines {
    /// Adds one at the end.
    pub fn push(&mut self, event: &Event) {
        let before = self.text.len();
        let mut text = mem::take(&mut self.text).into_bytes();
        text.reserve(ROOM);
        if before > 0 {
            text.push(b',');
        }
        event.write(&mut text);
        self.text = String::from_utf8(text).expect("JSON is UTF-8");
        self.last = self.text.len() - before;
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// All of them.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many bytes the last one takes, with the comma before it.
    pub fn last_len(&self) -> usize {
        self.last
    }
}

impl Event {
    /// An event about a job, with nothing else said yet.
    pub fn about(kind: EventKind, job: impl Into<Arc<str>>, destination: &Destination) -> Self {
        Self {
            kind,
            job: job.into(),
            destination: Some(destination.clone()),
            attempt: None,
            message: None,
            status: None,
            policy: None,
            reply: None,
            transcript: None,
            late_ms: None,
            standing: None,
            reason: None,
            metadata: Map::new(),
            until: None,
            limits: None,
            due: None,
            delay: None,
            occurred: None,
        }
    }

    /// An event about an entry of the intake stream that is no bounce.
    pub fn intake_refused(reason: String) -> Self {
        Self::about_none(EventKind::IntakeRefused, reason)
    }

    /// An event about writes that Redis has lost. The reason is the word for what proves it.
    pub fn writes_lost(reason: &str) -> Self {
        Self::about_none(EventKind::WritesLost, reason.to_owned())
    }

    /// An event about no job and no destination.
    fn about_none(kind: EventKind, reason: String) -> Self {
        Self {
            destination: None,
            reason: Some(reason),
            ..Self::about(kind, "", &Destination::named(""))
        }
    }

    /// The same event about one message of the job.
    #[must_use]
    pub fn of(mut self, message: &Message) -> Self {
        self.message = Some(message.id.clone());
        self.metadata.clone_from(&message.metadata);
        self
    }

    /// The event as the journal has it: one line of JSON.
    pub fn line(&self) -> String {
        let mut text = Vec::with_capacity(ROOM);
        self.write(&mut text);
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    fn write(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(text, self)
            .expect("text, numbers and maps with text keys always serialize");
    }

    /// Puts the instant that the job is due in the place of what it is computed from, for an event
    /// that was written at `time`.
    #[must_use]
    pub fn with_due(mut self, time: Timestamp) -> Self {
        if let Some(delay) = self.delay.take() {
            let from = self
                .occurred
                .take()
                .map_or(time, |at| Timestamp::from_ms(at).min(time));
            self.due = Some(from.plus(Duration::from_millis(delay)).max(time).ms());
        }
        self
    }

    /// The event as the API gives it, with its id and time, and every instant as RFC 3339 text.
    pub fn to_wire(&self, id: &str, time: Timestamp) -> Value {
        let mut wire = serde_json::to_value(self)
            .expect("text, numbers and maps with text keys always serialize");
        wire["id"] = id.into();
        wire["time"] = time.to_string().into();
        for (key, instant) in [("due", self.due), ("until", self.until)] {
            if let Some(ms) = instant {
                wire[key] = Timestamp::from_ms(ms).to_string().into();
            }
        }
        wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.name()), Some(kind));
            assert_eq!(
                serde_json::to_value(kind).unwrap(),
                kind.name(),
                "JSON uses the same name"
            );
        }
    }

    #[test]
    fn the_wire_has_rfc_3339_where_the_journal_has_milliseconds() {
        let line = r#"{"type":"JobScheduled","job":"acme/jo@example.com","due":1000}"#;
        let event: Event = serde_json::from_str(line).unwrap();
        assert_eq!(event.line(), line, "absent stays absent");
        assert_eq!(
            event.to_wire("0:1-0:0", Timestamp::from_ms(0)),
            serde_json::json!({
                "id": "0:1-0:0", "time": "1970-01-01T00:00:00.000Z", "type": "JobScheduled",
                "job": "acme/jo@example.com", "due": "1970-01-01T00:00:01.000Z",
            })
        );
    }
}
