//! What the store is told of the jobs of one shard: how their attempts ended, and which are given
//! back. It is told until it has answered, and no other shard waits for that.

use std::collections::HashSet;
use std::mem;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::destination::Destination;
use store::claim::{Lease, LeaseKey};
use store::error::StoreError;
use store::handle::Store;
use store::lease::{Extended, GivenBack};
use store::settle::{SettleCall, SettleReport, Settled, Settlement};
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

/// How long to wait before a store that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How many calls at once may go to stores that did not answer the last time: each can hold a
/// connection until its time is over.
const ASKING_AGAIN_MAX: usize = 2;

/// What the store does not know yet of the jobs of one shard: no more than the worker has permits,
/// because nothing is claimed there while it waits.
#[derive(Default)]
pub(super) struct PendingReports {
    /// Attempts that have ended, and what bounds how many there can be.
    pub(super) ended: Vec<Settlement>,
    pub(super) permits: Vec<OwnedSemaphorePermit>,
    /// Jobs whose attempts came to nothing.
    pub(super) crashed: Vec<Lease>,
    /// Jobs that were not tried.
    pub(super) untried: Vec<Lease>,
    /// Jobs whose host had not answered since then. It is an instant, because the store is told how
    /// long ago that is, and may have to be told again.
    pub(super) unanswered: Vec<(Lease, Instant)>,
}

impl PendingReports {
    /// Whether the store knows all.
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty()
            && self.crashed.is_empty()
            && self.untried.is_empty()
            && self.unanswered.is_empty()
    }
}

/// Who tells it.
pub(super) struct StoreReporter {
    pub(super) store: Store,
    /// By shard, whether something waits there for a store that does not answer.
    behind: Box<[AtomicBool]>,
    /// Where shards go that are worth a visit now.
    worth_a_visit: Sender<u16>,
    /// By shard, whether its store did not answer the last time.
    silent: Box<[AtomicBool]>,
    /// Who asks a store that did not answer. The connections are for the others.
    asking_again: Semaphore,
    /// By shard, whether the last settlements fell short of the configured durability.
    short: Box<[AtomicBool]>,
}

impl StoreReporter {
    /// One for all shards of a store.
    pub(super) fn new(store: Store, worth_a_visit: Sender<u16>) -> Self {
        let none = || {
            (0..store.shards())
                .map(|_| AtomicBool::new(false))
                .collect()
        };
        let (behind, silent, short) = (none(), none(), none());
        Self {
            store,
            behind,
            worth_a_visit,
            silent,
            asking_again: Semaphore::new(ASKING_AGAIN_MAX),
            short,
        }
    }

    /// Whether something of this shard waits for a store that does not answer.
    pub(super) fn is_behind(&self, shard: u16) -> bool {
        self.behind[usize::from(shard)].load(Ordering::Relaxed)
    }

    /// Tells the store all of it, and returns when it has answered.
    pub(super) async fn report(&self, shard: u16, pending: PendingReports) {
        let PendingReports {
            ended,
            mut permits,
            crashed,
            untried,
            unanswered,
        } = pending;
        if !ended.is_empty() {
            self.settle(shard, ended, &mut permits).await;
        }
        drop(permits);
        self.give_back(shard, &crashed, || GivenBack::Crashed).await;
        self.give_back(shard, &untried, || GivenBack::Untried).await;
        for (lease, silent_since) in &unanswered {
            let why = || GivenBack::Unanswered(silent_since.elapsed());
            self.give_back(shard, slice::from_ref(lease), why).await;
        }
        self.behind[usize::from(shard)].store(false, Ordering::Relaxed);
    }

