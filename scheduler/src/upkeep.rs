//! Upkeep: periodic tasks, each with a cron expression. It needs no leader: every replica runs the
//! same loop, and one replica claims each occurrence of each task. A task needs no input but the
//! clock and is idempotent, so the next run makes up for one that was missed or interrupted.

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
/// again after each wait.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// One periodic task.
#[async_trait]
pub trait Task: std::fmt::Debug + Send + Sync {
    /// Returns its name, which is also its key in `[upkeep]`.
    fn name(&self) -> &'static str;

    /// Runs once. Returns how many things it changed or removed.
    async fn run_once(&self, store: &Store) -> Result<u64, StoreError>;
}

/// All tasks with their schedules.
#[derive(Debug)]
pub struct Upkeep {
    store: Store,
    tasks: Vec<(Schedule, Box<dyn Task>)>,
}

impl Upkeep {
    /// The tasks on their configured schedules.
    ///
    /// # Errors
    /// If a cron expression cannot be read. The text names the key.
    pub fn from_config(store: Store, config: &Config) -> Result<Self, String> {
        let tasks: [(&str, Box<dyn Task>); 5] = [
            (&config.upkeep.reinstate, Box::new(reinstate::Reinstate)),
            (
                &config.upkeep.trim_journal,
                Box::new(trim_journal::TrimJournal {
                    keep: config.journal.keep,
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
        let tasks = tasks
            .into_iter()
            .map(|(expression, task)| match Schedule::from_str(expression) {
                Ok(schedule) => Ok((schedule, task)),
                Err(err) => Err(format!(
                    "upkeep.{}: \"{expression}\" is not a cron expression \
                     (second minute hour day month weekday): {err}",
                    task.name()
                )),
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { store, tasks })
    }

    /// Applies the configured limits to the store. Then runs each task at each of its occurrences
    /// that this replica claims, until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        if let Some(Err(err)) = stop.run_until_cancelled(self.store.limit()).await {
            tracing::warn!(
                %err,
                "changed [[destination]] rules are not in force yet; the next repair applies them"
            );
        }
        let loops = self
            .tasks
            .iter()
            .map(|(schedule, task)| self.repeat(schedule, task.as_ref()));
        stop.run_until_cancelled(join(join_all(loops), self.watch_clocks()))
            .await;
    }

    /// Runs the repair at once when the clock of a server was set. Leases, visits and limits may be
    /// waiting for instants of the old time.
    async fn watch_clocks(&self) {
        let mut watch = ClockWatch::default();
        loop {
            match watch.find_step(&self.store).await {
                Ok(None) => {}
                Ok(Some(step_ms)) => {
                    tracing::warn!(
                        step_ms,
                        "the clock of a Redis server was set; the repair runs now"
                    );
                    if let Err(err) = repair::Repair.run_once(&self.store).await {
                        tracing::warn!(%err, "repair failed; the next occurrence makes up for it");
                    }
                }
                // If the store cannot be reached, other calls to it log that.
                Err(err) => tracing::debug!(%err, "the clocks of the servers could not be read"),
            }
            sleep(WATCH).await;
        }
    }

    async fn repeat(&self, schedule: &Schedule, task: &dyn Task) {
        let clock = self.store.clock();
        // Occurrences up to here are done. If the clock is set ahead, one run makes up for all the
        // occurrences that were missed.
        let mut last = clock.now();
        while let Some(occurrence) = next(schedule, last.min(clock.now())) {
            let now = clock.now();
            // If the clock was set back, the task must not wait until the time of its last run.
            last = last.min(now);
            if now < occurrence {
                sleep(clock.real_duration(occurrence.since(now)).min(WAIT_MAX)).await;
                continue;
            }
            last = now;
            match self.run_occurrence(task, occurrence).await {
                Ok(Some(count)) if count > 0 => tracing::info!(task = task.name(), count, "upkeep"),
                Ok(_) => {}
                Err(err) => {
                    tracing::warn!(
                        task = task.name(),
                        %err,
                        "upkeep failed; the next occurrence makes up for it"
                    );
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
        let result = task.run_once(&self.store).await;
        self.store.metrics().upkeep(task.name(), result.is_ok());
        result.map(Some)
    }
}

fn next(schedule: &Schedule, after: Timestamp) -> Option<Timestamp> {
    let after = DateTime::from_timestamp_millis(after.ms())?;
    schedule
        .after(&after)
        .next()
        .map(|at| Timestamp::from_ms(at.timestamp_millis()))
}
