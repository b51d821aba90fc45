//! The settler: one task per worker that holds its leases. It groups finished attempts and settles them together,
//! lengthens the leases of those that take long, and at the end gives back what was not finished.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use shared::clock::Timestamp;
use shared::store::claim::{Lease, LeaseKey};
use shared::store::lease::{Extended, GivenBack};
use shared::store::settle::{SettleCall, SettleReport, Settled, Settlement};
use shared::store::{BATCH_MAX, Store, StoreError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long to wait before a store that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How long it takes at most until an attempt is stopped whose address was retired or suppressed meanwhile: lengthening the
/// lease is how its worker hears of it.
const VOID_HEARD: Duration = Duration::from_secs(1);

/// How often a stopping worker tries to give back what it has. Leases lapse by themselves, so it need not wait for long.
const RELEASE_TRIES: u32 = 4;

/// What the settler is told. The worker's permits bound how much of it can wait.
pub enum Notice {
    /// Jobs were claimed, under one lease.
    Claimed(HeldLease),
    /// An attempt ended. The permit goes free when the settlement is in the store.
    Ended(Slot, Box<Settlement>, OwnedSemaphorePermit),
    /// An attempt came to nothing that could be settled: the job lapses.
    Lost(Slot),
    /// An attempt was cut off before anything happened, and sends nothing any more.
    Cut(Slot, Lease),
}

/// Which of the jobs of a lease: its number in the claim.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The lease.
    pub lease: LeaseKey,
    /// The job's number.
    pub number: usize,
}

/// A lease while it is held.
pub struct HeldLease {
    key: LeaseKey,
    /// The jobs whose attempts have not ended, by their number, and what stops each.
    open: Vec<Option<(Lease, CancellationToken)>>,
    left: usize,
    deadline: Timestamp,
    /// When the deadline was set, by this process's clock: the next one is as much later as time has passed since.
    set_at: Timestamp,
}

impl HeldLease {
    /// The lease on these jobs. A job's token is cancelled when the lease is lost for it, so that nothing more is sent.
    pub fn new(key: LeaseKey, jobs: Vec<(Lease, CancellationToken)>, deadline: Timestamp, set_at: Timestamp) -> Self {
        let left = jobs.len();
        Self { key, open: jobs.into_iter().map(Some).collect(), left, deadline, set_at }
    }

    /// Stops the attempts of these jobs, by their ids in full, and holds the lease for the others alone. Tells how many
    /// those are.
    fn let_go(&mut self, void: &[String]) -> usize {
        for slot in &mut self.open {
            if let Some((_, cut)) = slot.take_if(|(lease, _)| void.iter().any(|id| **id == *lease.job)) {
                cut.cancel();
                self.left -= 1;
            }
        }
        self.left
    }
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
    /// Shards that are worth a visit now. One that finds no room here is visited a little later.
    pub worth_a_visit: Receiver<u16>,
    /// The task.
    pub task: JoinHandle<()>,
}

struct Settler {
    store: Store,
    settings: SettlerSettings,
    held: HashMap<LeaseKey, HeldLease>,
    behind: Arc<AtomicBool>,
    worth_a_visit: Sender<u16>,
    /// Whether the last settlements fell short of the configured durability.
    short: AtomicBool,
}

/// Starts a settler.
pub fn start(store: Store, settings: SettlerSettings) -> SettlerHandle {
    let (notices, receiver) = mpsc::unbounded_channel();
    let behind = Arc::new(AtomicBool::new(false));
    let (tell, worth_a_visit) = mpsc::channel(2 * usize::from(store.shards()));
    let settler = Settler {
        store,
        settings,
        held: HashMap::new(),
        behind: behind.clone(),
        worth_a_visit: tell,
        short: AtomicBool::new(false),
    };
    SettlerHandle { notices, behind, worth_a_visit, task: tokio::spawn(settler.run(receiver)) }
}

