//! The settler: the task that holds a worker's leases. It settles finished attempts in groups, for
//! each shard independently of the others. It gives back jobs that were not tried, and extends the
//! leases of attempts that take long. It does not know what the policy decided.
//!
//! ```text
//!  attempt
//!     │ Notice
//!     ▼
//!  on_notice ────▶ PendingReports of its shard
//!                     │ after `linger`, or when the shard's last report has ended
//!                     ▼
//!  start_report ──▶ Stage: Idle ─▶ UnderWay    (one report per shard at a time)
//!                     │ StoreReporter::report
//!                     ▼
//!                  store: settle, then release
//!                     │ no answer: Stage is Behind, and the call is repeated
//!                     │ all calls answered: Stage is UnderWay again
//!                     ▼
//!  on_answer ◀──── StoreAnswer::Reported;  Stage: UnderWay ─▶ Idle
//! ```

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
use telemetry::spans::Tracing;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

mod hanging;
mod held;
mod reporter;
mod stage;

use crate::attempt::Ended;
use crate::soon::wait_until;
pub use hanging::HangSettings;
use hanging::Hanging;
use held::HeldLeases;
pub use held::{HeldJob, HeldLease, Slot};
use reporter::{PendingReports, StoreReporter};

/// The longest time from when an address is retired or suppressed until its running attempt is
/// stopped. The worker learns of it from the answer when it extends the lease, so leases are
/// extended at least this often.
const VOID_NOTICED_MAX: Duration = Duration::from_secs(1);

/// How many notices are read from the channel at once.
const NOTICES_AT_ONCE: usize = 1_024;

/// What the worker reports to the settler. The number of permits limits how many notices can wait.
pub enum Notice {
    /// Jobs were claimed under one lease.
    Claimed(HeldLease),
    /// An attempt ended. Its permit is freed when the settlement is in the store. If the store does
    /// not answer, it is freed at once: no jobs of that shard are claimed then, and other shards
    /// need the permits.
    Ended(Slot, Ended, OwnedSemaphorePermit),
    /// An attempt crashed or did not end in time, so there is nothing to settle. The job lapses.
    Crashed(Slot, Lease),
    /// An attempt was cancelled before anything was sent, and nothing will be sent. The job is
    /// given back.
    Untried(Slot, Lease),
    /// An attempt was given up because its host had not answered since this instant. The job is
    /// given back.
    Unanswered(Slot, Lease, Instant),
    /// This many unproven destinations of a shard have due jobs, but every place for an attempt
    /// that may hang is taken.
    PlacesWanted(u16, u64),
}

/// The settings of a settler.
#[derive(Clone, Debug)]
pub struct SettlerSettings {
    /// How long a finished attempt waits for others, so that one call settles them together.
    pub linger: Duration,
    /// How long leases last.
    pub lease: Duration,
    /// How many attempts may hang, and when an attempt counts as hanging.
    pub hanging: HangSettings,
}

/// The worker's connection to its settler.
pub struct SettlerHandle {
    /// Sends notices to the settler. When all clones of this sender are dropped, the settler
    /// settles or gives back everything and ends.
    pub notices: UnboundedSender<Notice>,
    /// Shards that are worth a visit now. A shard that does not fit into this channel is visited a
    /// little later.
    pub visit_requests: Receiver<u16>,
    /// The settler's task.
    pub task: JoinHandle<()>,
    reporter: Arc<StoreReporter>,
}

impl SettlerHandle {
    /// Whether finished attempts of a shard wait for a store that does not answer. Nothing may be
    /// claimed there meanwhile: the leases of new attempts would lapse before they are settled, and
    /// the attempts would be repeated.
    pub fn is_behind(&self, shard: u16) -> bool {
        self.reporter.is_behind(shard)
    }
}

/// The calls to the store that run concurrently, so that no shard waits for another.
type StoreCalls = FuturesUnordered<BoxFuture<'static, StoreAnswer>>;

