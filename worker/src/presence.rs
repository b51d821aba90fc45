//! A worker's membership of the fleet. It sends heartbeats, reads which other workers are alive,
//! and reports to the worker's loop which shards this worker owns. While the store does not answer,
//! this worker uses the fleet that it read last.

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

/// After how many missing heartbeats a worker counts as dead.
const MISSED_BEATS_MAX: u32 = 3;

/// How long a stopping worker tries to sign off. If it cannot, the others notice its missing
/// heartbeats.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// The membership of one worker. Dropping it stops the heartbeats.
pub struct Presence {
    round: watch::Receiver<Arc<[Turn]>>,
    heartbeats: AbortOnDropHandle<()>,
}

impl Presence {
    /// Starts the heartbeats, which continue until `stop` is cancelled. At first the worker assumes
    /// that it is alone.
    pub fn start(store: Store, heartbeat: Duration, stop: CancellationToken) -> Self {
        let me = WorkerId::unique();
        let (sender, receiver) = watch::channel(round(me, &[], store.shards()).into());
        tracing::info!(worker = %me, "this worker has this id until it stops");
        Self {
            round: receiver,
            heartbeats: AbortOnDropHandle::new(tokio::spawn(beat_until_stopped(
                store, me, heartbeat, stop, sender,
            ))),
        }
    }

    /// Returns the shards in the order of visits.
    pub fn round(&self) -> Arc<[Turn]> {
        self.round.borrow().clone()
    }

    /// Waits until the round changes, and returns the new one.
    pub async fn changed(&mut self) -> Arc<[Turn]> {
        if self.round.changed().await.is_err() {
            // The task that reports changes has ended.
            pending::<()>().await;
        }
        self.round.borrow_and_update().clone()
    }

    /// Waits until this worker has signed off, but at most for a second.
    pub async fn wait_until_left(self) {
        let _ = timeout(LEAVE_MAX, self.heartbeats).await;
    }
}

async fn beat_until_stopped(
    store: Store,
    me: WorkerId,
    heartbeat: Duration,
    stop: CancellationToken,
    sender: watch::Sender<Arc<[Turn]>>,
) {
    let mut beats = interval(heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(beats.tick()).await.is_some() {
        match store.heartbeat(me, MISSED_BEATS_MAX * heartbeat).await {
            Ok(workers) => {
                let turns: Arc<[Turn]> = round(me, &workers, store.shards()).into();
                let own = turns.iter().filter(|turn| turn.is_own).count();
                if sender.send_if_modified(|current| {
                    *current != turns && {
                        *current = turns;
                        true
                    }
                }) {
                    tracing::debug!(
                        worker = %me,
                        workers = workers.len(),
                        own,
                        "this worker's shards have changed"
                    );
                }
            }
            // This is only a debug message: the worker's loop warns if the store does not answer.
            Err(err) => tracing::debug!(worker = %me, %err, "a heartbeat did not reach the store"),
        }
    }
    if let Err(err) = store.leave(me).await {
        tracing::debug!(worker = %me, %err, "this worker stopped without signing off");
    }
}
