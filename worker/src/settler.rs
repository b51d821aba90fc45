//! The settler: one task per worker that holds its leases. It groups finished attempts and settles them together,
//! lengthens the leases of those that take long, and at the end gives back what was not finished. Because one task does
//! all three in turn, a lease is never lengthened and settled at the same time, and its token is always the right one.

use std::collections::HashMap;
use std::time::Duration;

use shared::store::claim::Lease;
use shared::store::settle::{Settled, Settlement};
use shared::store::{BATCH_MAX, Store, StoreError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

/// How long to wait before a store that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What the settler is told. The worker's permits bound how much of it can wait.
pub enum Notice {
    /// A job was claimed.
    Claimed(Lease),
    /// Its attempt ended. The permit goes free when the settlement is in the store.
    Ended(Box<Settlement>, OwnedSemaphorePermit),
}

/// How the settler works.
#[derive(Clone, Copy, Debug)]
pub struct SettlerSettings {
    /// How long a finished attempt waits for others.
    pub linger: Duration,
    /// How long leases last.
    pub lease: Duration,
}

struct Settler {
    store: Store,
    settings: SettlerSettings,
    leases: HashMap<String, Lease>,
}

/// Starts a settler. It ends, with everything settled or given back, when all senders are gone.
pub fn start(store: Store, settings: SettlerSettings) -> (UnboundedSender<Notice>, JoinHandle<()>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let settler = Settler { store, settings, leases: HashMap::new() };
    (sender, tokio::spawn(settler.run(receiver)))
}

impl Settler {
    async fn run(mut self, mut notices: UnboundedReceiver<Notice>) {
        let heartbeat = self.store.clock().real(self.settings.lease / 3).max(Duration::from_millis(1));
        let mut heartbeat = interval(heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.tick().await;
        loop {
            tokio::select! {
                notice = notices.recv() => match notice {
                    Some(notice) => self.take_and_settle(notice, &mut notices).await,
                    None => break,
                },
                _ = heartbeat.tick() => self.extend().await,
            }
        }
        self.release().await;
    }

    /// Takes a notice and those that follow within the linger, and settles what has ended.
    async fn take_and_settle(&mut self, notice: Notice, notices: &mut UnboundedReceiver<Notice>) {
        let mut settlements = Vec::new();
        let mut permits = Vec::new();
        let mut next = Some(notice);
        let mut deadline = None;
        while let Some(notice) = next {
            match notice {
                Notice::Claimed(lease) => {
                    self.leases.insert(lease.job.key(), lease);
                }
                Notice::Ended(mut settlement, permit) => {
                    if let Some(lease) = self.leases.remove(&settlement.lease.job.key()) {
                        settlement.lease.token = lease.token;
                    }
                    settlements.push(*settlement);
                    permits.push(permit);
                    deadline.get_or_insert_with(|| Instant::now() + self.settings.linger);
                }
            }
            next = match deadline {
                _ if settlements.len() >= BATCH_MAX => None,
                None => notices.try_recv().ok(),
                Some(deadline) => timeout_at(deadline, notices.recv()).await.unwrap_or(None),
            };
        }
        if !settlements.is_empty() {
            self.settle(&settlements).await;
        }
        drop(permits);
    }

    /// Settles until the store has answered. A repeated settle changes nothing twice.
    async fn settle(&self, settlements: &[Settlement]) {
        loop {
            match self.store.settle(settlements).await {
                Ok(settled) => {
                    let stale = settled.iter().filter(|one| **one == Settled::Stale).count();
                    if stale > 0 {
                        tracing::warn!(
                            stale,
                            "leases had run out before their attempts were settled; they will be repeated"
                        );
                    }
                    return;
                }
                Err(StoreError::Unavailable(why)) => {
                    tracing::warn!(why, waiting = settlements.len(), "attempts wait to be settled");
                    sleep(RETRY_PAUSE).await;
                }
                Err(err) => {
                    tracing::error!(%err, lost = settlements.len(), "attempts could not be settled; their leases will lapse");
                    return;
                }
            }
        }
    }

    async fn extend(&mut self) {
        let leases: Vec<Lease> = self.leases.values().cloned().collect();
        if leases.is_empty() {
            return;
        }
        match self.store.extend(&leases, self.settings.lease).await {
            Ok(tokens) => {
                for (lease, token) in leases.iter().zip(tokens) {
                    let key = lease.job.key();
                    match token {
                        Some(token) => {
                            self.leases.entry(key).and_modify(|lease| lease.token = token);
                        }
                        None => {
                            tracing::warn!(destination = %lease.destination, "a lease ran out while its attempt went on");
                            self.leases.remove(&key);
                        }
                    }
                }
            }
            Err(err) => tracing::warn!(%err, leases = leases.len(), "leases could not be lengthened"),
        }
    }

    /// Gives back what was claimed and not finished.
    async fn release(self) {
        let leases: Vec<Lease> = self.leases.into_values().collect();
        if leases.is_empty() {
            return;
        }
        match self.store.release(&leases).await {
            Ok(released) => tracing::info!(released, "gave back jobs that were not finished"),
            Err(err) => {
                tracing::warn!(%err, jobs = leases.len(), "jobs could not be given back; their leases will lapse");
            }
        }
    }
}
