//! The attempts of one job, put together from two answers of the API. The events have the most, and
//! are there after the job has ended. The history of a waiting job still has old attempts after
//! their events were deleted.

use std::collections::BTreeMap;

use domain::clock::Timestamp;
use domain::event::EventKind;
use domain::standing::Standing;
use domain::transcript::Transcript;
use serde::Deserialize;
use serde_json::Value;

use crate::addresses::{trace, waits_for};
use crate::figures::rough;

/// A job and its attempts.
#[derive(Debug, PartialEq)]
pub(super) struct Chain {
    /// `account/address`.
    pub(super) job: String,
    pub(super) destination: String,
    /// The policy row of the last failure.
    pub(super) policy: String,
    pub(super) state: State,
    /// The number of the next attempt, or of the running one.
    pub(super) next: u32,
    /// How many attempts the policy row allows.
    pub(super) most: Option<u32>,
    /// The `messaging.message.conversation_id` of the job's spans. Older schedulers do not send it.
    pub(super) conversation: Option<String>,
    pub(super) counts: Counts,
    /// What happened, oldest first.
    pub(super) rows: Vec<Row>,
}

/// What a job is doing now.
#[derive(Debug, PartialEq)]
pub(super) enum State {
    /// It waits for its next attempt.
    Waits {
        due: Timestamp,
        /// What it waits for in addition to its due time.
        reason: Option<String>,
    },
    /// It waits for a bounce of what a relay accepted.
    Confirms { until: Timestamp },
    /// It is in quarantine.
    Quarantined { since: Timestamp },
    /// An attempt is running.
    UnderWay { until: Option<Timestamp> },
    /// There is no job any more.
    Ended,
}

/// What became of the messages.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) waiting: usize,
    pub(super) delivered: usize,
    /// By reason.
    pub(super) dropped: BTreeMap<String, usize>,
    pub(super) expired: usize,
}

/// Something that happened to the job, usually an attempt.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Row {
    /// The number of the attempt, if this is one. The platform's own attempt was 0.
    pub(super) number: Option<u32>,
    pub(super) at: Timestamp,
    pub(super) mark: Mark,
    pub(super) reply: Option<String>,
    /// The policy row that decided about it.
    policy: Option<String>,
    /// What else is to be said about it.
    pub(super) notes: Vec<String>,
    pub(super) transcript: Option<Transcript>,
    /// The link to its trace, or the trace's id.
    pub(super) trace: Option<String>,
}

/// How something ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mark {
    /// The attempt failed, and the job goes on.
    #[default]
    Failed,
    /// A relay accepted the messages that were tried.
    Accepted,
    /// The messages that were tried are delivered.
    Delivered,
    /// The job ended without a delivery.
    GivenUp,
    /// Something other than an attempt.
    Other,
}

/// The fields of an event that are shown.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: EventKind,
    id: String,
    time: Timestamp,
    destination: Option<String>,
    attempt: Option<u32>,
    policy: Option<String>,
    reply: Option<String>,
    transcript: Option<Transcript>,
    late_ms: Option<i64>,
    standing: Option<Standing>,
    reason: Option<String>,
    until: Option<String>,
    occurred_at: Option<Timestamp>,
    #[serde(skip)]
    trace: Option<String>,
}

impl Chain {
    /// Puts together the answer about an address and the events of its latest job, oldest first.
    /// Events of kinds that this version does not know are left out.
    pub(super) fn read(job: String, address: &Value, events: &[Value]) -> Self {
        let events: Vec<Event> = events
            .iter()
            .filter_map(|wire| {
                let event = Event::deserialize(wire).ok()?;
                let trace = trace(wire);
                Some(Event { trace, ..event })
            })
            .collect();
        let waiting = &address["job"];
        let text = |key: &str| waiting[key].as_str().map(str::to_owned);
        let number = |key: &str| waiting[key].as_u64().and_then(|n| n.try_into().ok());
        let last = |field: fn(&Event) -> Option<String>| events.iter().rev().find_map(field);
        let mut counts = Counts::of(&events);
        counts.waiting = waiting["messages"].as_array().map_or(0, Vec::len);
        let mut rows = Vec::new();
        for group in events.chunk_by(|one, next| entry(&one.id) == entry(&next.id)) {
            rows.extend(row(group, rows.is_empty()));
        }
        note_policies(&mut rows);
        add_history(&mut rows, waiting["history"].as_array());
        // The history has no trace of the platform's own attempt, but its message has one.
        let first = rows.iter_mut().find(|row| row.number == Some(0));
        if let Some(row) = first.filter(|row| row.trace.is_none()) {
            row.trace = trace(&waiting["messages"][0]);
        }
        Self {
            job,
            destination: text("destination")
                .or_else(|| last(|event| event.destination.clone()))
                .unwrap_or_default(),
            policy: text("policy")
                .or_else(|| last(|event| event.policy.clone()))
                .unwrap_or_default(),
            state: State::of(waiting),
            next: number("attempt").unwrap_or_default() + 1,
            most: number("max_attempts"),
            conversation: address["conversation_id"].as_str().map(str::to_owned),
            counts,
            rows,
        }
    }
}

