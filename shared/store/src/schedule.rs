//! Taking bounces in: starting jobs, letting messages join, retiring addresses at once.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use domain::account::Account;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::evidence::Evidence;
use domain::job::{Head, Job, JobId, Message, first_record};
use domain::pace::{PaceLimits, limits_for};
use domain::reply::Reply;
use domain::standing::{Standing, StandingRecord};
use domain::status::EnhancedStatus;
use futures::future::try_join_all;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use telemetry::traceparent::TraceContext;

use crate::batch::{BATCH_BYTES_MAX, BATCH_MAX};
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::{SCHEDULE, ms};

/// The letter of the script's answer to a bounce that has retired its address.
const NEWLY_RETIRED: char = 'n';

/// A bounce with policy's decision, on its way into the store.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The job that it starts or joins.
    pub job: JobId,
    /// The head of the job, if the bounce starts one.
    pub head: Head,
    /// The message that waits.
    pub message: Message,
    /// When it happened, if known.
    pub occurred_at: Option<Timestamp>,
    /// What policy decided.
    pub purpose: Purpose,
    /// The mail system's reply, for the bounce's event. The head keeps only its beginning.
    pub reply: Reply,
    /// The way by which the bounce came in, such as `dsn`.
    pub source: &'static str,
}

/// The `JobScheduled` event of a bounce, as the script takes it and as the journal has it. The
/// values that the due instant is computed from come last. The script turns it into another event
/// if the bounce starts no job.
#[derive(Serialize)]
struct Scheduled<'a> {
    #[serde(rename = "type")]
    kind: EventKind,
    job: &'a str,
    destination: &'a Destination,
    attempt: u32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<EnhancedStatus>,
    policy: &'a str,
    #[serde(serialize_with = "as_text")]
    reply: &'a Reply,
    /// This and the host are left out if the bounce starts a job: most events are of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_mta: Option<&'a str>,
    /// The trace in which the bounce was accepted, if it is sent to a collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    delay: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred: Option<i64>,
}

fn as_text<S: Serializer>(reply: &&Reply, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reply)
}

/// What policy wants a bounce to lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A job that is due this long after the bounce.
    Retry(Duration),
    /// The address is retired, and its job ends if it has one.
    Retire(Standing),
    /// The message is dropped.
    Drop,
}

/// The result of a bounce.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A job was started.
    Scheduled {
        /// When its first attempt is due.
        due: Timestamp,
    },
    /// The address had a job, which holds this message now.
    Joined {
        /// When its next attempt is due; none while one is under way.
        due: Option<Timestamp>,
    },
    /// The job holds this message already.
    Duplicate,
    /// It happened before the address's last delivery.
    Stale,
    /// The address is not active, because of this bounce or from before.
    Retired(StandingRecord),
    /// The message failed for good; the address stays active.
    Dropped,
    /// A relay has accepted this message, and the job waits for confirmation. Policy must decide
    /// whether this bounce refutes it. Nothing has changed.
    Accepted(Box<AcceptedJob>),
    /// A relay had accepted this message: that attempt has failed, and the job continues.
    Deferred {
        /// When its next attempt is due; none while it is in quarantine.
        due: Option<Timestamp>,
    },
}

/// A job that waits for the confirmation of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedJob {
    /// The job.
    pub job: Job,
    /// Its record as Redis has it.
    pub record: String,
    /// When it was read, by Redis's clock. The record's instants are by the same clock.
    pub now: Timestamp,
}

