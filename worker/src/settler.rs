//! The settler: one task per worker that holds its leases. It groups finished attempts and settles
//! them together, each shard for itself, gives back jobs that were not tried, and lengthens the
//! leases of those that take long.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use domain::destination::Destination;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use store::claim::{Lease, LeaseKey};
use store::handle::Store;
use store::lease::Extended;
use store::settle::Settlement;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

mod hanging;
mod held;
mod reporter;

use crate::soon::until;
use hanging::Hanging;
pub use hanging::Patience;
use held::HeldLeases;
pub use held::{HeldJob, HeldLease, Slot};
use reporter::{PendingReports, StoreReporter};

/// How long it takes at most until an attempt is stopped whose address was retired or suppressed
/// meanwhile: lengthening the lease is how its worker hears of it.
const VOID_HEARD: Duration = Duration::from_secs(1);

/// How many notices are taken at once.
const NOTICES_AT_ONCE: usize = 1_024;

/// What the settler is told. The worker's permits bound how much of it can wait.
pub enum Notice {
    /// Jobs were claimed, under one lease.
    Claimed(HeldLease),
    /// An attempt ended. The permit goes free when the settlement is in the store, or when the
    /// store is known to be away: then nothing more is claimed of that shard, and the others need
    /// the room.
    Ended(Slot, Box<Settlement>, OwnedSemaphorePermit),
    /// An attempt came to nothing that could be settled: the job lapses.
    Lost(Slot, Lease),
    /// An attempt was cut off before anything happened, and sends nothing any more: the job is
    /// given back.
    Cut(Slot, Lease),
    /// An attempt was given up because its host had not answered since then: the job is given
    /// back.
    Unanswered(Slot, Lease, Instant),
    /// So many unproven destinations of a shard have due jobs, and this worker has no place for an
    /// attempt that may hang.
    PlacesWanted(u16, u64),
}

/// How the settler works.
#[derive(Clone, Debug)]
pub struct SettlerSettings {
    /// How long a finished attempt waits for others.
    pub linger: Duration,
    /// How long leases last.
    pub lease: Duration,
    /// How attempts that hang are dealt with.
    pub patience: Patience,
}

/// The worker's end of a settler.
pub struct SettlerHandle {
    /// Where notices go. The settler ends, with everything settled or given back, when all its
    /// senders are gone.
    pub notices: UnboundedSender<Notice>,
    /// Shards that are worth a visit now. One that finds no room here is visited a little later.
    pub worth_a_visit: Receiver<u16>,
    /// The task.
    pub task: JoinHandle<()>,
    reporter: Arc<StoreReporter>,
}

impl SettlerHandle {
    /// Whether finished attempts of a shard wait for a store that does not answer. To claim there
    /// meanwhile would let their leases lapse and repeat them.
    pub fn is_behind(&self, shard: u16) -> bool {
        self.reporter.is_behind(shard)
    }
}

/// What goes on beside the loop, so that no shard waits for another.
type UnderWay = FuturesUnordered<BoxFuture<'static, Answered>>;

/// What the store has answered.
enum Answered {
    /// It knows all that it was told of this shard.
    Reported(u16),
    /// It was asked at this time, by [`Clock::running`](domain::clock::Clock::running), to lengthen
    /// these leases of this shard.
    Extended(u16, Duration, Vec<(LeaseKey, Extended)>),
    /// These destinations of a shard are silent.
    Silent(u16, HashSet<Destination>),
}

/// One shard, as far as the store is asked about it.
#[derive(Default)]
struct Shard {
    pending: PendingReports,
    is_told: bool,
    is_extended: bool,
    is_asked_for_silence: bool,
}

struct Settler {
    reporter: Arc<StoreReporter>,
    settings: SettlerSettings,
    held: HeldLeases,
    hanging: Hanging,
    shards: Vec<Shard>,
    under_way: UnderWay,
    /// When those are told who have waited for others.
    linger_end: Option<Instant>,
}

/// Starts a settler.
pub fn start(store: Store, settings: SettlerSettings) -> SettlerHandle {
    let (notices, receiver) = mpsc::unbounded_channel();
    let (tell, worth_a_visit) = mpsc::channel(2 * usize::from(store.shards()));
    let shards = (0..store.shards()).map(|_| Shard::default()).collect();
    let reporter = Arc::new(StoreReporter::new(store, tell));
    let hanging = Hanging::new(settings.patience.clone());
    let settler = Settler {
        reporter: reporter.clone(),
        settings,
        hanging,
        held: HeldLeases::default(),
        shards,
        under_way: UnderWay::new(),
        linger_end: None,
    };
    SettlerHandle {
        notices,
        worth_a_visit,
        task: tokio::spawn(settler.run(receiver)),
        reporter,
    }
}

