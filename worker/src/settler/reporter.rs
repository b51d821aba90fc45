//! Reports to the store how the attempts of a shard ended and which jobs are given back. A report
//! is repeated until the store has answered, and no other shard waits for it. Also extends leases
//! and reports silent hosts. Does not know which leases are held.

use std::collections::HashSet;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use domain::destination::Destination;
use store::claim::{Lease, LeaseKey};
use store::error::StoreError;
use store::handle::Store;
use store::lease::{Extended, ReleaseReason};
use store::settle::{SettleCall, SettleReport, Settled, Settlement};
use system::limiter::admit_outage;
use telemetry::spans::{SettleError, Settling, Tracing};
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

use super::stage::{Stage, Stages};

/// How long to wait before a call is repeated that the store did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How many calls at once may go to shards whose store did not answer the last call. Each of them
/// can hold a connection until its timeout.
const RETRIES_AT_ONCE: usize = 2;

/// What has not been reported to the store yet about one shard. It holds at most as many jobs as
/// the worker has permits, because nothing is claimed of the shard while the store does not answer.
#[derive(Default)]
pub(super) struct PendingReports {
    /// The settlements of attempts that have ended.
    pub(super) ended: Vec<Settlement>,
    /// The permits of those attempts. Until a permit is freed, no other attempt can use it.
    pub(super) permits: Vec<OwnedSemaphorePermit>,
    /// Jobs whose attempts crashed or did not end in time.
    pub(super) crashed: Vec<Lease>,
    /// Jobs that were not tried.
    pub(super) untried: Vec<Lease>,
    /// Jobs whose attempts were given up, and since when their hosts had not answered. Each call
    /// reports the time since that instant, so a repeated call reports the right time too.
    pub(super) unanswered: Vec<(Lease, Instant)>,
    /// The spans of the finished attempts that are traced, each with the place of its settlement in
    /// `ended`.
    pub(super) spans: Vec<(usize, Settling)>,
}

impl PendingReports {
    /// Whether there is nothing to report.
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty()
            && self.crashed.is_empty()
            && self.untried.is_empty()
            && self.unanswered.is_empty()
    }
}

/// The spans of attempts that are being settled. They end when this is dropped. If that is before
/// the store has answered, because the worker ends, they show that.
struct SettleSpans<'t> {
    tracing: &'t Tracing,
    began: SystemTime,
    /// Each with the place of its result.
    spans: Vec<(usize, Settling)>,
    /// The results of the settlements, as far as they are known.
    results: Vec<Option<Settled>>,
}

impl<'t> SettleSpans<'t> {
    fn begin(tracing: &'t Tracing, spans: Vec<(usize, Settling)>) -> Self {
        Self {
            tracing,
            began: SystemTime::now(),
            spans,
            results: Vec::new(),
        }
    }
}

impl Drop for SettleSpans<'_> {
    fn drop(&mut self) {
        if self.spans.is_empty() {
            return;
        }
        let error = |place: usize| match self.results.get(place).copied().flatten() {
            // A job that a bounce or a fact has ended meanwhile needs no settlement.
            Some(Settled::Done | Settled::Void) => None,
            Some(Settled::Stale) => Some(SettleError::Stale),
            None => Some(SettleError::Store),
        };
        let spans = self.spans.iter();
        let spans = spans.map(|(place, span)| (*span, error(*place)));
        self.tracing.settled(spans, self.began, SystemTime::now());
    }
}

/// Makes the settler's calls to the store.
pub(super) struct StoreReporter {
    pub(super) store: Store,
    /// The stage of each shard's report.
    pub(super) stages: Stages,
    /// Sends the worker's loop the shards that are worth a visit now.
    visit_requests: Sender<u16>,
    /// By shard, whether its store did not answer the last call.
    is_unanswered: Box<[AtomicBool]>,
    /// Limits the calls to stores that did not answer, so that the other shards have connections.
    retry_permits: Semaphore,
    /// By shard, whether the last settlements did not reach the configured durability.
    is_below_durability: Box<[AtomicBool]>,
    tracing: Tracing,
}

impl StoreReporter {
    /// Returns a reporter for all shards of a store.
    pub(super) fn new(store: Store, visit_requests: Sender<u16>, tracing: Tracing) -> Self {
        let all_false = || {
            (0..store.shards())
                .map(|_| AtomicBool::new(false))
                .collect()
        };
        let is_unanswered = all_false();
        let is_below_durability = all_false();
        Self {
            stages: Stages::new(store.shards()),
            store,
            visit_requests,
            is_unanswered,
            retry_permits: Semaphore::new(RETRIES_AT_ONCE),
            is_below_durability,
            tracing,
        }
    }