impl Store {
    /// Takes in bounces. Returns the answer to each in the order given. Atomic per shard.
    ///
    /// A call that failed may be repeated: jobs that it had started or joined are then answered
    /// [`Answer::Duplicate`]. A dropped message is remembered for at least a day. An answer means
    /// that Redis has the bounce to the configured durability.
    pub async fn schedule(&self, arrivals: &[Arrival]) -> Result<Vec<Answer>, StoreError> {
        let mut by_shard: Vec<Vec<usize>> = vec![Vec::new(); usize::from(self.shards())];
        for (n, arrival) in arrivals.iter().enumerate() {
            by_shard[usize::from(arrival.head.destination.shard(self.shards()))].push(n);
        }
        let calls = (0..self.shards())
            .zip(by_shard)
            .map(async |(shard, mut places)| {
                // Bounces of one destination and account follow each other, in their order:
                // together they cost Redis little more than one.
                places.sort_by(|a, b| group_of(&arrivals[*a]).cmp(&group_of(&arrivals[*b])));
                let mut answers = Vec::with_capacity(places.len());
                // The batches run one after the other, because two of them may have bounces of the
                // same job.
                for places in batches(&places, arrivals) {
                    answers.extend(self.schedule_on(shard, arrivals, places).await?);
                }
                Ok::<_, StoreError>(answers)
            });
        let mut answers: Vec<(usize, Answer)> =
            try_join_all(calls).await?.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|(place, _)| *place);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    async fn schedule_on(
        &self,
        shard: u16,
        arrivals: &[Arrival],
        places: &[usize],
    ) -> Result<Vec<(usize, Answer)>, StoreError> {
        let mut call = self.call(&SCHEDULE, shard);
        let batch = || places.iter().map(|n| &arrivals[*n]);
        let keys: Vec<String> = batch().map(|arrival| arrival.job.key()).collect();
        let (mut events, mut lengths) = (vec![b'['], String::new());
        for (arrival, key) in batch().zip(&keys) {
            if !lengths.is_empty() {
                events.push(b',');
                lengths.push(' ');
            }
            let start = events.len();
            write_event(&mut events, key, arrival, self.by.as_deref());
            let _ = write!(lengths, "{}", events.len() - start);
        }
        events.push(b']');
        let mut seen = HashSet::with_capacity(keys.len());
        let distinct = keys.iter().all(|key| seen.insert(key));
        let by_group: Vec<&[usize]> = places
            .chunk_by(|a, b| group_of(&arrivals[*a]) == group_of(&arrivals[*b]))
            .collect();
        let groups = || {
            by_group
                .iter()
                .map(|places| (arrivals[places[0]].head.destination.as_str(), places.len()))
        };
        let mut limited: Vec<(&str, PaceLimits)> = groups()
            .filter_map(|(name, _)| Some((name, limits_for(&self.rules, name)?)))
            .collect();
        limited.dedup();
        call.arg("EVENTS", events)
            .arg("LENGTHS", lengths)
            .arg("DISTINCT", u8::from(distinct))
            .arg("N", places.len())
            .arg("G", by_group.len())
            .arg("M", limited.len());
        for (destination, limits) in limited {
            call.arg("limited_destination", destination)
                .arg("limits", limits.to_string());
        }
        for (destination, count) in groups() {
            call.arg("destination", destination).arg("bounces", count);
        }
        for key in &keys {
            call.arg("id", key);
        }
        for Arrival { head, message, .. } in batch() {
            call.arg("record", first_record(head, message));
        }
        for arrival in batch() {
            match arrival.purpose {
                Purpose::Retry(delay) => call.arg("verdict", ms(delay)),
                Purpose::Retire(standing) => {
                    let evidence = evidence(arrival).line();
                    let (standing, row) = (standing.as_str(), &arrival.head.policy);
                    call.arg("verdict", format!("{standing} {row}\n{evidence}"))
                }
                Purpose::Drop => call.arg("verdict", "drop"),
            };
        }
        for Arrival { occurred_at, .. } in batch() {
            call.arg("occurred", optional_ms(*occurred_at));
        }
        let mut reply: Vec<Text> = self
            .connections
            .durable_script(&call, &self.keys.shard(shard).barrier())
            .await?;
        let unexpected_reply = || StoreError::Refused("unexpected reply of schedule".to_owned());
        if reply.len() != 3 + places.len() || reply[1].0.len() != places.len() {
            return Err(unexpected_reply());
        }
        self.history
            .note_entry(shard, &reply.pop().unwrap_or_default().0);
        let details = reply.split_off(2);
        let now = reply[0].0.parse().map_err(|_| unexpected_reply())?;
        let now = Timestamp::from_ms(now);
        let answers = reply[1].0.chars().zip(details);
        places
            .iter()
            .zip(answers)
            .map(|(place, (letter, Text(detail)))| {
                let answer = read_answer(&arrivals[*place].job, letter, detail, now)?;
                if let (NEWLY_RETIRED, Answer::Retired(record)) = (letter, &answer) {
                    let Arrival { job, head, .. } = &arrivals[*place];
                    self.changes
                        .note_standing(&job.key(), &head.destination, record.standing);
                }
                Ok((*place, answer))
            })
            .collect()
    }
}

/// Returns the destination and the account of a bounce.
fn group_of(arrival: &Arrival) -> (&Destination, &Account) {
    (&arrival.head.destination, &arrival.job.account)
}

/// Cuts a shard's places into batches that one call may take, by number and by bytes.
fn batches<'p>(places: &'p [usize], arrivals: &[Arrival]) -> Vec<&'p [usize]> {
    let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (n, place) in places.iter().enumerate() {
        let size = arrivals[*place].message.content_len();
        if n > start && (n - start == BATCH_MAX || bytes + size > BATCH_BYTES_MAX) {
            batches.push(&places[start..n]);
            (start, bytes) = (n, 0);
        }
        bytes += size;
    }
    if start < places.len() {
        batches.push(&places[start..]);
    }
    batches
}

/// Returns what the bounce shows of its address, if it retires the address.
fn evidence(arrival: &Arrival) -> Evidence {
    let Arrival {
        message,
        reply,
        source,
        ..
    } = arrival;
    let host = message.remote_mta.as_deref();
    let text = reply.to_string();
    Evidence::new(0, message.bounced_at, source, reply.status, host, &text)
}

