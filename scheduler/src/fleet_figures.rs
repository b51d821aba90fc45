//! The figures of the whole fleet, for metrics. In each interval one replica reads them from Redis
//! and keeps them there for the others, so all report the same. A scrape reads nothing.

use std::time::Duration;

use domain::clock::Timestamp;
use store::error::StoreError;
use store::handle::Store;
use telemetry::metrics::fleet::FleetReading;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often the figures are read, at most.
const INTERVAL: Duration = Duration::from_secs(15);

/// How often a replica looks whether there are new figures, or whether it is to read them.
const LOOK: Duration = Duration::from_secs(5);

/// Reading takes at most this share of the time: with very many destinations the interval grows.
const TIMES_LONGER: u32 = 4;

/// After how many intervals figures are too old to be reported.
const INTERVALS_MAX: u32 = 4;

/// The name under which an interval is claimed.
const TASK: &str = "fleet_figures";

/// Keeps the figures of the fleet in the metrics of this process.
#[derive(Debug)]
pub struct FleetFigures {
    store: Store,
    /// How long a live worker may send no heartbeat.
    silent_max: Duration,
    /// How long the current interval is.
    interval: Duration,
    /// Until when the figures that are reported are good.
    good_until: Instant,
}

impl FleetFigures {
    /// Returns what reads the figures. `silent_max` is how long a live worker may send no
    /// heartbeat.
    pub fn new(store: Store, silent_max: Duration) -> Self {
        Self {
            store,
            silent_max,
            interval: INTERVAL,
            good_until: Instant::now(),
        }
    }

    /// Looks for new figures until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let looks = async {
            loop {
                if let Err(err) = self.look().await {
                    // Other calls to the store log that it does not answer.
                    tracing::debug!(%err, "the figures of the fleet could not be read");
                }
                if Instant::now() > self.good_until {
                    self.store.metrics().fleet(None);
                }
                sleep(LOOK).await;
            }
        };
        stop.run_until_cancelled(looks).await;
    }

    /// Reads the figures if no replica has read them in this interval. Otherwise takes those that
    /// are kept.
    async fn look(&mut self) -> Result<(), StoreError> {
        // The claim ends by itself when the interval is over, so its instant does not matter.
        let is_mine = self
            .store
            .claim_occurrence(TASK, Timestamp::default(), self.interval)
            .await?;
        if !is_mine {
            if let Some(kept) = self.store.kept_fleet().await? {
                self.report(&kept);
            }
            return Ok(());
        }
        let reading = self.store.read_fleet(self.silent_max).await?;
        self.report(&reading);
        let keep = INTERVALS_MAX * self.interval;
        self.store.keep_fleet(&reading, keep).await
    }

    fn report(&mut self, reading: &FleetReading) {
        let took = Duration::from_millis(reading.took_ms);
        self.interval = INTERVAL.max(TIMES_LONGER * took);
        self.good_until = Instant::now() + INTERVALS_MAX * self.interval;
        self.store.metrics().fleet(Some(reading));
    }
}