    /// Whether a report of this shard waits for a store that does not answer.
    pub(super) fn is_behind(&self, shard: u16) -> bool {
        self.stages.of(shard) == Stage::Behind
    }

    /// Reports all that is pending for a shard. Returns when the store has answered each call.
    pub(super) async fn report(&self, shard: u16, pending: PendingReports) {
        let PendingReports {
            ended,
            mut permits,
            crashed,
            untried,
            unanswered,
            spans,
        } = pending;
        if !ended.is_empty() {
            let mut spans = SettleSpans::begin(&self.tracing, spans);
            spans.results = self.settle(shard, ended, &mut permits).await;
        }
        drop(permits);
        self.give_back(shard, &crashed, || ReleaseReason::Crashed)
            .await;
        self.give_back(shard, &untried, || ReleaseReason::Untried)
            .await;
        for (lease, silent_since) in &unanswered {
            let why = || ReleaseReason::Unanswered(silent_since.elapsed());
            self.give_back(shard, slice::from_ref(lease), why).await;
        }
        self.stages.catch_up(shard);
    }

    /// Settles attempts, and repeats the call until the store answers. If the store does not
    /// answer, `permits` are freed. Returns the result of each in the order given; `None` if the
    /// store rejects it.
    async fn settle(
        &self,
        shard: u16,
        settlements: Vec<Settlement>,
        permits: &mut Vec<OwnedSemaphorePermit>,
    ) -> Vec<Option<Settled>> {
        // The call keeps its id when it is repeated. So if an answer was lost, the store returns it
        // again.
        let call = SettleCall::unique();
        loop {
            match self
                .call(shard, self.store.settle(call, &settlements))
                .await
            {
                Ok(SettleReport {
                    settled,
                    missing,
                    visit_requests,
                }) => {
                    self.note_durability(shard, missing);
                    for shard in visit_requests {
                        let _ = self.visit_requests.try_send(shard);
                    }
                    let count = |wanted| settled.iter().filter(|result| **result == wanted).count();
                    let stale = count(Settled::Stale);
                    let void = count(Settled::Void);
                    if void > 0 {
                        tracing::debug!(
                            void,
                            "jobs were ended by a bounce or a fact during their attempts"
                        );
                    }
                    self.store.metrics().stale(stale as u64);
                    if stale > 0
                        && let Some(left_out) = admit_outage("stale settlements")
                    {
                        tracing::warn!(
                            stale,
                            left_out,
                            "leases ran out before their attempts were settled; \
                             these attempts are repeated"
                        );
                    }
                    return settled.into_iter().map(Some).collect();
                }
                // The same call can succeed later, so it is repeated.
                Err(err) if err.may_pass() => {
                    if let Some(left_out) = admit_outage("settlements that wait") {
                        let waiting = settlements.len();
                        tracing::warn!(
                            %err,
                            shard,
                            waiting,
                            left_out,
                            "attempts could not be settled; the worker tries again until they are"
                        );
                    }
                    self.pause_before_retry(shard, permits).await;
                }
                // The store rejects at least one settlement. Each gets a call of its own, so that
                // the others are settled.
                Err(_) if settlements.len() > 1 => {
                    let mut results = Vec::with_capacity(settlements.len());
                    for settlement in settlements {
                        let one = Box::pin(self.settle(shard, vec![settlement], permits));
                        results.append(&mut one.await);
                    }
                    return results;
                }
                Err(err) => {
                    if let Some(left_out) = admit_outage("refused settlements") {
                        tracing::error!(
                            %err,
                            left_out,
                            "an attempt could not be settled; \
                             it is repeated when its lease has run out"
                        );
                    }
                    return vec![None];
                }
            }
        }
    }

