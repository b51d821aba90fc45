//! Settling: reporting with the lease's token how an attempt ended.

use std::time::Duration;

use super::claim::Lease;
use super::connection::Told;
use super::lease::optional_ms;
use super::scripts::{SETTLE, ms};
use super::{Store, StoreError};
use crate::event::Event;
use crate::job::{Head, Job};
use crate::standing::Standing;

/// How the attempt of one leased job ended.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The lease.
    pub lease: Lease,
    /// What becomes of the job.
    pub end: End,
    /// Whether a message got through, whatever came after it.
    pub delivered: bool,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What happened last, which the script completes: with `due` where the job waits again, with the standing where the
    /// address is retired; left out where a job that would close goes on with what joined meanwhile.
    pub last: Event,
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
    /// It ends, unless messages joined meanwhile: with those it goes on at once, under this head.
    Close {
        /// The head for what joined.
        head: Head,
    },
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
}

/// What became of a batch of settlements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleReport {
    /// Each, in the order given.
    pub settled: Vec<Settled>,
    /// What keeps them from the configured durability; none where they reached it. They took effect all the same.
    pub missing: Option<String>,
}

impl Store {
    /// Settles attempts, and answers each in the order given. State, standing and journal change together, per shard.
    /// A repeated settlement is answered [`Settled::Stale`] and changes nothing. The report says whether the configured
    /// durability was reached: to fail for it would repeat attempts that are settled.
    pub async fn settle(&self, settlements: &[Settlement]) -> Result<SettleReport, StoreError> {
        let places: Vec<usize> = (0..settlements.len()).collect();
        let mut report = SettleReport { settled: vec![Settled::Stale; settlements.len()], missing: None };
        for (shard, places) in self.by_shard(&places, |place| &settlements[*place].lease) {
            let mut call = self.call(&SETTLE, shard);
            for Settlement { lease, end, delivered, events, last } in places.iter().map(|place| &settlements[**place]) {
                let (op, record, argument, reason) = match end {
                    End::Retry { job, delay } => ("retry", job.record(), ms(*delay).to_string(), String::new()),
                    End::Close { head } => ("close", head.line(), String::new(), String::new()),
                    End::Retire { standing, policy, host_dead } => {
                        let mark = if *host_dead { "!" } else { "" };
                        ("retire", String::new(), standing.as_str().to_owned(), format!("{mark}{policy}"))
                    }
                };
                let events: Vec<String> = events.iter().map(Event::line).collect();
                call.arg(op)
                    .arg(lease.job.key())
                    .arg(lease.destination.as_str())
                    .arg(lease.token.ms())
                    .arg(optional_ms(lease.proposed))
                    .arg(lease.seen)
                    .arg(u8::from(*delivered))
                    .arg(record)
                    .arg(argument)
                    .arg(reason)
                    .arg(events.join(","))
                    .arg(last.line());
            }
            let barrier = self.keys.shard(shard).barrier();
            let Told { answer, missing } = self.connections.script_and_reach::<Vec<i64>>(&call, &barrier).await?;
            report.missing = report.missing.or(missing);
            for (place, done) in places.into_iter().zip(answer.into_iter().skip(1)) {
                report.settled[*place] = if done == 1 { Settled::Done } else { Settled::Stale };
            }
        }
        Ok(report)
    }
}
