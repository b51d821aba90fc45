//! The worker's loop. It takes free permits, visits a shard to claim as many due jobs as it has
//! permits, and starts a task for each attempt. Then it sleeps until the next visit of a shard is
//! due. Several shards are visited at once.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::clock::Timestamp;
use futures::FutureExt;
use policy::table::Table;
use senders::contact::Contact;
use senders::lease_end::LeaseEnd;
use store::claim::{ClaimBounds, Claimed, LeasedJob};
use store::error::StoreError;
use store::handle::Store;
use store::peers::Announcement;
use system::limiter::admit_outage;
use telemetry::spans::Tracing;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt::Attempter;
use crate::content::Contents;
use crate::presence::Presence;
use crate::rendezvous::Turn;
use crate::route_gates::RouteGates;
use crate::routes::Routes;
use crate::settler::{
    self, HangSettings, HeldJob, HeldLease, Notice, SettlerHandle, SettlerSettings, Slot,
};
use crate::soon::wait_until;
use crate::visits::Visits;

/// How long to wait before the next call to a store that did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How many shards are visited at once. While the loop waits for Redis to answer for one shard, it
/// starts the attempts of another. Each visit uses a connection.
const VISITS_MAX: usize = 4;

/// How many times longer an idle worker waits between visits of shards that it does not own.
const OTHERS_POLL_FACTOR: u32 = 4;

/// How many heartbeats come between two comparisons of the policy with that of the fleet.
const BEATS_PER_ANNOUNCEMENT: u32 = 12;

/// How long the last settlements may take when the worker stops.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The patience of a worker whose store does not use the machine's clock: no attempt counts as
/// hanging.
const NEVER_HANGING: Duration = Duration::from_secs(366 * 86_400);

/// How long a cancelled attempt may take to return which messages got through.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// One worker. Any number of workers, in any number of processes, share one store.
pub struct Worker {
    store: Store,
    attempter: Attempter,
    gates: RouteGates,
    /// The fingerprint of its policy.
    policy: String,
    settings: config::model::Worker,
    tracing: Tracing,
}

/// The state of the loop.
struct Loop {
    store: Store,
    attempter: Arc<Attempter>,
    settings: config::model::Worker,
    tracing: Tracing,
    permits: Arc<Semaphore>,
    /// The places for attempts that may hang. There are fewer places than permits.
    places: Arc<Semaphore>,
    /// Shards with unproven destinations whose due jobs wait for a place.
    waiting_for_places: HashSet<u16>,
    settler: SettlerHandle,
    attempts: TaskTracker,
    cancel: CancellationToken,
    presence: Presence,
    visits: Visits,
    /// Visits that have begun. Each is a task, so that reading records does not delay the loop.
    under_way: JoinSet<Visit>,
}

/// A visit that has ended.
struct Visit {
    turn: Turn,
    /// The permits for the jobs that it may claim.
    permits: Vec<OwnedSemaphorePermit>,
    /// The places for the jobs of unproven destinations that it may claim.
    places: Vec<OwnedSemaphorePermit>,
    /// When the claim was sent, by [`Clock::monotonic`](domain::clock::Clock::monotonic). Leases
    /// last from this instant.
    asked_at: Duration,
    claimed: Result<Claimed, StoreError>,
}

/// The jobs that a visit has claimed.
struct ClaimedJobs {
    claimed: Claimed,
    /// One permit for each job.
    permits: Vec<OwnedSemaphorePermit>,
    /// One place for each job of an unproven destination.
    places: Vec<OwnedSemaphorePermit>,
    asked_at: Duration,
}

impl Worker {
    /// Returns a worker on this store with these routes.
    pub fn new(
        store: Store,
        routes: Routes,
        contents: Contents,
        table: Arc<Table>,
        mut settings: config::model::Worker,
    ) -> Self {
        if routes.go_to_own_servers() {
            // A destination that does not answer takes no place: the relay waits for it.
            settings.unproven_share = 1.0;
        }
        let clock = store.clock().clone();
        let contents = contents.with_metrics(store.metrics().clone());
        let (gates, policy) = (routes.gates(), table.fingerprint());
        let attempter = Attempter::new(routes, contents, table, clock).with_gates(gates.clone());
        let attempter = attempter.with_metrics(store.metrics().clone());
        let attempter = attempter.with_ids(store.ids().clone());
        Self {
            store,
            attempter,
            gates,
            policy,
            settings,
            tracing: Tracing::off(),
        }
    }

