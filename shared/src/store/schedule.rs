//! Taking bounces in: starting jobs, letting messages join, retiring addresses at once.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use futures::future::try_join_all;

use super::scripts::{SCHEDULE, ms};
use super::{BATCH_BYTES_MAX, BATCH_MAX, Store, StoreError};
use crate::clock::Timestamp;
use crate::event::Event;
use crate::job::{Head, Job, JobId, Message, first_record};
use crate::pace::{PaceLimits, limits_for};
use crate::standing::{Standing, StandingRecord};

/// A bounce that policy has judged, on its way into the store.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The job that it starts or joins.
    pub job: JobId,
    /// The head of the job, where it starts one.
    pub head: Head,
    /// The message that waits.
    pub message: Message,
    /// When it happened, where anybody knows.
    pub occurred_at: Option<Timestamp>,
    /// What policy says.
    pub purpose: Purpose,
    /// Its `JobScheduled` event, which the script makes another of where it turns out to be one.
    pub event: Event,
}

/// What a bounce shall lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A job that is due this long after the bounce.
    Retry(Duration),
    /// The end of the address, and of its job where it has one.
    Retire(Standing),
    /// The end of this message.
    Drop,
}

/// What became of a bounce.
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
    /// The address is not active, be it through this bounce or from before.
    Retired(StandingRecord),
    /// The message failed for good; the address stays active.
    Dropped,
    /// A relay has taken this message and the job waits for confirmation: whether this refutes it is for policy to say.
    /// Nothing has changed.
    Accepted(Box<AcceptedJob>),
    /// A relay had taken this message: that attempt has failed, and the job goes on.
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
}

impl Store {
    /// Takes in bounces, and answers each in the order given. Atomic per shard; a repeated call is answered
    /// [`Answer::Duplicate`] for the jobs that it had started or joined, so a call that failed may be made again. A dropped
    /// message is remembered for a day at least. An answer means that Redis has it to the configured durability.
    pub async fn schedule(&self, arrivals: &[Arrival]) -> Result<Vec<Answer>, StoreError> {
        let mut by_shard: Vec<Vec<usize>> = vec![Vec::new(); usize::from(self.shards())];
        for (n, arrival) in arrivals.iter().enumerate() {
            by_shard[usize::from(arrival.head.destination.shard(self.shards()))].push(n);
        }
        let calls = (0..self.shards()).zip(&by_shard).flat_map(|(shard, places)| {
            batches(places, arrivals).into_iter().map(move |places| self.schedule_on(shard, arrivals, places))
        });
        let mut answers: Vec<(usize, Answer)> = try_join_all(calls).await?.into_iter().flatten().collect();
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
        // Bounces of one destination stand together, in their order, and cost Redis little more than one of them.
        let mut places = places.to_vec();
        places.sort_by(|a, b| arrivals[*a].head.destination.cmp(&arrivals[*b].head.destination));
        let batch = || places.iter().map(|n| &arrivals[*n]);
        let (mut events, mut lengths) = (String::new(), String::new());
        for arrival in batch() {
            if !events.is_empty() {
                events.push(',');
                lengths.push(' ');
            }
            let start = events.len();
            write_event(&mut events, arrival);
            let _ = write!(lengths, "{}", events.len() - start);
        }
        let mut seen = HashSet::new();
        let distinct = batch().all(|arrival| seen.insert(&arrival.job));
        let at_one: Vec<&[usize]> =
            places.chunk_by(|a, b| arrivals[*a].head.destination == arrivals[*b].head.destination).collect();
        let destinations = || at_one.iter().map(|places| (arrivals[places[0]].head.destination.as_str(), places.len()));
        let limited: Vec<(&str, PaceLimits)> =
            destinations().filter_map(|(name, _)| Some((name, limits_for(&self.rules, name)?))).collect();
        call.arg(events).arg(lengths).arg(u8::from(distinct)).arg(places.len()).arg(at_one.len()).arg(limited.len());
        for (destination, limits) in limited {
            call.arg(destination).arg(limits.to_string());
        }
        for (destination, count) in destinations() {
            call.arg(destination).arg(count);
        }
        for Arrival { job, .. } in batch() {
            call.arg(job.key());
        }
        for Arrival { head, message, .. } in batch() {
            call.arg(first_record(head, message));
        }
        for Arrival { head, purpose, .. } in batch() {
            match purpose {
                Purpose::Retry(delay) => call.arg(ms(*delay)),
                Purpose::Retire(standing) => call.arg(format!("{} {}", standing.as_str(), head.policy)),
                Purpose::Drop => call.arg("drop"),
            };
        }
        for Arrival { occurred_at, .. } in batch() {
            call.arg(optional_ms(*occurred_at));
        }
        let mut reply: Vec<String> = self.connections.durable_script(&call, &self.keys.shard(shard).barrier()).await?;
        let other_shape = || StoreError::Refused("schedule answered in another shape".to_owned());
        // The first is the instant, which nobody needs here.
        if reply.len() != 2 + places.len() || reply[1].len() != places.len() {
            return Err(other_shape());
        }
        let details = reply.split_off(2);
        let answers = reply[1].chars().zip(details);
        places
            .into_iter()
            .zip(answers)
            .map(|(place, (letter, detail))| Ok((place, read_answer(&arrivals[place].job, letter, detail)?)))
            .collect()
    }
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

/// The JobScheduled event of a bounce as the script takes it: with what its due instant is computed from at the end.
fn write_event(events: &mut String, arrival: &Arrival) {
    let delay = match arrival.purpose {
        Purpose::Retry(delay) => ms(delay),
        Purpose::Retire(_) | Purpose::Drop => 0,
    };
    let line = arrival.event.line();
    let body = line.strip_suffix('}').expect("an event is a JSON object");
    let _ = write!(events, "{body},\"delay\":{delay}");
    if let Some(at) = arrival.occurred_at {
        let _ = write!(events, ",\"occurred\":{}", at.ms());
    }
    events.push('}');
}

/// An instant as the scripts take one that may be missing.
fn optional_ms(at: Option<Timestamp>) -> String {
    at.map(|at| at.ms().to_string()).unwrap_or_default()
}

fn read_answer(id: &JobId, letter: char, detail: String) -> Result<Answer, StoreError> {
    let due = || detail.parse().ok().map(Timestamp::from_ms);
    let unread = || StoreError::Refused(format!("schedule answered {letter} without what belongs to it"));
    Ok(match letter {
        's' => Answer::Scheduled { due: due().ok_or_else(unread)? },
        'j' => Answer::Joined { due: due() },
        'u' => Answer::Duplicate,
        't' => Answer::Stale,
        'r' => Answer::Retired(serde_json::from_str(&detail).map_err(|_| unread())?),
        'd' => Answer::Dropped,
        'a' => {
            let job = Job::from_record(id.clone(), &detail).map_err(|why| StoreError::Refused(why.to_string()))?;
            Answer::Accepted(Box::new(AcceptedJob { job, record: detail }))
        }
        _ => return Err(StoreError::Refused(format!("schedule answered {letter}"))),
    })
}