impl State {
    fn of(job: &Value) -> Self {
        if !job.is_object() {
            return Self::Ended;
        }
        let instant = |key: &str| job[key].as_str().and_then(Timestamp::parse);
        if let Some(since) = instant("quarantined_since") {
            return Self::Quarantined { since };
        }
        match instant("due") {
            Some(until) if job["waits_for"]["what"] == "silence" => Self::Confirms { until },
            Some(due) => Self::Waits {
                due,
                reason: waits_for(job),
            },
            None => Self::UnderWay {
                until: instant("leased_until"),
            },
        }
    }
}

impl Counts {
    fn of(events: &[Event]) -> Self {
        let mut counts = Self::default();
        for event in events {
            match event.kind {
                EventKind::MessageDelivered => counts.delivered += 1,
                EventKind::MessageExpired => counts.expired += 1,
                EventKind::MessageDropped => {
                    let reason = event.reason.clone().unwrap_or_default();
                    *counts.dropped.entry(reason).or_default() += 1;
                }
                _ => {}
            }
        }
        counts
    }

    /// Lists what became of the messages that have ended, for example `2 delivered`.
    pub(super) fn ended(&self) -> Vec<String> {
        let mut list = Vec::new();
        if self.delivered > 0 {
            list.push(format!("{} delivered", self.delivered));
        }
        for (reason, count) in &self.dropped {
            list.push(format!("{count} dropped ({})", reason.replace('_', " ")));
        }
        if self.expired > 0 {
            list.push(format!("{} expired", self.expired));
        }
        list
    }
}

/// Returns the entry of the journal that an event is in. What one attempt led to is in one entry.
fn entry(id: &str) -> &str {
    id.rsplit_once(':').map_or(id, |(entry, _)| entry)
}

/// Returns the row for the events of one entry. `None` if they only say that messages joined, and
/// took the place of others.
fn row(events: &[Event], is_first: bool) -> Option<Row> {
    let joins = |event: &Event| {
        event.kind == EventKind::MessageJoined || event.reason.as_deref() == Some("replaced")
    };
    if events.iter().all(joins) {
        return None;
    }
    let about = events.iter().find(|event| event.reply.is_some());
    let first = events.first()?;
    // A bounce that ends the job says attempt 0 too, but only the first bounce is an attempt.
    let number = events
        .iter()
        .find_map(|event| event.attempt)
        .filter(|number| *number > 0 || is_first)
        .filter(|_| !events.iter().all(is_without_attempt));
    let mut notes: Vec<String> = events.iter().filter_map(note).collect();
    notes.dedup();
    let ended = Counts::of(events).ended();
    if !ended.is_empty() {
        notes.push(format!("messages: {}", ended.join(", ")));
    }
    let late = events.iter().find_map(|event| event.late_ms).unwrap_or(0);
    if late >= LATE_MS {
        let late = std::time::Duration::from_millis(late.unsigned_abs());
        notes.push(format!("claimed {} late", rough(late)));
    }
    Some(Row {
        number,
        at: first.occurred_at.unwrap_or(first.time).min(first.time),
        mark: mark(events),
        reply: about.and_then(|event| event.reply.clone()),
        policy: about.and_then(|event| event.policy.clone()),
        notes,
        transcript: about.and_then(|event| event.transcript.clone()),
        trace: events.iter().find_map(|event| event.trace.clone()),
    })
}

/// From this lateness on, it is shown.
const LATE_MS: i64 = 60_000;

