//! The worker's loop: permits first, then a claim for as many jobs as there are permits, then a
//! task per attempt; and sleep until the next instant that any shard named. Several shards are
//! visited at once.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::Timestamp;
use futures::FutureExt;
use policy::table::Table;
use senders::contact::Contact;
use senders::lease_end::LeaseEnd;
use store::claim::{ClaimBounds, Claimed, LeasedJob};
use store::error::StoreError;
use store::handle::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt::Attempter;
use crate::content::Contents;
use crate::presence::Presence;
use crate::rendezvous::Turn;
use crate::routes::Routes;
use crate::settler::{
    self, HeldJob, HeldLease, Notice, Patience, SettlerHandle, SettlerSettings, Slot,
};
use crate::soon::until;
use crate::visits::Visits;

/// How long to wait before a store that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How many shards are visited at once: while Redis answers for one, what another one gave is
/// started. Each takes a connection.
const VISITS_MAX: usize = 4;

/// How much longer an idle worker leaves a shard alone that another one looks after.
const OTHERS_POLL: u32 = 4;

/// How long the last settles may take when the worker stops.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The patience of a worker whose store does not go by the machine's clock.
const NO_PATIENCE_ENDS: Duration = Duration::from_secs(366 * 86_400);

/// How long an attempt that is cut off may take to say what has got through.
const CUT_MAX: Duration = Duration::from_secs(5);

/// One worker. Any number of them, in any number of processes, work on one store.
pub struct Worker {
    store: Store,
    attempter: Arc<Attempter>,
    settings: config::model::Worker,
}

/// What the loop keeps while it runs.
struct Loop {
    worker: Worker,
    permits: Arc<Semaphore>,
    /// The places of attempts that may hang: a share of the permits.
    places: Arc<Semaphore>,
    /// Shards with unproven destinations that wait for a place.
    wanting: HashSet<u16>,
    settler: SettlerHandle,
    attempts: TaskTracker,
    cut: CancellationToken,
    presence: Presence,
    visits: Visits,
    /// Visits that have begun. Tasks of their own, so that records are read beside the loop.
    under_way: JoinSet<Visit>,
}

/// A visit that has ended.
struct Visit {
    turn: Turn,
    /// What it could claim at most.
    permits: Vec<OwnedSemaphorePermit>,
    /// What it could claim at most of unproven destinations.
    places: Vec<OwnedSemaphorePermit>,
    /// When it was asked for, by [`Clock::running`](domain::clock::Clock::running): leases last
    /// from then on.
    asked_at: Duration,
    claimed: Result<Claimed, StoreError>,
}

/// What a visit has claimed.
struct Taken {
    claimed: Claimed,
    /// One for each job.
    permits: Vec<OwnedSemaphorePermit>,
    /// One for each job of an unproven destination.
    places: Vec<OwnedSemaphorePermit>,
    asked_at: Duration,
}

impl Worker {
    /// A worker on this store, with these ways out.
    pub fn new(
        store: Store,
        routes: Routes,
        contents: Contents,
        table: Arc<Table>,
        settings: config::model::Worker,
    ) -> Self {
        let clock = store.clock().clone();
        let attempter = Arc::new(Attempter::new(routes, contents, table, clock));
        Self {
            store,
            attempter,
            settings,
        }
    }

