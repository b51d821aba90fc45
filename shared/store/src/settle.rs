//! Settling: reporting how an attempt ended, with the lease's token.

use std::fmt::{self, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::event::EventLines;
use domain::evidence::Evidence;
use domain::job::End;
use domain::pace::Feedback;
use domain::standing::Standing;
use domain::tally::Tally;
use futures::future::try_join_all;
use uuid::Uuid;

use crate::claim::Lease;
use crate::connection::pool::Acknowledged;
use crate::error::StoreError;
use crate::handle::Store;
use crate::lease_token::LeaseToken;
use crate::raw::Text;
use crate::scripts::{SETTLE, ms};

/// How long the first answer is kept, to be returned if the call is repeated.
const ANSWER_KEPT: Duration = Duration::from_secs(600);

/// How the attempt of one leased job ended.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The lease.
    pub lease: Lease,
    /// What becomes of the job.
    pub end: End,
    /// Whether a message got through, even if a later message of the attempt failed.
    pub delivered: bool,
    /// What the result means for the destination.
    pub feedback: Feedback,
    /// How it is counted.
    pub tally: Tally,
    /// What happened, in order. If the address is retired, the script adds the standing to the last
    /// event. If the job would close but messages joined meanwhile, the script leaves the last
    /// event out.
    pub events: EventLines,
}

/// Whether a settlement took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It took effect.
    Done,
    /// The token was stale: nothing changed.
    Stale,
    /// The lease is void for this job, because a bounce or a fact ended the job during the attempt.
    /// The result counts only for the destination.
    Void,
}

/// The result of a batch of settlements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleReport {
    /// The result of each settlement, in the order given.
    pub settled: Vec<Settled>,
    /// Why they did not reach the configured durability; none if they reached it. They took effect
    /// in any case.
    pub missing: Option<String>,
    /// Shards that are worth a visit now, because there is room again or something is due at once.
    pub visit_requests: Vec<u16>,
}

/// Names one call of [`Store::settle`], so that it can be repeated if its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SettleCall(u64);

impl SettleCall {
    /// Returns a name that no other call has, in any process.
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for SettleCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        static PROCESS: LazyLock<String> = LazyLock::new(|| Uuid::now_v7().simple().to_string());
        write!(f, "{}:{}", *PROCESS, self.0)
    }
}

impl Store {
    /// Settles attempts. Returns the result of each in the order given. Job, standing, pace,
    /// tallies and journal change together, per shard.
    ///
    /// A call that is repeated with the same settlements within ten minutes returns the first
    /// answer and changes nothing. After that, and for a lease that has lapsed, the answer is
    /// [`Settled::Stale`], and nothing changes either. The report includes whether the configured
    /// durability was reached. It is not an error if it was not, because an error would repeat
    /// attempts that are settled.
    pub async fn settle(
        &self,
        call: SettleCall,
        settlements: &[Settlement],
    ) -> Result<SettleReport, StoreError> {
        let places: Vec<usize> = (0..settlements.len()).collect();
        let batches = self.by_shard(&places, |place| settlements[*place].lease.shard);
        let calls = (0..)
            .zip(batches)
            .map(async |(number, (shard, places)): (usize, _)| {
                let mut places: Vec<usize> = places.into_iter().copied().collect();
                // Settlements of one kind follow each other: together they cost Redis little more
                // than one.
                places.sort_by_cached_key(|place| {
                    (
                        GroupKey::of(&settlements[*place]),
                        settlements[*place].lease.number,
                    )
                });
                let batch: Vec<&Settlement> =
                    places.iter().map(|place| &settlements[*place]).collect();
                let answer = self
                    .settle_on(shard, &format!("{call}:{number}"), &batch)
                    .await?;
                Ok::<_, StoreError>((shard, places, answer))
            });
        let mut report = SettleReport {
            settled: vec![Settled::Stale; settlements.len()],
            missing: None,
            visit_requests: Vec::new(),
        };
        for (
            shard,
            places,
            Acknowledged {
                answer: (answer, woke),
                missing,
            },
        ) in try_join_all(calls).await?
        {
            report.missing = report.missing.or(missing);
            if woke {
                report.visit_requests.push(shard);
            }
            for (place, settled) in places.into_iter().zip(answer) {
                report.settled[place] = settled;
            }
        }
        Ok(report)
    }

