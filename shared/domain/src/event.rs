//! Events: what happened, in the past tense. The journal stores them. Event streams, traces and
//! reports are made from them.

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

/// The kinds of event, and the fields that each has in addition to job and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// A job was created: message, status, policy, reply, due.
    JobScheduled,
    /// A message joined an existing job: message, status, reply.
    MessageJoined,
    /// An attempt failed: attempt, message, status, policy, reply, late; due if another attempt
    /// follows.
    AttemptDeferred,
    /// A relay accepted a message, and a bounce may still come: attempt, message, reply, late; due
    /// if the job waits for that bounce.
    MessageAccepted,
    /// Final. A message was delivered: attempt, message, reply, late.
    MessageDelivered,
    /// Final. A message was given up: attempt, message, reason, and the fields of the failure.
    MessageDropped,
    /// Final. A message expired before it could be sent: attempt, message.
    MessageExpired,
    /// A job ended and its address was not retired: attempt.
    JobClosed,
    /// An address left the active list: attempt, standing, policy, status, reply, source,
    /// remote_mta.
    AddressRetired,
    /// An address came back to the active list: reason.
    AddressReinstated,
    /// An address was suppressed, by a complaint for example: attempt, standing, reason, source,
    /// and note if an operator wrote one.
    AddressSuppressed,
    /// A lease ran out before its attempt was settled. The job is due again.
    JobLapsed,
    /// A job lapsed too often in a row. It waits for an operator.
    JobQuarantined,
    /// An operator took a job out of quarantine. It is due again.
    JobReinstated,
    /// A job was neither waiting, nor leased, nor in quarantine, which no crash can cause. It is
    /// due again.
    JobRecovered,
    /// An entry of the intake stream is not a bounce, and was set aside: reason.
    IntakeRefused,
    /// Redis has lost its last writes in one shard: reason.
    WritesLost,
    /// A destination failed too often and gets no attempts until an instant: until.
    BreakerOpened,
    /// A probe was delivered. The destination gets attempts again, few at first.
    BreakerClosed,
    /// An operator holds a destination, which gets no attempts: reason; until if the hold has an
    /// end.
    DestinationHeld,
    /// An operator ended the hold of a destination.
    DestinationReleased,
    /// An operator set limits for a destination: limits. Without limits, those of the configuration
    /// apply again.
    DestinationLimited,
    /// A setting of a Redis server weakens or breaks a promise: reason.
    ServerMisconfigured,
    /// The settings of that server are correct again: reason.
    ServerCorrected,
    /// Processes of the fleet run with different policies: reason.
    FleetDiverged,
    /// A value in Redis could not be read and was reset to its initial value: reason names the
    /// value. The event carries the job or the destination that it belongs to.
    ValueReset,
}

impl EventKind {
    /// Every kind, in the order of a job's life.
    pub const ALL: [Self; 26] = [
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
        Self::FleetDiverged,
        Self::ValueReset,
    ];

    /// Whether this event is the end of a message. Each accepted message gets exactly one such
    /// event.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::MessageDelivered | Self::MessageDropped | Self::MessageExpired
        )
    }

    /// Returns the name used in JSON and documents.
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
            Self::FleetDiverged => "FleetDiverged",
            Self::ValueReset => "ValueReset",
        }
    }

    /// Reads the name that [`Self::name`] returns.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One event as the journal stores it, with instants in milliseconds. Fields that a kind does not
/// carry are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The job, `account/recipient`; empty for an event about a destination.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub job: Arc<str>,
    /// The destination of the job's attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// The number of the attempt that the event is about, or else of the last one. The platform's
    /// own attempt was 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The id of the message within the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The enhanced status of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<EnhancedStatus>,
    /// The policy row that decided about the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The reply of the mail system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// How we learned of the failure or the suppression, as in
    /// [`Evidence`](crate::evidence::Evidence).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The host that refused the mail, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_mta: Option<String>,
    /// What an operator wrote as the reason of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The transcript of the attempt, if it was made over SMTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<Box<Transcript>>,
    /// The id of the attempt's trace, if it was sent to a collector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// How long after its due time the attempt was claimed, in milliseconds. A negative number
    /// would mean too early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_ms: Option<i64>,
    /// The new standing of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// The reason: a word of [`DropReason`], or what caused the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The metadata that the platform sent with the message.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// The name of the token with which a client or an operator caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Arc<str>>,
    /// The end of the state that begins, such as `unavailable` or a hold. Written by the scripts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// The limits that an operator set for the destination. Written by the scripts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<PaceLimits>,
    /// When the next attempt is due. In the journal `delay` takes its place, because the journal
    /// entry already has a time to count from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// How long the job waits, in milliseconds. It counts from the time of the entry, or from
    /// `occurred` if that is earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<u64>,
    /// When the bounce happened that the delay counts from. The API calls it `occurred_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred: Option<i64>,
}

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The address was retired.
    Retired,
    /// The failure is about this message, or all attempts that its policy row allows are used up.
    GivenUp,
    /// The job was full, and a newer message took its place.
    Replaced,
    /// The content of the message could not be read.
    ContentMissing,
    /// The address was suppressed.
    Suppressed,
}

