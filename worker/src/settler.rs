//! The settler: one task per worker that holds its leases. It groups finished attempts and settles them together,
//! lengthens the leases of those that take long, and at the end gives back what was not finished. Because one task does
//! all three in turn, a lease is never lengthened and settled at the same time, and its token is always the right one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use shared::clock::Timestamp;
use shared::store::claim::Lease;
use shared::store::lease::Extended;
use shared::store::settle::{Settled, Settlement};
use shared::store::{BATCH_MAX, Store, StoreError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long to wait before a store that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How often a stopping worker tries to give back what it has. Leases lapse by themselves, so it need not wait for long.
const RELEASE_TRIES: u32 = 4;

/// What names one lease as long as it lasts: the job, and the deadline that the claim set.
pub type LeaseId = (String, Timestamp);

/// What the settler is told. The worker's permits bound how much of it can wait.
pub enum Notice {
    /// A job was claimed. The token is cancelled when its lease is lost, so that nothing more is sent.
    Claimed(Lease, CancellationToken),
    /// Its attempt ended. The permit goes free when the settlement is in the store.
    Ended(Box<Settlement>, OwnedSemaphorePermit),
    /// Its attempt came to nothing that could be settled: the lease is left to lapse.
    Lost(LeaseId),
}

/// How the settler works.
#[derive(Clone, Copy, Debug)]
pub struct SettlerSettings {
    /// How long a finished attempt waits for others.
    pub linger: Duration,
    /// How long leases last.
    pub lease: Duration,
}

/// The worker's end of a settler.
pub struct SettlerHandle {
    /// Where notices go. The settler ends, with everything settled or given back, when all its senders are gone.
    pub notices: UnboundedSender<Notice>,
    /// Whether finished attempts wait for a store that does not answer. To claim meanwhile would let their leases lapse
    /// and repeat them.
    pub behind: Arc<AtomicBool>,
    /// The task.
    pub task: JoinHandle<()>,
}

struct Held {
    lease: Lease,
    /// When its deadline was set, by this process's clock: the next one is as much later as time has passed since.
    set_at: Timestamp,
    /// When the deadline was asked for that was not heard back of.
    proposed_at: Timestamp,
    lost: CancellationToken,
}

struct Settler {
    store: Store,
    settings: SettlerSettings,
    held: HashMap<LeaseId, Held>,
    behind: Arc<AtomicBool>,
}

/// The id of a lease.
pub fn lease_id(lease: &Lease) -> LeaseId {
    (lease.job.key(), lease.claimed)
}

/// Starts a settler.
pub fn start(store: Store, settings: SettlerSettings) -> SettlerHandle {
    let (notices, receiver) = mpsc::unbounded_channel();
    let behind = Arc::new(AtomicBool::new(false));
    let settler = Settler { store, settings, held: HashMap::new(), behind: behind.clone() };
    SettlerHandle { notices, behind, task: tokio::spawn(settler.run(receiver)) }
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
                Notice::Claimed(lease, lost) => {
                    let now = self.store.clock().now();
                    let held = Held { set_at: now, proposed_at: now, lost, lease };
                    self.held.insert(lease_id(&held.lease), held);
                }
                Notice::Ended(mut settlement, permit) => {
                    // Without an entry the lease was lost, and the store will find its token stale.
                    if let Some(held) = self.held.remove(&lease_id(&settlement.lease)) {
                        settlement.lease = held.lease;
                    }
                    settlements.push(*settlement);
                    permits.push(permit);
                    deadline.get_or_insert_with(|| Instant::now() + self.settings.linger);
                }
                Notice::Lost(id) => {
                    self.held.remove(&id);
                }
            }
            next = match deadline {
                _ if settlements.len() >= BATCH_MAX => None,
                None => notices.try_recv().ok(),
                Some(deadline) => timeout_at(deadline, notices.recv()).await.unwrap_or(None),
            };
        }
        let mut by_shard: HashMap<u16, Vec<Settlement>> = HashMap::new();
        for settlement in settlements {
            by_shard.entry(settlement.lease.destination.shard(self.store.shards())).or_default().push(settlement);
        }
        join_all(by_shard.into_values().map(|of_shard| self.settle(of_shard))).await;
        self.behind.store(false, Ordering::Relaxed);
        drop(permits);
    }

    /// Settles attempts of one shard until the store has answered.
    async fn settle(&self, settlements: Vec<Settlement>) {
        let mut asked_before = false;
        loop {
            match self.store.settle(&settlements).await {
                Ok(settled) => {
                    let stale = settled.iter().filter(|one| **one == Settled::Stale).count();
                    // A repeated question finds stale what the first one settled before its answer was lost.
                    if stale > 0 && !asked_before {
                        tracing::warn!(
                            stale,
                            "leases had run out before their attempts were settled; those are repeated"
                        );
                    }
                    return;
                }
                Err(StoreError::Unavailable(why)) => {
                    if !asked_before {
                        tracing::warn!(why, waiting = settlements.len(), "attempts wait to be settled");
                    }
                    asked_before = true;
                    self.behind.store(true, Ordering::Relaxed);
                    sleep(RETRY_PAUSE).await;
                }
                // One that cannot be settled must not take the others with it.
                Err(_) if settlements.len() > 1 => {
                    for settlement in settlements {
                        Box::pin(self.settle(vec![settlement])).await;
                    }
                    return;
                }
                Err(err) => {
                    tracing::error!(%err, "an attempt could not be settled; it is repeated when its lease has run out");
                    return;
                }
            }
        }
    }

    /// Lengthens the leases of attempts that are under way.
    async fn extend(&mut self) {
        // A deadline that was asked for in an outage may be about to pass: once it is in force, the next one follows.
        if self.extend_once().await {
            self.extend_once().await;
        }
    }

    /// Asks for later deadlines. Tells whether some of those in force now were first asked for before.
    async fn extend_once(&mut self) -> bool {
        let now = self.store.clock().now();
        let mut asked = Vec::with_capacity(self.held.len());
        let mut leases = Vec::with_capacity(self.held.len());
        for (id, Held { lease, set_at, proposed_at, .. }) in &self.held {
            // What was asked for and not heard back of is asked for again.
            let (deadline, asked_at) = match lease.proposed {
                Some(proposed) => (proposed, *proposed_at),
                None => (lease.token.plus(now.since(*set_at)), now),
            };
            asked.push((id.clone(), asked_at));
            leases.push((lease.clone(), deadline));
        }
        if leases.is_empty() {
            return false;
        }
        let answers = self.store.extend(&leases).await;
        let mut some_are_old = false;
        for (((id, asked_at), (_, deadline)), extended) in asked.into_iter().zip(leases).zip(answers) {
            let Some(held) = self.held.get_mut(&id) else { continue };
            match extended {
                Extended::Yes => {
                    (held.lease.token, held.lease.proposed) = (deadline, None);
                    held.set_at = asked_at;
                    some_are_old |= asked_at < now;
                }
                Extended::Unknown => (held.lease.proposed, held.proposed_at) = (Some(deadline), asked_at),
                Extended::Stale => {
                    let destination = &held.lease.destination;
                    tracing::warn!(%destination, "a lease ran out while its attempt went on; the attempt is stopped");
                    held.lost.cancel();
                    self.held.remove(&id);
                }
            }
        }
        some_are_old
    }

    /// Gives back what was claimed and not finished.
    async fn release(self) {
        let leases: Vec<Lease> = self.held.into_values().map(|held| held.lease).collect();
        if leases.is_empty() {
            return;
        }
        for left in (0..RELEASE_TRIES).rev() {
            match self.store.release(&leases).await {
                Ok(released) => {
                    tracing::info!(released, "gave back jobs that were not finished");
                    return;
                }
                // What was given back before the answer was lost has a stale token by now, and stays as it is.
                Err(StoreError::Unavailable(_)) if left > 0 => sleep(RETRY_PAUSE).await,
                Err(err) => {
                    tracing::warn!(%err, jobs = leases.len(), "jobs could not be given back; their leases will lapse");
                    return;
                }
            }
        }
    }
}