    /// Gives jobs back, and repeats the call until the store answers. `why` is evaluated when a
    /// call is made, because a reason can contain how long a host has been silent until then.
    async fn give_back(
        &self,
        shard: u16,
        leases: &[Lease],
        why: impl Fn() -> ReleaseReason + Copy + Send + Sync,
    ) {
        while !leases.is_empty() {
            match self
                .call(shard, async { self.store.release(leases, why()).await })
                .await
            {
                Ok(released) => {
                    let why = why();
                    match why {
                        ReleaseReason::Unanswered(_) => {
                            tracing::debug!(shard, released, ?why, "gave a job back");
                        }
                        _ => tracing::info!(shard, released, ?why, "gave jobs back"),
                    }
                    return;
                }
                // The job may have been given back and only the answer lost. Then its token is
                // stale, and the repeated call does not change the job.
                Err(err) if err.may_pass() => {
                    self.pause_before_retry(shard, &mut Vec::new()).await;
                }
                // The store rejects at least one lease. Each gets a call of its own, so that the
                // others are given back.
                Err(_) if leases.len() > 1 => {
                    for lease in leases {
                        Box::pin(self.give_back(shard, slice::from_ref(lease), why)).await;
                    }
                    return;
                }
                Err(err) => {
                    if let Some(left_out) = admit_outage("jobs that are not given back") {
                        tracing::error!(
                            %err,
                            shard,
                            left_out,
                            "a job could not be given back; \
                             it is due again when its lease has run out"
                        );
                    }
                    return;
                }
            }
        }
    }

    /// Extends leases of one shard, as [`Store::extend`] does.
    pub(super) async fn extend(
        &self,
        shard: u16,
        leases: &[LeaseKey],
        length: Duration,
    ) -> Vec<Extended> {
        let _permit = self.wait_for_retry_permit(shard).await;
        let answers = self.store.extend(leases, length).await;
        self.is_unanswered[usize::from(shard)]
            .store(answers.contains(&Extended::Unknown), Ordering::Relaxed);
        answers
    }

    /// Reports destinations of one shard to the store, each with the instant since when an attempt
    /// there has waited for an answer. Returns those that are silent; none if the store does not
    /// answer.
    pub(super) async fn report_silence(
        &self,
        shard: u16,
        waiting: Vec<(Destination, Instant)>,
    ) -> HashSet<Destination> {
        // How long they have waited is computed when the call is made, after a wait for a permit.
        let reported = async {
            let waiting: Vec<_> = waiting
                .iter()
                .map(|(destination, since)| (destination.clone(), since.elapsed()))
                .collect();
            self.store.note_silence(shard, &waiting).await
        };
        match self.call(shard, reported).await {
            Ok(silent) => waiting
                .into_iter()
                .zip(silent)
                .filter_map(|((destination, _), is_silent)| is_silent.then_some(destination))
                .collect(),
            Err(err) => {
                tracing::debug!(
                    %err,
                    shard,
                    "destinations that do not answer could not be reported to the store"
                );
                HashSet::new()
            }
        }
    }

    /// Makes one call to the store about a shard, and records whether the store answered.
    async fn call<T>(
        &self,
        shard: u16,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let _permit = self.wait_for_retry_permit(shard).await;
        let answer = call.await;
        let is_unanswered = answer.as_ref().is_err_and(StoreError::may_pass);
        self.is_unanswered[usize::from(shard)].store(is_unanswered, Ordering::Relaxed);
        answer
    }

    /// Waits for a retry permit if the shard's store did not answer the last call. Otherwise it
    /// returns at once, without a permit.
    async fn wait_for_retry_permit(&self, shard: u16) -> Option<SemaphorePermit<'_>> {
        if !self.is_unanswered[usize::from(shard)].load(Ordering::Relaxed) {
            return None;
        }
        self.retry_permits.acquire().await.ok()
    }

    /// Waits before a call that the store did not answer is repeated. Meanwhile no jobs of this
    /// shard are claimed, so its permits are freed for other shards.
    async fn pause_before_retry(&self, shard: u16, permits: &mut Vec<OwnedSemaphorePermit>) {
        self.stages.fall_behind(shard);
        permits.clear();
        sleep(RETRY_PAUSE).await;
    }

    /// Logs once when the settlements of any shard no longer reach the configured durability, and
    /// once when those of all shards reach it again. Settlements do not wait for it: the attempts
    /// were already made, and to repeat them would be worse.
    fn note_durability(&self, shard: u16, missing: Option<String>) {
        let is_any_below = || {
            self.is_below_durability
                .iter()
                .any(|is_below| is_below.load(Ordering::Relaxed))
        };
        let was_any_below = is_any_below();
        self.is_below_durability[usize::from(shard)].store(missing.is_some(), Ordering::Relaxed);
        match missing {
            Some(missing) if !was_any_below => {
                tracing::warn!(
                    missing,
                    "settled attempts do not reach redis.durability; \
                     a failover now could repeat them"
                );
            }
            None if was_any_below && !is_any_below() => {
                tracing::info!("settled attempts reach redis.durability again");
            }
            _ => {}
        }
    }
}