impl Settler {
    async fn run(mut self, mut notices: UnboundedReceiver<Notice>) {
        let heartbeat = self.settings.lease.min(3 * VOID_HEARD) / 3;
        let heartbeat = self
            .reporter
            .store
            .clock()
            .real(heartbeat)
            .max(Duration::from_millis(1));
        let mut heartbeat = interval(heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.tick().await;
        let mut looks = interval(self.hanging.period());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = Vec::new();
        loop {
            tokio::select! {
                // While some wait for others nobody need be woken for each.
                count = notices.recv_many(&mut taken, NOTICES_AT_ONCE), if self.linger_end.is_none() => {
                    if count == 0 {
                        break;
                    }
                    taken.drain(..).for_each(|notice| self.take(notice));
                }
                () = until(self.linger_end) => {
                    while let Ok(notice) = notices.try_recv() {
                        self.take(notice);
                    }
                    self.linger_end = None;
                    self.tell_all();
                }
                Some(answered) = self.under_way.next() => self.note(answered),
                _ = heartbeat.tick() => {
                    self.extend();
                    self.tell_silence();
                }
                _ = looks.tick() => self.hanging.relieve(&mut self.held),
            }
        }
        self.finish().await;
    }

    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Claimed(held) => return self.held.take(held),
            Notice::PlacesWanted(shard, destinations) => {
                return self.hanging.want(shard, destinations);
            }
            Notice::Ended(slot, settlement, permit) => {
                self.held.close(slot);
                let pending = &mut self.shards[usize::from(slot.lease.shard)].pending;
                pending.ended.push(*settlement);
                if !self.reporter.is_behind(slot.lease.shard) {
                    pending.permits.push(permit);
                }
            }
            Notice::Lost(slot, lease) => {
                self.held.close(slot);
                self.shards[usize::from(slot.lease.shard)]
                    .pending
                    .crashed
                    .push(lease);
            }
            // Also where it is held no more: who told that an address wants nothing more waits to
            // hear that its attempt has stopped.
            Notice::Cut(slot, lease) => {
                self.held.close(slot);
                self.shards[usize::from(slot.lease.shard)]
                    .pending
                    .untried
                    .push(lease);
            }
            Notice::Unanswered(slot, lease, silent_since) => {
                self.held.close(slot);
                let pending = &mut self.shards[usize::from(slot.lease.shard)].pending;
                pending.unanswered.push((lease, silent_since));
            }
        }
        self.linger_end
            .get_or_insert_with(|| Instant::now() + self.settings.linger);
    }

    /// Tells the store of all shards that it is not being told of already.
    fn tell_all(&mut self) {
        (0..)
            .zip(&mut self.shards)
            .for_each(|(shard, state)| report(&self.reporter, &self.under_way, shard, state));
    }

    fn note(&mut self, answered: Answered) {
        match answered {
            Answered::Reported(shard) => {
                let state = &mut self.shards[usize::from(shard)];
                state.is_told = false;
                // What has ended meanwhile has waited long enough; where some still wait for
                // others, all are told soon.
                if self.linger_end.is_none() {
                    report(&self.reporter, &self.under_way, shard, state);
                }
            }
            Answered::Extended(shard, asked_at, answers) => {
                self.shards[usize::from(shard)].is_extended = false;
                for (lease, extended) in &answers {
                    self.held
                        .note_extended(*lease, asked_at, self.settings.lease, extended);
                }
            }
            Answered::Silent(shard, silent) => {
                self.shards[usize::from(shard)].is_asked_for_silence = false;
                self.hanging.note_silent(shard, silent);
            }
        }
    }

    /// Lengthens the leases of attempts that are under way.
    fn extend(&mut self) {
        for (shard, state) in (0..).zip(&mut self.shards) {
            // They ended before it was known that the store is away.
            if self.reporter.is_behind(shard) {
                state.pending.permits.clear();
            }
        }
        let (asked_at, length) = (self.reporter.store.clock().running(), self.settings.lease);
        for (shard, leases) in self.held.by_shard() {
            let state = &mut self.shards[usize::from(shard)];
            if state.is_extended {
                continue;
            }
            state.is_extended = true;
            let reporter = self.reporter.clone();
            self.under_way.push(Box::pin(async move {
                let answers = reporter.extend(shard, &leases, length).await;
                Answered::Extended(shard, asked_at, leases.into_iter().zip(answers).collect())
            }));
        }
    }

    /// Tells the store where attempts wait long for an answer, so that nothing more is claimed
    /// there.
    fn tell_silence(&mut self) {
        for (shard, waiting) in self.hanging.waiting(&mut self.held) {
            let state = &mut self.shards[usize::from(shard)];
            if state.is_asked_for_silence || self.reporter.is_behind(shard) {
                continue;
            }
            state.is_asked_for_silence = true;
            let reporter = self.reporter.clone();
            self.under_way.push(Box::pin(async move {
                Answered::Silent(
                    shard,
                    reporter
                        .tell_silence(shard, waiting.into_iter().collect())
                        .await,
                )
            }));
        }
    }

    /// Lets the store know all that has ended. Nothing is held any more: each attempt has said how
    /// it ended.
    async fn finish(mut self) {
        self.tell_all();
        while let Some(answered) = self.under_way.next().await {
            self.note(answered);
        }
    }
}

/// Tells the store what it does not know of a shard, unless it is being told already: what comes
/// meanwhile goes with the next call.
fn report(reporter: &Arc<StoreReporter>, under_way: &UnderWay, shard: u16, state: &mut Shard) {
    if state.is_told || state.pending.is_empty() {
        return;
    }
    state.is_told = true;
    let (reporter, pending) = (reporter.clone(), mem::take(&mut state.pending));
    under_way.push(Box::pin(async move {
        reporter.report(shard, pending).await;
        Answered::Reported(shard)
    }));
}