impl DropReason {
    /// Returns the word used in events.
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

/// The capacity reserved for one event, in bytes. Most events fit into it.
const EVENT_CAPACITY: usize = 512;

/// The JSON text of several events for the journal, joined by commas.
#[derive(Clone, Debug, Default)]
pub struct EventLines {
    text: String,
    /// The length of the last event in bytes, with the comma before it.
    last_len: usize,
}

impl EventLines {
    /// Appends an event.
    pub fn push(&mut self, event: &Event) {
        let before = self.text.len();
        let mut text = mem::take(&mut self.text).into_bytes();
        text.reserve(EVENT_CAPACITY);
        if before > 0 {
            text.push(b',');
        }
        event.write(&mut text);
        self.text = String::from_utf8(text).expect("JSON is UTF-8");
        self.last_len = self.text.len() - before;
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Returns the text of all events.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the length of the last event in bytes, with the comma before it.
    pub fn last_len(&self) -> usize {
        self.last_len
    }
}

impl Event {
    /// Returns an event about a job, with all other fields empty.
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
            source: None,
            remote_mta: None,
            note: None,
            transcript: None,
            trace_id: None,
            late_ms: None,
            standing: None,
            reason: None,
            metadata: Map::new(),
            by: None,
            until: None,
            limits: None,
            due: None,
            delay: None,
            occurred: None,
        }
    }

    /// Returns an event about an entry of the intake stream that is not a bounce.
    pub fn intake_refused(reason: String) -> Self {
        Self::without_job(EventKind::IntakeRefused, reason)
    }

    /// Returns an event about writes that Redis has lost. The reason is the word for what proves
    /// it: `journal` or `serial`.
    pub fn writes_lost(reason: &str) -> Self {
        Self::without_job(EventKind::WritesLost, reason.to_owned())
    }

    /// Returns an event about processes of the fleet that run with different policies. The reason
    /// names their parts in the fleet.
    pub fn fleet_diverged(reason: String) -> Self {
        Self::without_job(EventKind::FleetDiverged, reason)
    }

    /// Returns an event that belongs to no job and no destination.
    fn without_job(kind: EventKind, reason: String) -> Self {
        Self {
            destination: None,
            reason: Some(reason),
            ..Self::about(kind, "", &Destination::named(""))
        }
    }

    /// Returns the event with the id and metadata of one message of the job.
    #[must_use]
    pub fn with_message(mut self, message: &Message) -> Self {
        self.message = Some(message.id.clone());
        self.metadata.clone_from(&message.metadata);
        self
    }

    /// Returns the event as the journal stores it: one line of JSON.
    pub fn line(&self) -> String {
        let mut text = Vec::with_capacity(EVENT_CAPACITY);
        self.write(&mut text);
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    fn write(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(text, self)
            .expect("text, numbers and maps with text keys always serialize");
    }

    /// Returns the event with `due` computed from `delay` and `occurred`, and without `delay`.
    /// `time` is the time of the journal entry.
    #[must_use]
    pub fn with_due(mut self, time: Timestamp) -> Self {
        if let Some(delay) = self.delay.take() {
            let from = self
                .occurred
                .map_or(time, |at| Timestamp::from_ms(at).min(time));
            self.due = Some(from.plus(Duration::from_millis(delay)).max(time).ms());
        }
        self
    }

    /// Returns the event as the API returns it: with its id and time, and every instant as RFC 3339
    /// text.
    pub fn to_wire(&self, id: &str, time: Timestamp) -> Value {
        let mut wire = serde_json::to_value(self)
            .expect("text, numbers and maps with text keys always serialize");
        wire["id"] = id.into();
        wire["time"] = time.to_string().into();
        if let Some(fields) = wire.as_object_mut() {
            fields.remove("occurred");
        }
        let instants = [
            ("due", self.due),
            ("until", self.until),
            ("occurred_at", self.occurred),
        ];
        for (key, instant) in instants {
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
    fn every_kind_is_read_back_from_its_name() {
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
    fn the_api_has_rfc_3339_text_for_the_journals_milliseconds() {
        let line = concat!(
            r#"{"type":"JobScheduled","job":"acme/jo@example.com","due":1000,"#,
            r#""occurred":500}"#
        );
        let event: Event = serde_json::from_str(line).unwrap();
        assert_eq!(event.line(), line, "a missing field stays missing");
        assert_eq!(
            event.to_wire("0:1-0:0", Timestamp::from_ms(0)),
            serde_json::json!({
                "id": "0:1-0:0", "time": "1970-01-01T00:00:00.000Z", "type": "JobScheduled",
                "job": "acme/jo@example.com", "due": "1970-01-01T00:00:01.000Z",
                "occurred_at": "1970-01-01T00:00:00.500Z",
            })
        );
    }
}