    /// Returns the same worker, which records its claims and attempts with `tracing`.
    #[must_use]
    pub fn with_tracing(mut self, tracing: &Tracing) -> Self {
        self.attempter = self.attempter.with_tracing(tracing.clone());
        self.tracing = tracing.clone();
        self
    }

    /// Works until `stop` is cancelled, and then drains: it claims nothing more, lets running
    /// attempts end within the grace period, and releases the other jobs. It recovers by itself
    /// after Redis was unavailable.
    pub async fn run(self, stop: CancellationToken) {
        let config::model::Worker {
            concurrency,
            unproven_share,
            patience,
            settle_linger,
            lease,
            heartbeat,
            ..
        } = self.settings;
        let places = Arc::new(Semaphore::new(
            ((concurrency as f64 * unproven_share) as usize).max(1),
        ));
        // A host's silence is measured by the machine's clock, but is compared with instants by the
        // store's clock. So it can only be judged if both are the same clock.
        let patience = if self.store.clock().instant_for_scripts().is_some() {
            NEVER_HANGING
        } else {
            patience
        };
        let permits = Arc::new(Semaphore::new(concurrency));
        let metrics = self.store.metrics().clone();
        metrics.draining(false);
        let attempts = TaskTracker::new();
        let counted = attempts.clone();
        // A visit also takes permits, but gives back at once those that it has no jobs for.
        metrics.before_write(move |metrics| {
            let used = counted.len();
            metrics.permits(concurrency.saturating_sub(used), used);
        });
        let hanging = HangSettings {
            permits: permits.clone(),
            places: places.clone(),
            patience,
        };
        let settings = SettlerSettings {
            linger: settle_linger,
            lease,
            hanging,
        };
        let settler = settler::start(self.store.clone(), settings, self.tracing.clone());
        let running = Loop {
            permits,
            places,
            waiting_for_places: HashSet::new(),
            attempts,
            cancel: CancellationToken::new(),
            visits: Visits::new(self.store.shards(), Instant::now()),
            under_way: JoinSet::new(),
            presence: Presence::start(self.store.clone(), self.settings.heartbeat, stop.clone()),
            settler,
            store: self.store.clone(),
            attempter: Arc::new(self.attempter),
            settings: self.settings,
            tracing: self.tracing,
        };
        let gates = tokio::spawn(self.gates.run(self.store.clone(), stop.clone()));
        let announcement = Announcement {
            role: "worker",
            policy: self.policy,
            interval: BEATS_PER_ANNOUNCEMENT * heartbeat,
        };
        let stopped = stop.clone().cancelled_owned();
        let fleet = self.store.clone().compare_fleet(announcement, stopped);
        let fleet = tokio::spawn(fleet);
        let watch = self.store.watch_for_losses(stop.clone().cancelled_owned());
        let watch = tokio::spawn(watch);
        let (
            SettlerHandle {
                notices, mut task, ..
            },
            presence,
        ) = running.run(&stop).await;
        let _ = timeout(SETTLE_MAX, async { tokio::join!(watch, gates, fleet) }).await;
        presence.wait_until_left().await;
        // This is the channel's last sender, so the settler now settles everything and ends. If the
        // store does not answer, the wait ends after `SETTLE_MAX`: leases lapse by themselves.
        drop(notices);
        if timeout(SETTLE_MAX, &mut task).await.is_err() {
            task.abort();
            // The spans of the settlements end before the task does.
            let _ = task.await;
            tracing::warn!(
                "the store does not answer; attempts that were not settled will be repeated after \
                 their leases run out"
            );
        }
    }
}