    async fn settle_on(
        &self,
        shard: u16,
        name: &str,
        batch: &[&Settlement],
    ) -> Result<Acknowledged<(Vec<Settled>, bool)>, StoreError> {
        let mut call = self.call(&SETTLE, shard);
        let events = EventTexts::of(batch);
        call.arg("CALL", name)
            .arg("KEEP", ms(ANSWER_KEPT))
            .arg("EVENTS", &events.array)
            .arg("LENGTHS", &events.lengths);
        let groups = || batch.chunk_by(|a, b| GroupKey::of(a) == GroupKey::of(b));
        call.arg("N", batch.len()).arg("G", groups().count());
        for group in groups() {
            let GroupKey {
                token,
                destination,
                op,
                delivered,
                feedback,
                tally,
            } = GroupKey::of(group[0]);
            let delivered = if delivered { "d" } else { "" };
            call.arg("token", token)
                .arg("destination", destination)
                .arg("op", op)
                .arg("results", format!("{delivered}{feedback}"))
                .arg("tally", tally.to_string())
                .arg("numbers", numbers(group));
        }
        for settlement in batch {
            call.arg("id", &*settlement.lease.job);
        }
        for settlement in batch {
            match &settlement.end {
                End::Close => {}
                End::Retry { job, delay } => {
                    let argument = match &job.head.dead_route {
                        None => ms(*delay).to_string(),
                        Some(route) => format!("{} {route}", ms(*delay)),
                    };
                    call.arg("argument", argument).arg("record", job.record());
                }
                End::Retire {
                    standing,
                    policy,
                    host_down,
                    evidence,
                } => {
                    let events = &settlement.events;
                    let argument = retire_argument(*standing, policy, *host_down, evidence, events);
                    call.arg("argument", argument)
                        .arg("record", events.as_str());
                }
            }
        }
        let barrier = self.keys.shard(shard).barrier();
        let Acknowledged {
            answer: (_, answer, woke, journaled, changes),
            missing,
        } = self
            .connections
            .script_and_reach::<(i64, String, u8, String, Vec<Text>)>(&call, &barrier)
            .await?;
        self.history.note_entry(shard, &journaled);
        self.changes.note_changes(&changes);
        if answer.len() != batch.len() {
            return Err(StoreError::Refused("unexpected reply of settle".to_owned()));
        }
        let read = |letter| match letter {
            b'1' | b'u' | b'i' => Settled::Done,
            b'v' => Settled::Void,
            _ => Settled::Stale,
        };
        for (letter, settlement) in answer.bytes().zip(batch) {
            let standing = match letter {
                b'u' => Standing::Unavailable,
                b'i' => Standing::Inactive,
                _ => continue,
            };
            let Lease {
                job, destination, ..
            } = &settlement.lease;
            self.changes.note_standing(job, destination, standing);
        }
        let answer = answer.bytes().map(read).collect();
        Ok(Acknowledged {
            answer: (answer, woke == 1),
            missing,
        })
    }
}

/// Returns the argument for a retired address that the scripts take: its standing, how long the
/// last of its events is, why it is retired, and the evidence on a line of its own.
pub(crate) fn retire_argument(
    standing: Standing,
    policy: &str,
    host_down: bool,
    evidence: &Evidence,
    events: &EventLines,
) -> String {
    let mark = if host_down { "!" } else { "" };
    let comma = usize::from(events.last_len() < events.as_str().len());
    format!(
        "{} {} {mark}{policy}\n{}",
        standing.as_str(),
        events.last_len() - comma,
        evidence.line()
    )
}

/// Returns the numbers of jobs in their lease, in ranges: `3-7 9-9`.
fn numbers(group: &[&Settlement]) -> String {
    let mut text = String::new();
    for range in group.chunk_by(|a, b| a.lease.number + 1 == b.lease.number) {
        let _ = write!(
            text,
            "{}-{} ",
            range[0].lease.number,
            range[range.len() - 1].lease.number
        );
    }
    text
}

/// What settlements have in common if the script can process them together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey<'s> {
    token: LeaseToken,
    destination: &'s str,
    op: &'static str,
    delivered: bool,
    feedback: &'static str,
    tally: Tally,
}

impl<'s> GroupKey<'s> {
    fn of(settlement: &'s Settlement) -> Self {
        Self {
            token: settlement.lease.token,
            destination: settlement.lease.destination.as_str(),
            op: match settlement.end {
                End::Retry { .. } => "retry",
                End::Close => "close",
                End::Retire { .. } => "retire",
            },
            delivered: settlement.delivered,
            feedback: settlement.feedback.mark(),
            tally: settlement.tally,
        }
    }
}

/// The events of a batch as the script takes them: one array, and the lengths to cut it by if a job
/// was not settled.
#[derive(Default)]
struct EventTexts {
    array: String,
    lengths: String,
}

impl EventTexts {
    fn of(batch: &[&Settlement]) -> Self {
        let mut texts = Self::default();
        let bytes: usize = batch
            .iter()
            .map(|settlement| settlement.events.as_str().len() + 1)
            .sum();
        texts.array.reserve(bytes + 1);
        texts.array.push('[');
        for settlement in batch
            .iter()
            .filter(|settlement| !matches!(settlement.end, End::Retire { .. }))
        {
            if !texts.lengths.is_empty() {
                texts.array.push(',');
                texts.lengths.push(' ');
            }
            texts.array.push_str(settlement.events.as_str());
            let _ = write!(
                texts.lengths,
                "{} {}",
                settlement.events.as_str().len(),
                settlement.events.last_len()
            );
        }
        texts.array.push(']');
        texts
    }
}