    /// Works until `stop` is cancelled, then drains: claims nothing more, lets attempts under way
    /// end within the grace, and gives the rest back. Goes on by itself when Redis was away.
    pub async fn run(self, stop: CancellationToken) {
        let config::model::Worker {
            concurrency,
            unproven_share,
            patience,
            settle_linger,
            lease,
            ..
        } = self.settings;
        let places = Arc::new(Semaphore::new(
            ((concurrency as f64 * unproven_share) as usize).max(1),
        ));
        // How long a host is silent is measured by the machine's clock, and compared with instants
        // of the store's.
        let patience = if self.store.clock().passed_in().is_some() {
            NO_PATIENCE_ENDS
        } else {
            patience
        };
        let permits = Arc::new(Semaphore::new(concurrency));
        let patience = Patience {
            permits: permits.clone(),
            places: places.clone(),
            patience,
        };
        let settings = SettlerSettings {
            linger: settle_linger,
            lease,
            patience,
        };
        let settler = settler::start(self.store.clone(), settings);
        let running = Loop {
            permits,
            places,
            wanting: HashSet::new(),
            attempts: TaskTracker::new(),
            cut: CancellationToken::new(),
            visits: Visits::new(self.store.shards(), Instant::now()),
            under_way: JoinSet::new(),
            presence: Presence::start(self.store.clone(), self.settings.heartbeat, stop.clone()),
            settler,
            worker: self,
        };
        let watch = tokio::spawn(
            running
                .worker
                .store
                .clone()
                .watch_for_losses(stop.clone().cancelled_owned()),
        );
        let (
            SettlerHandle {
                notices, mut task, ..
            },
            presence,
        ) = running.run(&stop).await;
        let _ = watch.await;
        presence.left().await;
        // Its last sender: now the settler comes to its end. A store that is away holds it up no
        // longer than this, for leases lapse by themselves.
        drop(notices);
        if timeout(SETTLE_MAX, &mut task).await.is_err() {
            task.abort();
            tracing::warn!(
                "the store is away; what was not settled will be repeated when its lease has run out"
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
                // Visits last: where work never ends, one of them is always over.
                biased;
                () = stop.cancelled() => {}
                changed = self.presence.changed() => {
                    self.take_over(&round, &changed);
                    round = changed;
                }
                Some(shard) = self.settler.worth_a_visit.recv() => self.visits.ask_for(shard, Instant::now()),
                Some(visit) = self.under_way.join_next() => {
                    let claimed = self.end_visit(visit);
                    // Redis answers the next ones while the attempts of this one are started.
                    self.begin_visits(&round);
                    self.start(claimed);
                }
                () = until(self.visits.next()), if has_room => {}
                // It goes free again at once, and the next visit begins with it.
                _ = permits.acquire(), if short_of_permits => {}
                _ = places.acquire(), if !self.wanting.is_empty() => {
                    self.wanting.drain().for_each(|shard| self.visits.ask_for(shard, Instant::now()));
                }
            }
        }
        let grace_end = Instant::now() + self.worker.settings.grace;
        // Not to be cut short: a claim whose answer nobody reads leaves its jobs leased until they
        // lapse.
        while let Some(visit) = self.under_way.join_next().await {
            let claimed = self.end_visit(visit);
            self.start(claimed);
        }
        self.drain(grace_end).await
    }

    /// Visits at once the shards that nobody else looks after any more.
    fn take_over(&mut self, before: &[Turn], now: &[Turn]) {
        for turn in now.iter().filter(|turn| turn.own && !before.contains(turn)) {
            self.visits.ask_for(turn.shard, Instant::now());
        }
    }