impl Loop {
    async fn run(mut self, stop: &CancellationToken) -> (SettlerHandle, Presence) {
        let mut round = self.presence.round();
        while !stop.is_cancelled() {
            let short_of_permits = self.begin_visits(&round);
            let has_room = self.under_way.len() < VISITS_MAX && !short_of_permits;
            let (permits, places) = (self.permits.clone(), self.places.clone());
            tokio::select! {
                // The branches are tried in this order. Under constant load a visit has always just
                // ended: if that branch came first, the others would never run.
                biased;
                () = stop.cancelled() => {}
                changed = self.presence.changed() => {
                    self.take_over(&round, &changed);
                    round = changed;
                }
                Some(shard) = self.settler.visit_requests.recv() => {
                    self.visits.request(shard, Instant::now());
                }
                Some(visit) = self.under_way.join_next() => {
                    let claimed = self.end_visit(visit);
                    // First begin the next visits, so that Redis works on their claims while the
                    // attempts of this visit are started.
                    self.begin_visits(&round);
                    self.start(claimed);
                }
                () = wait_until(self.visits.next_at()), if has_room => {}
                // The acquired permit is dropped at once, and the next visit takes it.
                _ = permits.acquire(), if short_of_permits => {}
                _ = places.acquire(), if !self.waiting_for_places.is_empty() => {
                    for shard in self.waiting_for_places.drain() {
                        self.visits.request(shard, Instant::now());
                    }
                }
            }
        }
        self.store.metrics().draining(true);
        let grace_end = Instant::now() + self.settings.grace;
        // These visits are not cancelled: if a claim's answer is not read, its jobs stay leased
        // until they lapse.
        while let Some(visit) = self.under_way.join_next().await {
            let claimed = self.end_visit(visit);
            self.start(claimed);
        }
        self.drain(grace_end).await
    }

    /// Requests visits of the shards that this worker has just become the owner of.
    fn take_over(&mut self, before: &[Turn], now: &[Turn]) {
        for turn in now
            .iter()
            .filter(|turn| turn.is_own && !before.contains(turn))
        {
            self.visits.request(turn.shard, Instant::now());
        }
    }

    /// Begins visits of shards that are due, with an equal part of the free permits for each.
    /// Returns whether a shard had to wait because no permit was free.
    fn begin_visits(&mut self, round: &[Turn]) -> bool {
        let now = Instant::now();
        let mut due = self
            .visits
            .count_due(round, now)
            .min(VISITS_MAX - self.under_way.len());
        while due > 0 {
            let equal_part = self.permits.available_permits().div_ceil(due);
            let batch = self.settings.batch;
            let permits = take_permits(&self.permits, equal_part.min(batch));
            if permits.is_empty() {
                return true;
            }
            let equal_part = self.places.available_permits().div_ceil(due);
            let places = take_permits(&self.places, equal_part.min(permits.len()));
            let Some(turn) = self.visits.begin(round, now) else {
                break;
            };
            due -= 1;
            if self.settler.is_behind(turn.shard) {
                self.visits.fail(turn.shard, now + RETRY_PAUSE);
                continue;
            }
            let config::model::Worker { share, lease, .. } = self.settings;
            let bounds = ClaimBounds {
                batch: permits.len(),
                share,
                lease,
                unproven: places.len(),
            };
            let store = self.store.clone();
            let tracing = self.tracing.clone();
            self.under_way.spawn(async move {
                let asked_at = store.clock().monotonic();
                let began = SystemTime::now();
                let claimed = store.claim(turn.shard, bounds).await;
                note_received(&tracing, began, turn.shard, &claimed);
                Visit {
                    turn,
                    permits,
                    places,
                    asked_at,
                    claimed,
                }
            });
        }
        false
    }