fn write_event(events: &mut Vec<u8>, key: &str, arrival: &Arrival, by: Option<&str>) {
    let Arrival {
        head,
        message,
        occurred_at,
        purpose,
        reply,
        source,
        ..
    } = arrival;
    let (delay, source, remote_mta) = match purpose {
        Purpose::Retry(delay) => (ms(*delay), None, None),
        Purpose::Retire(_) | Purpose::Drop => (0, Some(*source), message.remote_mta.as_deref()),
    };
    let trace = message.traceparent.as_deref();
    let trace = trace.and_then(TraceContext::parse);
    let event = Scheduled {
        kind: EventKind::JobScheduled,
        job: key,
        destination: &head.destination,
        attempt: 0,
        message: &message.id,
        status: reply.status,
        policy: &head.policy,
        reply,
        source,
        remote_mta,
        trace_id: trace
            .filter(TraceContext::is_sampled)
            .map(|trace| trace.trace_id()),
        metadata: &message.metadata,
        by,
        delay,
        occurred: occurred_at.map(Timestamp::ms),
    };
    serde_json::to_writer(events, &event)
        .expect("text, numbers and maps with text keys always serialize");
}

/// Returns an instant that may be missing in the form that the scripts take.
fn optional_ms(at: Option<Timestamp>) -> String {
    at.map(|at| at.ms().to_string()).unwrap_or_default()
}

fn read_answer(
    id: &JobId,
    letter: char,
    detail: String,
    now: Timestamp,
) -> Result<Answer, StoreError> {
    let due = || detail.parse().ok().map(Timestamp::from_ms);
    let missing_detail =
        || StoreError::Refused(format!("schedule answered {letter} without its detail"));
    Ok(match letter {
        's' => Answer::Scheduled {
            due: due().ok_or_else(missing_detail)?,
        },
        'j' => Answer::Joined { due: due() },
        'u' => Answer::Duplicate,
        't' => Answer::Stale,
        'r' | NEWLY_RETIRED => Answer::Retired(StandingRecord::from_store(&detail)),
        'd' => Answer::Dropped,
        'a' => {
            // The job cannot be judged, and nothing has changed. A worker that claims it will log
            // an error.
            match Job::from_record(id.clone(), &detail) {
                Ok(job) => Answer::Accepted(Box::new(AcceptedJob {
                    job,
                    record: detail,
                    now,
                })),
                Err(why) => {
                    tracing::error!(
                        %why,
                        "a bounce belongs to a job that cannot be read, and is ignored"
                    );
                    Answer::Duplicate
                }
            }
        }
        _ => {
            return Err(StoreError::Refused(format!(
                "unexpected answer {letter} of schedule"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use domain::address::Address;
    use domain::event::Event;

    #[test]
    fn the_event_for_the_script_ends_with_the_values_that_the_due_instant_is_computed_from() {
        let then = Timestamp::from_ms(1_763_716_200_000);
        let job = JobId {
            account: Account::default(),
            recipient: Address::parse("jo@example.com").unwrap(),
        };
        let reply = Reply::parse("452 4.3.1 said \"full\"\r\n452 4.3.1 twice");
        let message = Message {
            id: "<m\"1@example.org>".to_owned(),
            bounced_at: then,
            accepted: None,
            envelope_from: None,
            route: None,
            stream: None,
            expires_at: None,
            content: None,
            remote_mta: None,
            traceparent: None,
            metadata: Map::from_iter([("campaign".to_owned(), json!("c42"))]),
        };
        let head = Head::new(
            Destination::own(&job.recipient),
            "system-full",
            &reply,
            then,
            then,
        );
        for (purpose, occurred_at, end) in [
            (
                Purpose::Retry(Duration::from_secs(1)),
                Some(then),
                r#","delay":1000,"occurred":1763716200000}"#,
            ),
            (Purpose::Drop, None, r#","delay":0}"#),
        ] {
            let (head, message, reply) = (head.clone(), message.clone(), reply.clone());
            let arrival = Arrival {
                job: job.clone(),
                head,
                message,
                occurred_at,
                purpose,
                reply,
                source: "dsn",
            };
            let mut line = Vec::new();
            write_event(&mut line, &job.key(), &arrival, Some("acme"));
            let line = String::from_utf8(line).unwrap();
            assert!(
                line.starts_with(r#"{"type":"JobScheduled","job":"#) && line.ends_with(end),
                "{line}"
            );
            let mut event = Event::about(
                EventKind::JobScheduled,
                job.key(),
                &arrival.head.destination,
            )
            .with_message(&arrival.message);
            (event.attempt, event.status) = (Some(0), arrival.reply.status);
            (event.policy, event.reply) = (
                Some("system-full".to_owned()),
                Some(arrival.reply.to_string()),
            );
            event.source = (purpose == Purpose::Drop).then(|| "dsn".to_owned());
            event.by = Some("acme".into());
            event.delay = Some(if occurred_at.is_some() { 1_000 } else { 0 });
            event.occurred = occurred_at.map(Timestamp::ms);
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
            assert_eq!(line, event.line());
        }
    }
}