    /// Begins visits of shards that are due, with an equal part of the permits that are free. Tells
    /// whether there was none for one of them.
    fn begin_visits(&mut self, round: &[Turn]) -> bool {
        let now = Instant::now();
        let mut due = self
            .visits
            .due(round, now)
            .min(VISITS_MAX - self.under_way.len());
        while due > 0 {
            let fair = self.permits.available_permits().div_ceil(due);
            let permits = take(&self.permits, fair.min(self.worker.settings.batch));
            if permits.is_empty() {
                return true;
            }
            let fair = self.places.available_permits().div_ceil(due);
            let places = take(&self.places, fair.min(permits.len()));
            let Some(turn) = self.visits.begin(round, now) else {
                break;
            };
            due -= 1;
            if self.settler.is_behind(turn.shard) {
                self.visits.fail(turn.shard, now + RETRY_PAUSE);
                continue;
            }
            let config::model::Worker { share, lease, .. } = self.worker.settings;
            let bounds = ClaimBounds {
                batch: permits.len(),
                share,
                lease,
                unproven: places.len(),
            };
            let store = self.worker.store.clone();
            self.under_way.spawn(async move {
                let asked_at = store.clock().running();
                let claimed = store.claim(turn.shard, bounds).await;
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

    /// Plans the next visit after one that has ended, and gives what it claimed, with a permit for
    /// each job and a place for each that may hang.
    fn end_visit(&mut self, visit: Result<Visit, JoinError>) -> Option<Taken> {
        let Visit {
            turn: Turn { shard, own },
            mut permits,
            mut places,
            asked_at,
            claimed,
        } = visit.expect("a visit neither panics nor is aborted");
        // All shards are on one Redis, or on few: the first that is away is news, and the last that
        // comes back.
        let all_were_there = self.visits.all_are_there();
        match claimed {
            Ok(claimed) => {
                let full = claimed.jobs.len() == permits.len();
                // Where it found work it is as eager as who looks after the shard: that one has
                // more than it can do.
                let next = self.next_visit(
                    claimed.now,
                    claimed.next_visit,
                    full,
                    own || !claimed.jobs.is_empty(),
                );
                self.visits.end(shard, next);
                if !all_were_there && self.visits.all_are_there() {
                    tracing::info!("the store answers again");
                }
                permits.truncate(claimed.jobs.len());
                places.truncate(
                    claimed
                        .jobs
                        .iter()
                        .filter(|leased| leased.is_unproven)
                        .count(),
                );
                self.note_wanted(shard, claimed.unproven_waiting);
                Some(Taken {
                    claimed,
                    permits,
                    places,
                    asked_at,
                })
            }
            Err(err) => {
                self.visits.fail(shard, Instant::now() + RETRY_PAUSE);
                if all_were_there {
                    if err.may_pass() {
                        tracing::warn!(%err, "no jobs can be claimed for now");
                    } else {
                        tracing::error!(%err, shard, "no jobs can be claimed");
                    }
                }
                None
            }
        }
    }

    /// So many unproven destinations of a shard wait for a place. If none is free, attempts that
    /// hang have to make room.
    fn note_wanted(&mut self, shard: u16, destinations: u64) {
        if destinations == 0 {
            self.wanting.remove(&shard);
            return;
        }
        self.wanting.insert(shard);
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
        full: bool,
        eager: bool,
    ) -> Instant {
        let longest = self.worker.settings.poll_max * if eager { 1 } else { OTHERS_POLL };
        let wait = match next_visit {
            _ if full => Duration::ZERO,
            // The instant that a shard names is for one worker; the others would only meet there.
            Some(at) if eager => self.worker.store.clock().real(at.since(now)).min(longest),
            _ => longest,
        };
        Instant::now() + wait
    }

    /// Starts the attempts of what a visit has claimed.
    fn start(&self, taken: Option<Taken>) {
        let Some(Taken {
            claimed,
            permits,
            mut places,
            asked_at,
        }) = taken
        else {
            return;
        };
        for (destination, why) in claimed.corrupt {
            tracing::error!(%destination, %why, "a job cannot be read; it comes back when its lease has run out");
        }
        let Some(lease) = claimed.jobs.first().map(|leased| leased.lease.key()) else {
            return;
        };
        let cuts: Vec<_> = claimed
            .jobs
            .iter()
            .map(|_| self.cut.child_token())
            .collect();
        let contacts: Vec<Contact> = claimed.jobs.iter().map(|_| Contact::default()).collect();
        let held = claimed
            .jobs
            .iter()
            .zip(&cuts)
            .zip(&contacts)
            .map(|((leased, cut), contact)| HeldJob {
                lease: leased.lease.clone(),
                cut: cut.clone(),
                contact: contact.clone(),
                place: if leased.is_unproven {
                    places.pop()
                } else {
                    None
                },
            });
        let jobs = held.collect();
        let end = LeaseEnd::new(
            self.worker.store.clock().clone(),
            asked_at,
            self.worker.settings.lease,
        );
        let held = HeldLease::new(lease, jobs, end.clone());
        // The settler ends only after this loop and its attempts, so it hears every notice.
        let _ = self.settler.notices.send(Notice::Claimed(held));
        let jobs = claimed
            .jobs
            .into_iter()
            .zip(cuts)
            .zip(contacts)
            .zip(permits);
        for (number, (((leased, cut), contact), permit)) in jobs.enumerate() {
            let (attempter, notices) =
                (self.worker.attempter.clone(), self.settler.notices.clone());
            let (longest, end) = (self.worker.settings.attempt_max, end.clone());
            self.attempts.spawn(async move {
                let attempt = attempt(
                    &attempter,
                    leased,
                    Slot { lease, number },
                    permit,
                    longest,
                    (cut, end, &contact),
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
                "the grace is over; attempts under way are cut off"
            );
            self.cut.cancel();
            self.attempts.wait().await;
        }
        (self.settler, self.presence)
    }
}

/// As many permits as are free, up to `most`.
fn take(permits: &Arc<Semaphore>, most: usize) -> Vec<OwnedSemaphorePermit> {
    (0..most)
        .map_while(|_| permits.clone().try_acquire_owned().ok())
        .collect()
}

/// Makes one attempt, and says what came of it, whatever happens in it.
async fn attempt(
    attempter: &Attempter,
    leased: LeasedJob,
    slot: Slot,
    permit: OwnedSemaphorePermit,
    longest: Duration,
    (cut, end, contact): (CancellationToken, LeaseEnd, &Contact),
) -> Notice {
    let (destination, lease) = (leased.lease.destination.clone(), leased.lease.clone());
    // Boxed, because the runtime moves a task's future several times.
    let mut attempt =
        AssertUnwindSafe(Box::pin(attempter.attempt(leased, &cut, &end))).catch_unwind();
    let mut ended = timeout(longest, &mut attempt).await;
    let is_too_long = ended.is_err();
    if is_too_long {
        tracing::warn!(%destination, "an attempt takes longer than worker.attempt_max and is cut off");
        cut.cancel();
        // What has got through by now is settled, and not sent again.
        ended = timeout(CUT_MAX, &mut attempt).await;
    }
    match ended {
        Ok(Ok(Some(settlement))) => Notice::Ended(slot, settlement, permit),
        Ok(Ok(None)) if !is_too_long => match contact.given_up() {
            Some(silent_since) => Notice::Unanswered(slot, lease, silent_since),
            None => Notice::Cut(slot, lease),
        },
        Ok(Ok(None)) => Notice::Lost(slot, lease),
        Ok(Err(_)) => {
            tracing::error!(%destination, "an attempt panicked; its job lapses");
            Notice::Lost(slot, lease)
        }
        Err(_) => {
            tracing::error!(%destination, "an attempt did not end; its job lapses");
            Notice::Lost(slot, lease)
        }
    }
}