    /// Plans the next visit of a shard after one that has ended. Returns the claimed jobs, with a
    /// permit for each job and a place for each that may hang.
    fn end_visit(&mut self, visit: Result<Visit, JoinError>) -> Option<ClaimedJobs> {
        let Visit {
            turn: Turn { shard, is_own },
            mut permits,
            mut places,
            asked_at,
            claimed,
        } = visit.expect("a visit neither panics nor is aborted");
        // All shards are on one Redis, or on a few. So their failures are one kind of line, and
        // only the recovery of the last shard is logged.
        let all_had_answered = self.visits.all_answered();
        match claimed {
            Ok(claimed) => {
                let is_full = claimed.jobs.len() == permits.len();
                // A worker that found work at a shard visits it again as soon as the owner would:
                // the owner has more work than it can do.
                let next = self.next_visit(
                    claimed.now,
                    claimed.next_visit,
                    is_full,
                    is_own || !claimed.jobs.is_empty(),
                );
                self.visits.end(shard, next);
                if !all_had_answered
                    && self.visits.all_answered()
                    && let Some(left_out) = admit_outage("ends of outages of the store")
                {
                    tracing::info!(left_out, "the store answers again");
                }
                permits.truncate(claimed.jobs.len());
                places.truncate(
                    claimed
                        .jobs
                        .iter()
                        .filter(|leased| leased.is_unproven)
                        .count(),
                );
                self.note_places_wanted(shard, claimed.unproven_waiting);
                Some(ClaimedJobs {
                    claimed,
                    permits,
                    places,
                    asked_at,
                })
            }
            Err(err) => {
                self.visits.fail(shard, Instant::now() + RETRY_PAUSE);
                if let Some(left_out) = admit_outage("claims") {
                    if err.may_pass() {
                        tracing::warn!(%err, left_out, "jobs cannot be claimed at the moment");
                    } else {
                        tracing::error!(%err, shard, left_out, "jobs cannot be claimed");
                    }
                }
                None
            }
        }
    }

    /// Records how many unproven destinations of a shard wait for a place. If no place is free,
    /// attempts that hang have to make room.
    fn note_places_wanted(&mut self, shard: u16, destinations: u64) {
        if destinations == 0 {
            self.waiting_for_places.remove(&shard);
            return;
        }
        self.waiting_for_places.insert(shard);
        if self.places.available_permits() == 0 {
            let _ = self
                .settler
                .notices
                .send(Notice::PlacesWanted(shard, destinations));
        }
    }

    fn next_visit(
        &self,
        now: Timestamp,
        next_visit: Option<Timestamp>,
        is_full: bool,
        is_eager: bool,
    ) -> Instant {
        let longest = self.settings.poll_max * if is_eager { 1 } else { OTHERS_POLL_FACTOR };
        let wait = match next_visit {
            _ if is_full => Duration::ZERO,
            // Only the shard's owner visits it at this instant. If other workers did so too, they
            // would only compete for the same jobs.
            Some(at) if is_eager => self.store.clock().real_duration(at.since(now)).min(longest),
            _ => longest,
        };
        Instant::now() + wait
    }

    /// Starts the attempts of the jobs that a visit has claimed.
    fn start(&self, jobs: Option<ClaimedJobs>) {
        let Some(ClaimedJobs {
            claimed,
            permits,
            mut places,
            asked_at,
        }) = jobs
        else {
            return;
        };
        for (destination, why) in claimed.corrupt {
            tracing::error!(
                %destination,
                %why,
                "a job cannot be read; it will be claimed again after its lease runs out"
            );
        }
        let Some(lease) = claimed.jobs.first().map(|leased| leased.lease.key()) else {
            return;
        };
        for leased in &claimed.jobs {
            let late = leased.claimed_at.since(leased.lease.due);
            self.store.metrics().claimed(late);
        }
        let cancels: Vec<_> = claimed
            .jobs
            .iter()
            .map(|_| self.cancel.child_token())
            .collect();
        let contacts: Vec<Contact> = claimed.jobs.iter().map(|_| Contact::default()).collect();
        let held =
            claimed
                .jobs
                .iter()
                .zip(&cancels)
                .zip(&contacts)
                .map(|((leased, cancel), contact)| HeldJob {
                    lease: leased.lease.clone(),
                    cancel: cancel.clone(),
                    contact: contact.clone(),
                    place: if leased.is_unproven {
                        places.pop()
                    } else {
                        None
                    },
                });
        let jobs = held.collect();
        let end = LeaseEnd::new(self.store.clock().clone(), asked_at, self.settings.lease);
        let held = HeldLease::new(lease, jobs, end.clone());
        // The settler ends only after this loop and its attempts, so it receives every notice.
        let _ = self.settler.notices.send(Notice::Claimed(held));
        let jobs = claimed
            .jobs
            .into_iter()
            .zip(cancels)
            .zip(contacts)
            .zip(permits);
        for (number, (((leased, cancel), contact), permit)) in jobs.enumerate() {
            let (attempter, notices) = (self.attempter.clone(), self.settler.notices.clone());
            let (attempt_max, end) = (self.settings.attempt_max, end.clone());
            self.attempts.spawn(async move {
                let attempt = attempt(
                    &attempter,
                    leased,
                    Slot { lease, number },
                    permit,
                    attempt_max,
                    (cancel, end, &contact),
                );
                let notice = contact.clone().during(attempt).await;
                let _ = notices.send(notice);
            });
        }
    }