impl Settler {
    async fn run(mut self, mut notices: UnboundedReceiver<Notice>) {
        let heartbeat = self.settings.lease.min(3 * VOID_HEARD) / 3;
        let heartbeat = self.store.clock().real(heartbeat).max(Duration::from_millis(1));
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
        let (mut settlements, mut permits, mut lost, mut void) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(notice);
        let mut deadline = None;
        while let Some(notice) = next {
            match notice {
                Notice::Claimed(held) => {
                    self.held.insert(held.key, held);
                }
                Notice::Ended(slot, settlement, permit) => {
                    self.close(slot);
                    settlements.push(*settlement);
                    permits.push(permit);
                    deadline.get_or_insert_with(|| Instant::now() + self.settings.linger);
                }
                Notice::Lost(slot) => lost.extend(self.close(slot)),
                // Where the worker stops, all that it holds is given back at the end.
                Notice::Cut(slot, lease) => void.extend((!self.holds(slot)).then_some(lease)),
            }
            next = match deadline {
                _ if settlements.len() >= BATCH_MAX => None,
                None => notices.try_recv().ok(),
                Some(deadline) => timeout_at(deadline, notices.recv()).await.unwrap_or(None),
            };
        }
        let mut by_shard: HashMap<u16, Vec<Settlement>> = HashMap::new();
        for settlement in settlements {
            by_shard.entry(settlement.lease.shard).or_default().push(settlement);
        }
        join_all(by_shard.into_values().map(|of_shard| self.settle(of_shard))).await;
        self.behind.store(false, Ordering::Relaxed);
        drop(permits);
        if !lost.is_empty()
            && let Err(err) = self.store.release(&lost, GivenBack::Crashed).await
        {
            tracing::warn!(%err, jobs = lost.len(), "jobs whose attempts came to nothing stay leased until they lapse");
        }
        // Whoever told that an address wants nothing more waits to hear that its attempt has stopped.
        if !void.is_empty()
            && let Err(err) = self.store.release(&void, GivenBack::Untried).await
        {
            tracing::warn!(%err, jobs = void.len(), "attempts that were stopped for good seem to go on until their lease lapses");
        }
    }

    /// Whether the job in this slot is still ours.
    fn holds(&self, slot: Slot) -> bool {
        let held = self.held.get(&slot.lease);
        held.and_then(|held| held.open.get(slot.number)).is_some_and(Option::is_some)
    }

    /// The attempt in this slot has ended; its lease, if it is still held.
    fn close(&mut self, slot: Slot) -> Option<Lease> {
        let held = self.held.get_mut(&slot.lease)?;
        let (lease, _) = held.open.get_mut(slot.number)?.take()?;
        held.left -= 1;
        if held.left == 0 {
            self.held.remove(&slot.lease);
        }
        Some(lease)
    }

    /// Settles attempts of one shard until the store has answered.
    async fn settle(&self, settlements: Vec<Settlement>) {
        // The same name at each try: where an answer was lost, the next one is the same.
        let call = SettleCall::unique();
        let mut asked_before = false;
        loop {
            match self.store.settle(call, &settlements).await {
                Ok(SettleReport { settled, missing, worth_a_visit }) => {
                    self.note_durability(missing);
                    for shard in worth_a_visit {
                        let _ = self.worth_a_visit.try_send(shard);
                    }
                    let stale = settled.iter().filter(|one| **one == Settled::Stale).count();
                    if stale > 0 {
                        tracing::warn!(
                            stale,
                            "leases had run out before their attempts were settled; those are repeated"
                        );
                    }
                    return;
                }
                Err(StoreError::Unavailable(why)) => {
                    if !mem::replace(&mut asked_before, true) {
                        tracing::warn!(why, waiting = settlements.len(), "attempts wait to be settled");
                    }
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

    /// Says once that settlements do not reach the configured durability, and once that they do again. Attempts are not
    /// held up for it: they were made, and to make them again would be worse.
    fn note_durability(&self, missing: Option<String>) {
        let was_short = self.short.swap(missing.is_some(), Ordering::Relaxed);
        match missing {
            Some(missing) if !was_short => {
                tracing::warn!(
                    missing,
                    "settled attempts do not reach redis.durability; a failover now could repeat them"
                );
            }
            None if was_short => tracing::info!("settled attempts reach redis.durability again"),
            _ => {}
        }
    }

    /// Lengthens the leases of attempts that are under way.
    async fn extend(&mut self) {
        let now = self.store.clock().now();
        let later = |held: &HeldLease| (held.key, held.deadline.plus(now.since(held.set_at)));
        let leases: Vec<(LeaseKey, Timestamp)> = self.held.values().map(later).collect();
        if leases.is_empty() {
            return;
        }
        let answers = self.store.extend(&leases).await;
        for ((key, deadline), extended) in leases.into_iter().zip(answers) {
            match extended {
                Extended::Yes(void) => {
                    let Some(held) = self.held.get_mut(&key) else { continue };
                    (held.deadline, held.set_at) = (deadline, now);
                    if !void.is_empty() && held.let_go(&void) == 0 {
                        self.held.remove(&key);
                    }
                }
                // It is asked for again at the next beat.
                Extended::Unknown => {}
                Extended::Lapsed => {
                    if let Some(held) = self.held.remove(&key) {
                        tracing::warn!(
                            attempts = held.left,
                            "a lease ran out while its attempts went on; they are stopped"
                        );
                        held.open.iter().flatten().for_each(|(_, cut)| cut.cancel());
                    }
                }
            }
        }
    }

    /// Gives back what was claimed and not finished.
    async fn release(self) {
        let leases: Vec<Lease> =
            self.held.into_values().flat_map(|held| held.open.into_iter().flatten()).map(|(lease, _)| lease).collect();
        if leases.is_empty() {
            return;
        }
        for left in (0..RELEASE_TRIES).rev() {
            match self.store.release(&leases, GivenBack::Untried).await {
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
