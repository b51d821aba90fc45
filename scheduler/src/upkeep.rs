//! Upkeep: periodic tasks, each with a cron expression. It needs no leader: every replica runs the
//! same loop, and each occurrence of each task is claimed by one of them. A task takes no input but
//! the clock and is idempotent, so one that was missed or cut short is made good by the next.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use config::model::Config;
use cron::Schedule;
use domain::clock::Timestamp;
use futures::future::{join, join_all};
use store::error::StoreError;
use store::handle::Store;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub mod check_servers;
mod clock_watch;
pub mod reinstate;
pub mod repair;
pub mod trim_delivered;
pub mod trim_journal;

use clock_watch::{ClockWatch, WATCH};

/// How long a claim on an occurrence is kept. If two replicas' clocks differ by more than this,
/// each runs the task, which does no harm. A longer claim would do harm: a replica whose clock is
/// ahead would claim an occurrence, and the others would skip it when their own time came.
const CLAIM_KEPT: Duration = Duration::from_secs(60);

/// How long one wait lasts at most, in real time. The clock may be set meanwhile, so it is read
/// again after each.
const LOOK: Duration = Duration::from_secs(1);

/// One periodic task.
#[async_trait]
pub trait Task: std::fmt::Debug + Send + Sync {
    /// Its name, and its key in `[upkeep]`.
    fn name(&self) -> &'static str;

    /// Runs once, and tells how many things it dealt with.
    async fn run_once(&self, store: &Store) -> Result<u64, StoreError>;
}

/// All tasks with their schedules.
#[derive(Debug)]
pub struct Upkeep {
    store: Store,
    tasks: Vec<(Schedule, Box<dyn Task>)>,
}

impl Upkeep {
    /// The tasks as the configuration schedules them.
    ///
    /// # Errors
    /// Where an expression cannot be read; the text names the key.
    pub fn from_config(store: Store, config: &Config) -> Result<Self, String> {
        let tasks: [(&str, Box<dyn Task>); 5] = [
            (&config.upkeep.reinstate, Box::new(reinstate::Reinstate)),
            (
                &config.upkeep.trim_journal,
                Box::new(trim_journal::TrimJournal {
                    keep: config.journal_keep,
                }),
            ),
            (
                &config.upkeep.trim_delivered,
                Box::new(trim_delivered::TrimDelivered),
            ),
            (
                &config.upkeep.check_servers,
                Box::new(check_servers::CheckServers),
            ),
            (&config.upkeep.repair, Box::new(repair::Repair)),
        ];
        let scheduled = tasks.into_iter().map(|(expression, task)| match Schedule::from_str(expression) {
            Ok(schedule) => Ok((schedule, task)),
            Err(err) => Err(format!(
                "upkeep.{}: \"{expression}\" is no cron expression (second minute hour day month weekday): {err}",
                task.name()
            )),
        });
        Ok(Self {
            store,
            tasks: scheduled.collect::<Result<_, _>>()?,
        })
    }

    /// Brings the store in line with the configuration, then runs each task at each of its
    /// occurrences that this replica wins, until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        if let Some(Err(err)) = stop.run_until_cancelled(self.store.limit()).await {
            tracing::warn!(%err, "changed [[destination]] rules are not in force yet; the next repair makes it good");
        }
        let loops = self
            .tasks
            .iter()
            .map(|(schedule, task)| self.repeat(schedule, task.as_ref()));
        stop.run_until_cancelled(join(join_all(loops), self.watch_clocks()))
            .await;
    }

    /// Repairs at once when the clock of a server was set: leases, visits and limits may be waiting
    /// for the old time.
    async fn watch_clocks(&self) {
        let mut watch = ClockWatch::default();
        loop {
            match watch.look(&self.store).await {
                Ok(None) => {}
                Ok(Some(step_ms)) => {
                    tracing::warn!(
                        step_ms,
                        "the clock of a Redis server was set; what waits is looked through now"
                    );
                    if let Err(err) = repair::Repair.run_once(&self.store).await {
                        tracing::warn!(%err, "repair failed; the next occurrence makes it good");
                    }
                }
                // Other calls to the store log that it cannot be reached.
                Err(err) => tracing::debug!(%err, "the clocks of the servers were not read"),
            }
            sleep(WATCH).await;
        }
    }

    async fn repeat(&self, schedule: &Schedule, task: &dyn Task) {
        let clock = self.store.clock();
        // Occurrences up to here are over. Those that were missed, as the clock was set ahead, are
        // made good by one run.
        let mut last = clock.now();
        while let Some(occurrence) = next(schedule, last.min(clock.now())) {
            let now = clock.now();
            // After the clock was set back, the last run must not keep the task from running until
            // then.
            last = last.min(now);
            if now < occurrence {
                sleep(clock.real(occurrence.since(now)).min(LOOK)).await;
                continue;
            }
            last = now;
            match self.run_occurrence(task, occurrence).await {
                Ok(Some(count)) if count > 0 => tracing::info!(task = task.name(), count, "upkeep"),
                Ok(_) => {}
                Err(err) => {
                    tracing::warn!(task = task.name(), %err, "upkeep failed; the next occurrence makes it good");
                }
            }
        }
    }

    async fn run_occurrence(
        &self,
        task: &dyn Task,
        occurrence: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        if !self
            .store
            .claim_occurrence(task.name(), occurrence, CLAIM_KEPT)
            .await?
        {
            return Ok(None);
        }
        task.run_once(&self.store).await.map(Some)
    }
}

fn next(schedule: &Schedule, after: Timestamp) -> Option<Timestamp> {
    let after = DateTime::from_timestamp_millis(after.ms())?;
    schedule
        .after(&after)
        .next()
        .map(|at| Timestamp::from_ms(at.timestamp_millis()))
}
