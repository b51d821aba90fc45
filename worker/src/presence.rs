//! A worker's place in the fleet: it says that it is alive, hears who else is, and tells the loop
//! which shards are its own. When it hears nothing, what it heard last goes on to hold.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use store::handle::Store;
use store::workers::WorkerId;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::rendezvous::{Turn, round};

/// After how many heartbeats a silent worker counts as dead.
const SILENT_BEATS: u32 = 3;

/// How long a stopping worker tries to say so. The others find out by themselves.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// The worker's end. The heart stops when it is dropped.
pub struct Presence {
    round: watch::Receiver<Arc<[Turn]>>,
    heart: AbortOnDropHandle<()>,
}

impl Presence {
    /// Starts to say so until `stop` is cancelled. At first the worker takes itself to be alone.
    pub fn start(store: Store, heartbeat: Duration, stop: CancellationToken) -> Self {
        let me = WorkerId::unique();
        let (tell, round) = watch::channel(round(me, &[], store.shards()).into());
        tracing::info!(worker = %me, "this worker's id until it stops");
        Self {
            round,
            heart: AbortOnDropHandle::new(tokio::spawn(live(store, me, heartbeat, stop, tell))),
        }
    }

    /// The shards in the order of visits.
    pub fn round(&self) -> Arc<[Turn]> {
        self.round.borrow().clone()
    }

    /// Waits until the round is another, and tells it.
    pub async fn changed(&mut self) -> Arc<[Turn]> {
        if self.round.changed().await.is_err() {
            // Nobody is there to tell it any more.
            pending::<()>().await;
        }
        self.round.borrow_and_update().clone()
    }

    /// Waits until the others have been told that this worker stops, but not for long.
    pub async fn left(self) {
        let _ = timeout(LEAVE_MAX, self.heart).await;
    }
}

async fn live(
    store: Store,
    me: WorkerId,
    heartbeat: Duration,
    stop: CancellationToken,
    tell: watch::Sender<Arc<[Turn]>>,
) {
    let mut beats = interval(heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(beats.tick()).await.is_some() {
        match store.beat(me, SILENT_BEATS * heartbeat).await {
            Ok(workers) => {
                let turns: Arc<[Turn]> = round(me, &workers, store.shards()).into();
                let own = turns.iter().filter(|turn| turn.own).count();
                if tell.send_if_modified(|told| {
                    *told != turns && {
                        *told = turns;
                        true
                    }
                }) {
                    tracing::debug!(worker = %me, workers = workers.len(), own, "looks after other shards than before");
                }
            }
            // The loop says so where the store is away.
            Err(err) => tracing::debug!(worker = %me, %err, "a heartbeat was not heard"),
        }
    }
    if let Err(err) = store.leave(me).await {
        tracing::debug!(worker = %me, %err, "stops without saying so");
    }
}