    async fn drain(self, grace_end: Instant) -> (SettlerHandle, Presence) {
        self.attempts.close();
        let under_way = self.attempts.len();
        if under_way > 0 {
            tracing::info!(under_way, "stopping: waiting for attempts under way");
        }
        if timeout_at(grace_end, self.attempts.wait()).await.is_err() {
            tracing::warn!(
                under_way = self.attempts.len(),
                "the grace period is over; attempts under way are cancelled"
            );
            self.cancel.cancel();
            self.attempts.wait().await;
        }
        (self.settler, self.presence)
    }
}

/// Records a claim that returned jobs.
fn note_received(
    tracing: &Tracing,
    began: SystemTime,
    shard: u16,
    claimed: &Result<Claimed, StoreError>,
) {
    let Ok(Claimed { jobs, .. }) = claimed else {
        return;
    };
    if tracing.is_off() || jobs.is_empty() {
        return;
    }
    let messages = jobs.iter().flat_map(|leased| &leased.job.messages);
    let origins = messages.filter_map(|message| message.traceparent.as_deref());
    tracing.received(began, shard, jobs.len(), origins);
}

/// Takes as many permits as are free, up to `max`.
fn take_permits(permits: &Arc<Semaphore>, max: usize) -> Vec<OwnedSemaphorePermit> {
    (0..max)
        .map_while(|_| permits.clone().try_acquire_owned().ok())
        .collect()
}

/// Makes one attempt and returns its result, even if the attempt panics or does not end.
async fn attempt(
    attempter: &Attempter,
    leased: LeasedJob,
    slot: Slot,
    permit: OwnedSemaphorePermit,
    attempt_max: Duration,
    (cancel, end, contact): (CancellationToken, LeaseEnd, &Contact),
) -> Notice {
    let (destination, lease) = (leased.lease.destination.clone(), leased.lease.clone());
    // Boxed, because the runtime moves a task's future several times.
    let mut attempt =
        AssertUnwindSafe(Box::pin(attempter.attempt(leased, &cancel, &end))).catch_unwind();
    let mut ended = timeout(attempt_max, &mut attempt).await;
    let is_too_long = ended.is_err();
    if is_too_long {
        if let Some(left_out) = admit_outage("attempts that take too long") {
            tracing::warn!(
                %destination,
                left_out,
                "an attempt takes longer than worker.attempt_max and is cancelled"
            );
        }
        cancel.cancel();
        // Messages that got through by now are settled and not sent again.
        ended = timeout(CANCEL_MAX, &mut attempt).await;
    }
    match ended {
        Ok(Ok(Some(settlement))) => Notice::Ended(slot, settlement, permit),
        Ok(Ok(None)) if !is_too_long => match contact.given_up() {
            Some(silent_since) => Notice::Unanswered(slot, lease, silent_since),
            None => Notice::Untried(slot, lease),
        },
        Ok(Ok(None)) => Notice::Crashed(slot, lease),
        Ok(Err(_)) => {
            tracing::error!(%destination, "an attempt panicked; its job lapses");
            Notice::Crashed(slot, lease)
        }
        Err(_) => {
            tracing::error!(%destination, "an attempt did not end; its job lapses");
            Notice::Crashed(slot, lease)
        }
    }
}
