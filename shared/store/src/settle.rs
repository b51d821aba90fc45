//! Settling: reporting with the lease's token how an attempt ended.

use std::fmt::{self, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::event::EventLines;
use domain::job::Job;
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
use crate::scripts::{SETTLE, ms};

/// For how long a repeated call is answered as it was the first time.
const ANSWER_KEPT: Duration = Duration::from_secs(600);

/// How the attempt of one leased job ended.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The lease.
    pub lease: Lease,
    /// What becomes of the job.
    pub end: End,
    /// Whether a message got through, whatever came after it.
    pub delivered: bool,
    /// What it says about the destination.
    pub feedback: Feedback,
    /// How it is counted.
    pub tally: Tally,
    /// What happened, in order. To the last one the script adds the standing where the address is
    /// retired, and it leaves it out where a job that would close goes on with what joined
    /// meanwhile.
    pub events: EventLines,
}

/// What becomes of a job after an attempt.
#[derive(Clone, Debug)]
pub enum End {
    /// It waits this long from now, as this record.
    Retry {
        /// The job with what still waits in it.
        job: Job,
        /// The wait.
        delay: Duration,
    },
    /// It ends, unless messages joined meanwhile: with those it goes on at once, with all attempts
    /// before it.
    Close,
    /// It ends, and the address leaves the active list.
    Retire {
        /// Where the address goes.
        standing: Standing,
        /// The policy row that says so.
        policy: String,
        /// Whether it is the host that is dead.
        host_dead: bool,
    },
}

/// Whether a settlement took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It did.
    Done,
    /// The token was stale: nothing changed.
    Stale,
    /// The lease is void for this job, which a bounce or a fact ended during the attempt: what came
    /// of it is news of the destination alone.
    Void,
}

/// What became of a batch of settlements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleReport {
    /// Each, in the order given.
    pub settled: Vec<Settled>,
    /// What keeps them from the configured durability; none where they reached it. They took effect
    /// all the same.
    pub missing: Option<String>,
    /// Shards that are worth a visit now: there is room again where there was none, or something is
    /// due at once.
    pub worth_a_visit: Vec<u16>,
}

/// Names one call of [`Store::settle`], so that it can be repeated when its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SettleCall(u64);

impl SettleCall {
    /// A name that no other call has, of this process or another.
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
    /// Settles attempts, and answers each in the order given. State, standing, pace, tallies and
    /// journal change together, per shard. A call that is repeated with the same settlements is
    /// answered as it was and changes nothing, for ten minutes; after that, and for a lease that
    /// has lapsed, the answer is [`Settled::Stale`], and nothing changes either. The report says
    /// whether the configured durability was reached: to fail for it would repeat attempts that are
    /// settled.
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
                // Those that are alike stand together, and cost Redis little more than one of them.
                places.sort_by_cached_key(|place| {
                    (
                        Kind::of(&settlements[*place]),
                        settlements[*place].lease.number,
                    )
                });
                let batch: Vec<&Settlement> =
                    places.iter().map(|place| &settlements[*place]).collect();
                let told = self
                    .settle_on(shard, &format!("{call}:{number}"), &batch)
                    .await?;
                Ok::<_, StoreError>((shard, places, told))
            });
        let mut report = SettleReport {
            settled: vec![Settled::Stale; settlements.len()],
            missing: None,
            worth_a_visit: Vec::new(),
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
                report.worth_a_visit.push(shard);
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
        call.arg(name)
            .arg(ms(ANSWER_KEPT))
            .arg(&events.array)
            .arg(&events.lengths);
        let groups = || batch.chunk_by(|a, b| Kind::of(a) == Kind::of(b));
        call.arg(batch.len()).arg(groups().count());
        for group in groups() {
            let Kind {
                token,
                destination,
                op,
                delivered,
                feedback,
                tally,
            } = Kind::of(group[0]);
            let delivered = if delivered { "d" } else { "" };
            call.arg(token)
                .arg(destination)
                .arg(op)
                .arg(format!("{delivered}{feedback}"))
                .arg(tally.to_string())
                .arg(numbers(group));
        }
        for settlement in batch {
            call.arg(&*settlement.lease.job);
        }
        for settlement in batch {
            match &settlement.end {
                End::Close => {}
                End::Retry { job, delay } => {
                    call.arg(ms(*delay)).arg(job.record());
                }
                End::Retire {
                    standing,
                    policy,
                    host_dead,
                } => {
                    call.arg(retire_argument(
                        *standing,
                        policy,
                        *host_dead,
                        &settlement.events,
                    ));
                    call.arg(settlement.events.as_str());
                }
            }
        }
        let barrier = self.keys.shard(shard).barrier();
        let Acknowledged {
            answer: (_, answer, woke, journaled),
            missing,
        } = self
            .connections
            .script_and_reach::<(i64, String, u8, String)>(&call, &barrier)
            .await?;
        self.history.note_entry(shard, &journaled);
        if answer.len() != batch.len() {
            return Err(StoreError::Refused(
                "settle answered in another shape".to_owned(),
            ));
        }
        let read = |letter| match letter {
            b'1' => Settled::Done,
            b'v' => Settled::Void,
            _ => Settled::Stale,
        };
        let answer = answer.bytes().map(read).collect();
        Ok(Acknowledged {
            answer: (answer, woke == 1),
            missing,
        })
    }
}

/// What the scripts take for an address that is retired: where it goes, how long the last of its
/// events is, and why.
pub(crate) fn retire_argument(
    standing: Standing,
    policy: &str,
    host_dead: bool,
    events: &EventLines,
) -> String {
    let mark = if host_dead { "!" } else { "" };
    let comma = usize::from(events.last_len() < events.as_str().len());
    format!(
        "{} {} {mark}{policy}",
        standing.as_str(),
        events.last_len() - comma
    )
}

/// The numbers of jobs in their lease, in ranges: `3-7 9-9`.
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

/// What settlements have in common that the script deals with together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'s> {
    token: LeaseToken,
    destination: &'s str,
    op: &'static str,
    delivered: bool,
    feedback: &'static str,
    tally: Tally,
}

impl<'s> Kind<'s> {
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

/// The events of a batch as the script takes them: in one array, with the lengths that it is cut by
/// where one was not settled.
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