/// The result of a call to the store.
enum StoreAnswer {
    /// The report of this shard has ended.
    Reported(u16),
    /// A call to extend these leases of this shard has ended. It was made at this time, a value of
    /// [`Clock::monotonic`](domain::clock::Clock::monotonic).
    Extended(u16, Duration, Vec<(LeaseKey, Extended)>),
    /// These destinations of a shard are silent.
    Silent(u16, HashSet<Destination>),
}

/// The state of one shard: what is not reported yet, and which calls are under way.
#[derive(Default)]
struct Shard {
    /// What has not been reported to the store yet.
    pending: PendingReports,
    /// Whether a call that extends the leases is under way.
    is_extending: bool,
    /// Whether a call that looks for silent destinations is under way.
    is_looking_for_silence: bool,
}

struct Settler {
    reporter: Arc<StoreReporter>,
    settings: SettlerSettings,
    held: HeldLeases,
    hanging: Hanging,
    shards: Vec<Shard>,
    calls: StoreCalls,
    /// When the finished attempts that wait for others are reported.
    linger_end: Option<Instant>,
}

/// Starts a settler for all shards of a store.
pub fn start(store: Store, settings: SettlerSettings, tracing: Tracing) -> SettlerHandle {
    let (notices, receiver) = mpsc::unbounded_channel();
    let (visit_sender, visit_requests) = mpsc::channel(2 * usize::from(store.shards()));
    let shards = (0..store.shards()).map(|_| Shard::default()).collect();
    let reporter = Arc::new(StoreReporter::new(store, visit_sender, tracing));
    let hanging = Hanging::new(settings.hanging.clone());
    let settler = Settler {
        reporter: reporter.clone(),
        settings,
        hanging,
        held: HeldLeases::default(),
        shards,
        calls: StoreCalls::new(),
        linger_end: None,
    };
    SettlerHandle {
        notices,
        visit_requests,
        task: tokio::spawn(settler.run(receiver)),
        reporter,
    }
}