fn mark(events: &[Event]) -> Mark {
    use EventKind::{
        AddressRetired, AddressSuppressed, AttemptDeferred, JobClosed, JobScheduled,
        MessageAccepted, MessageDelivered,
    };
    let has = |kind| events.iter().any(|event| event.kind == kind);
    let confirms = |event: &Event| event.reason.as_deref() == Some("confirming");
    if has(AddressRetired) || has(AddressSuppressed) {
        Mark::GivenUp
    } else if has(MessageAccepted) || events.iter().any(confirms) {
        Mark::Accepted
    } else if has(AttemptDeferred) && !has(JobClosed) {
        Mark::Failed
    } else if has(MessageDelivered) {
        Mark::Delivered
    } else if has(JobClosed) {
        Mark::GivenUp
    } else if has(JobScheduled) {
        Mark::Failed
    } else {
        Mark::Other
    }
}

/// Whether an event is about something that happened between two attempts.
fn is_without_attempt(event: &Event) -> bool {
    match event.kind {
        EventKind::MessageDelivered => event.reason.is_some(),
        EventKind::JobClosed | EventKind::MessageExpired => true,
        _ => false,
    }
}

/// Says in words what an event means, if reply and mark do not show it.
fn note(event: &Event) -> Option<String> {
    let reason = event.reason.as_deref();
    let text = match (event.kind, reason) {
        (EventKind::JobScheduled, _) => "the platform's own attempt",
        (EventKind::AttemptDeferred, Some("held")) => "does not count: the address is not at fault",
        (EventKind::AttemptDeferred, Some("unknown")) => "sent, but not answered",
        (EventKind::AttemptDeferred, Some("interrupted")) => "the worker was stopped",
        (EventKind::AttemptDeferred, Some("confirming")) => "waits for bounces",
        (EventKind::MessageAccepted, _) => "accepted by a relay: a bounce may come",
        (EventKind::MessageDelivered, Some("silence")) => "no bounce came",
        (EventKind::MessageDelivered, Some("reported")) => "the delivery was reported",
        (EventKind::AddressRetired, _) => {
            let standing = event.standing.map_or("inactive", Standing::as_str);
            let until = event.until.as_deref().unwrap_or_default();
            return Some(match until.split_once('T') {
                Some((day, _)) => format!("the address is {standing} until {day}"),
                None => format!("the address is {standing}"),
            });
        }
        (EventKind::AddressSuppressed, reason) => {
            return Some(format!(
                "the address is suppressed: {}",
                reason.unwrap_or("?")
            ));
        }
        (EventKind::AddressReinstated, reason) => {
            let reason = reason.unwrap_or("?").replace('_', " ");
            return Some(format!("the address is active again: {reason}"));
        }
        (EventKind::JobLapsed, _) => "a worker was lost with the job",
        (EventKind::JobQuarantined, _) => "the job is in quarantine",
        (EventKind::JobReinstated, _) => "released from quarantine",
        (EventKind::JobRecovered, _) => "the job was lost and is restored",
        (EventKind::ValueReset, _) => "an unreadable value was reset",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Notes the policy row of each failure that another row decided about than about the one before.
fn note_policies(rows: &mut [Row]) {
    let mut last: Option<String> = None;
    for row in rows {
        let Some(policy) = row.policy.take() else {
            continue;
        };
        if last.as_ref().is_some_and(|last| *last != policy) {
            row.notes.push(format!("policy row: {policy}"));
        }
        last = Some(policy);
    }
}

/// Adds what is in the history alone: attempts without events, and the time of the bounce.
fn add_history(rows: &mut Vec<Row>, history: Option<&Vec<Value>>) {
    let mut end = rows.len();
    for tried in history.into_iter().flatten().rev() {
        let number = tried["attempt"]
            .as_u64()
            .and_then(|number| number.try_into().ok());
        let Some(at) = tried["at"].as_str().and_then(Timestamp::parse) else {
            continue;
        };
        let known = rows[..end]
            .iter()
            .rposition(|row| row.number.is_some() && row.number == number);
        if let Some(known) = known {
            end = known;
            continue;
        }
        let place = rows[..end].partition_point(|row| row.at <= at);
        rows.insert(
            place,
            Row {
                number,
                at,
                reply: tried["reply"].as_str().map(str::to_owned),
                notes: (number == Some(0))
                    .then(|| "the platform's own attempt".to_owned())
                    .into_iter()
                    .collect(),
                trace: trace(tried),
                ..Row::default()
            },
        );
        end = place;
    }
}