    async fn settle(
        &self,
        shard: u16,
        settlements: Vec<Settlement>,
        permits: &mut Vec<OwnedSemaphorePermit>,
    ) {
        // The same name at each try: where an answer was lost, the next one is the same.
        let call = SettleCall::unique();
        let mut asked_before = false;
        loop {
            match self.ask(shard, self.store.settle(call, &settlements)).await {
                Ok(SettleReport {
                    settled,
                    missing,
                    worth_a_visit,
                }) => {
                    self.note_durability(shard, missing);
                    for shard in worth_a_visit {
                        let _ = self.worth_a_visit.try_send(shard);
                    }
                    let count = |what| settled.iter().filter(|one| **one == what).count();
                    let (stale, void) = (count(Settled::Stale), count(Settled::Void));
                    if void > 0 {
                        tracing::debug!(
                            void,
                            "jobs were ended by a bounce or a fact while they were attempted"
                        );
                    }
                    if stale > 0 {
                        tracing::warn!(
                            stale,
                            "leases had run out before their attempts were settled; those are repeated"
                        );
                    }
                    return;
                }
                // It can be settled later, so it is kept, and told again under the same name.
                Err(err) if err.may_pass() => {
                    if !mem::replace(&mut asked_before, true) {
                        tracing::warn!(%err, shard, waiting = settlements.len(), "attempts wait to be settled");
                    }
                    self.pause(shard, permits).await;
                }
                // One that cannot be settled must not take the others with it.
                Err(_) if settlements.len() > 1 => {
                    for settlement in settlements {
                        Box::pin(self.settle(shard, vec![settlement], permits)).await;
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

    /// Gives jobs back. Why is asked at each call, and not before it is the shard's turn.
    async fn give_back(
        &self,
        shard: u16,
        leases: &[Lease],
        why: impl Fn() -> GivenBack + Copy + Send + Sync,
    ) {
        while !leases.is_empty() {
            match self
                .ask(shard, async { self.store.release(leases, why()).await })
                .await
            {
                Ok(released) => {
                    let why = why();
                    match why {
                        GivenBack::Unanswered(_) => {
                            tracing::debug!(shard, released, ?why, "gave a job back");
                        }
                        _ => tracing::info!(shard, released, ?why, "gave jobs back"),
                    }
                    return;
                }
                // What was given back before the answer was lost has a stale token by now, and
                // stays as it is.
                Err(err) if err.may_pass() => self.pause(shard, &mut Vec::new()).await,
                // One that cannot be given back must not take the others with it.
                Err(_) if leases.len() > 1 => {
                    for lease in leases {
                        Box::pin(self.give_back(shard, slice::from_ref(lease), why)).await;
                    }
                    return;
                }
                Err(err) => {
                    tracing::error!(%err, shard, "a job could not be given back; it is due again when its lease has run out");
                    return;
                }
            }
        }
    }

    /// Lengthens leases of one shard, as [`Store::extend`] does.
    pub(super) async fn extend(
        &self,
        shard: u16,
        leases: &[LeaseKey],
        length: Duration,
    ) -> Vec<Extended> {
        let _turn = self.turn(shard).await;
        let answers = self.store.extend(leases, length).await;
        self.silent[usize::from(shard)]
            .store(answers.contains(&Extended::Unknown), Ordering::Relaxed);
        answers
    }

    /// Tells the store of destinations of one shard where an attempt has waited since then for an
    /// answer. Returns those that are silent; none if the store does not answer.
    pub(super) async fn tell_silence(
        &self,
        shard: u16,
        waiting: Vec<(Destination, Instant)>,
    ) -> HashSet<Destination> {
        // How long they have waited is asked when it is the shard's turn, and not before.
        let told = async {
            let waiting = waiting
                .iter()
                .map(|(there, since)| (there.clone(), since.elapsed()));
            let waiting: Vec<_> = waiting.collect();
            self.store.note_silence(shard, &waiting).await
        };
        match self.ask(shard, told).await {
            Ok(silent) => {
                let named = waiting.into_iter().zip(silent);
                named
                    .filter_map(|((destination, _), is_silent)| is_silent.then_some(destination))
                    .collect()
            }
            Err(err) => {
                tracing::debug!(%err, shard, "it could not be told which destinations do not answer");
                HashSet::new()
            }
        }
    }

    /// Asks the store about one shard.
    async fn ask<T>(
        &self,
        shard: u16,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let _turn = self.turn(shard).await;
        let answer = question.await;
        let is_silent = answer.as_ref().is_err_and(StoreError::may_pass);
        self.silent[usize::from(shard)].store(is_silent, Ordering::Relaxed);
        answer
    }

    /// Waits for one's turn, where the shard's store did not answer the last time.
    async fn turn(&self, shard: u16) -> Option<SemaphorePermit<'_>> {
        if !self.silent[usize::from(shard)].load(Ordering::Relaxed) {
            return None;
        }
        self.asking_again.acquire().await.ok()
    }

    /// Waits before a store that did not answer is asked again. Meanwhile nothing is claimed of the
    /// shard, so its permits can go to others.
    async fn pause(&self, shard: u16, permits: &mut Vec<OwnedSemaphorePermit>) {
        self.behind[usize::from(shard)].store(true, Ordering::Relaxed);
        permits.clear();
        sleep(RETRY_PAUSE).await;
    }

    /// Says once that settlements do not reach the configured durability, and once that they do
    /// again, of whatever shard. Attempts are not held up for it: they were made, and to make them
    /// again would be worse.
    fn note_durability(&self, shard: u16, missing: Option<String>) {
        let is_any_short = || self.short.iter().any(|short| short.load(Ordering::Relaxed));
        let was_any_short = is_any_short();
        self.short[usize::from(shard)].store(missing.is_some(), Ordering::Relaxed);
        match missing {
            Some(missing) if !was_any_short => {
                tracing::warn!(
                    missing,
                    "settled attempts do not reach redis.durability; a failover now could repeat them"
                );
            }
            None if was_any_short && !is_any_short() => {
                tracing::info!("settled attempts reach redis.durability again");
            }
            _ => {}
        }
    }
}