impl Settler {
    async fn run(mut self, mut notices: UnboundedReceiver<Notice>) {
        let extend_period = self.settings.lease.min(3 * VOID_NOTICED_MAX) / 3;
        let extend_period = self
            .reporter
            .store
            .clock()
            .real_duration(extend_period)
            .max(Duration::from_millis(1));
        let mut extend_ticks = interval(extend_period);
        extend_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        extend_ticks.tick().await;
        let mut hang_checks = interval(self.hanging.check_period());
        hang_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                // While finished attempts wait for others, notices stay in the channel. So this
                // task is not woken for each notice.
                count = notices.recv_many(&mut batch, NOTICES_AT_ONCE),
                    if self.linger_end.is_none() =>
                {
                    if count == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|notice| self.on_notice(notice));
                }
                () = wait_until(self.linger_end) => {
                    while let Ok(notice) = notices.try_recv() {
                        self.on_notice(notice);
                    }
                    self.linger_end = None;
                    self.report_all();
                }
                Some(answer) = self.calls.next() => self.on_answer(answer),
                _ = extend_ticks.tick() => {
                    self.extend_leases();
                    self.report_silence();
                }
                _ = hang_checks.tick() => self.hanging.assign_or_give_up(&mut self.held),
            }
        }
        self.finish().await;
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Claimed(held) => return self.held.insert(held),
            Notice::PlacesWanted(shard, destinations) => {
                return self.hanging.note_places_wanted(shard, destinations);
            }
            Notice::Ended(slot, ended, permit) => {
                self.held.remove(slot);
                let pending = &mut self.shards[usize::from(slot.lease.shard)].pending;
                let place = pending.ended.len();
                pending.spans.extend(ended.span.map(|span| (place, span)));
                pending.ended.push(*ended.settlement);
                if !self.reporter.is_behind(slot.lease.shard) {
                    pending.permits.push(permit);
                }
            }
            Notice::Crashed(slot, lease) => {
                self.held.remove(slot);
                self.shards[usize::from(slot.lease.shard)]
                    .pending
                    .crashed
                    .push(lease);
            }
            // Reported to the store even if the lease is no longer held. The job may have ended
            // during its attempt, for example by a complaint. The request with the complaint then
            // waits to learn that sending has stopped.
            Notice::Untried(slot, lease) => {
                self.held.remove(slot);
                self.shards[usize::from(slot.lease.shard)]
                    .pending
                    .untried
                    .push(lease);
            }
            Notice::Unanswered(slot, lease, silent_since) => {
                self.held.remove(slot);
                let pending = &mut self.shards[usize::from(slot.lease.shard)].pending;
                pending.unanswered.push((lease, silent_since));
            }
        }
        self.linger_end
            .get_or_insert_with(|| Instant::now() + self.settings.linger);
    }

    /// Starts a report for every shard that has something pending and no report under way.
    fn report_all(&mut self) {
        (0..)
            .zip(&mut self.shards)
            .for_each(|(shard, state)| start_report(&self.reporter, &self.calls, shard, state));
    }

    fn on_answer(&mut self, answer: StoreAnswer) {
        match answer {
            StoreAnswer::Reported(shard) => {
                let state = &mut self.shards[usize::from(shard)];
                self.reporter.stages.end(shard);
                // Attempts that ended during that report have waited long enough, so they are
                // reported at once. If a linger time is running, they are reported at its end,
                // which is soon.
                if self.linger_end.is_none() {
                    start_report(&self.reporter, &self.calls, shard, state);
                }
            }
            StoreAnswer::Extended(shard, asked_at, answers) => {
                self.shards[usize::from(shard)].is_extending = false;
                for (lease, extended) in &answers {
                    self.held
                        .note_extended(*lease, asked_at, self.settings.lease, extended);
                }
            }
            StoreAnswer::Silent(shard, silent) => {
                self.shards[usize::from(shard)].is_looking_for_silence = false;
                self.hanging.note_silent(shard, silent);
            }
        }
    }

    /// Starts a call per shard that extends the leases of attempts that are under way.
    fn extend_leases(&mut self) {
        for (shard, state) in (0..).zip(&mut self.shards) {
            // These attempts ended when it was not yet known that the store does not answer. So
            // their permits were kept, and are freed now.
            if self.reporter.is_behind(shard) {
                state.pending.permits.clear();
            }
        }
        let asked_at = self.reporter.store.clock().monotonic();
        let length = self.settings.lease;
        for (shard, leases) in self.held.by_shard() {
            let state = &mut self.shards[usize::from(shard)];
            if state.is_extending {
                continue;
            }
            state.is_extending = true;
            let reporter = self.reporter.clone();
            self.calls.push(Box::pin(async move {
                let answers = reporter.extend(shard, &leases, length).await;
                let answers = leases.into_iter().zip(answers).collect();
                StoreAnswer::Extended(shard, asked_at, answers)
            }));
        }
    }

    /// Reports to the store at which destinations attempts have waited long for an answer, so that
    /// nothing more is claimed at those that are silent.
    fn report_silence(&mut self) {
        for (shard, waiting) in self.hanging.waiting_long(&mut self.held) {
            let state = &mut self.shards[usize::from(shard)];
            if state.is_looking_for_silence || self.reporter.is_behind(shard) {
                continue;
            }
            state.is_looking_for_silence = true;
            let reporter = self.reporter.clone();
            let waiting = waiting.into_iter().collect();
            self.calls.push(Box::pin(async move {
                StoreAnswer::Silent(shard, reporter.report_silence(shard, waiting).await)
            }));
        }
    }

    /// Reports all that is pending, and returns when the store has answered. No lease is held any
    /// more, because every attempt has reported how it ended.
    async fn finish(mut self) {
        self.report_all();
        while let Some(answer) = self.calls.next().await {
            self.on_answer(answer);
        }
    }
}

/// Starts a report of everything that is pending for a shard. Does nothing if another report of the
/// shard is under way. What is pending is then reported when that report has ended.
fn start_report(reporter: &Arc<StoreReporter>, calls: &StoreCalls, shard: u16, state: &mut Shard) {
    if state.pending.is_empty() || !reporter.stages.begin(shard) {
        return;
    }
    let reporter = reporter.clone();
    let pending = mem::take(&mut state.pending);
    calls.push(Box::pin(async move {
        reporter.report(shard, pending).await;
        StoreAnswer::Reported(shard)
    }));
}
