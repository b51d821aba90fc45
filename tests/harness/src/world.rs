//! The environment of one test: a private store, a clock that only the test moves, the intake of
//! bounces and facts, and the steps of a worker, which a test runs one by one.

use std::sync::Arc;
use std::time::Duration;

use ::worker::attempt::Attempter;
use domain::account::Account;
use domain::address::Address;
use domain::clock::{Clock, ManualClock, Timestamp};
use domain::destination::Destination;
use domain::event::{Event, EventKind};
use domain::job::JobId;
use domain::standing::{Standing, StandingRecord};
use scheduler::intake::accept::Accept;
use scheduler::intake::{facts, json};
use senders::lease_end::LeaseEnd;
use senders::sender::Sender;
use serde_json::Value;
use store::address::{AddressReport, JobReport};
use store::batch::BATCH_MAX;
use store::claim::{ClaimBounds, Claimed, Lease, LeasedJob};
use store::connection::pool::Connections;
use store::destination_controls::PaceReport;
use store::entry_id::EntryId;
use store::error::StoreError;
use store::facts::{FactAnswer, FactOrCommand};
use store::handle::Store;
use store::lease::{Extended, ReleaseReason};
use store::schedule::Answer;
use store::settle::{SettleCall, Settled, Settlement};
use tokio_util::sync::CancellationToken;

use crate::bounce::{FULL, bounce};
use crate::mail::MailSystem;

mod open;
mod worker;

pub use open::{Deployment, Settings};
pub use worker::RunningWorker;

/// The length of leases in tests.
pub const LEASE: Duration = Duration::from_secs(60);

/// The smallest step of the clock.
pub const MS: Duration = Duration::from_millis(1);

/// A second.
pub const SECOND: Duration = Duration::from_secs(1);

/// An hour.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);

/// How many shards the store of a test has.
pub const SHARDS: u16 = 4;

/// How many entries of the journal are read at once.
const JOURNAL_PAGE: usize = 1_000;

/// The environment of one test.
pub struct World {
    /// The clock. It shows the same time until the test moves it.
    pub clock: Arc<ManualClock>,
    /// The store.
    pub store: Store,
    /// The mail system that all mail goes to.
    pub mail: Arc<MailSystem>,
    /// The prefix of the store's keys.
    pub prefix: String,
    connections: Connections,
    settings: Settings,
    accept: Accept,
    attempter: Attempter,
}

impl World {
    /// Returns the time that the clock shows.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Processes one bounce by the intake that all bounces use. Returns the answer.
    pub async fn post_bounce(&self, bounce: Value) -> Answer {
        self.try_post_bounce(bounce).await.expect("Redis answers")
    }

    /// Like [`Self::post_bounce`], but Redis may be unavailable.
    pub async fn try_post_bounce(&self, bounce: Value) -> Result<Answer, StoreError> {
        let bounce = json::read(bounce, self.now(), 64 << 10).expect("the test's bounce is valid");
        let mut answered = self.accept.accept(vec![bounce]).await?;
        Ok(answered.remove(0).answer)
    }

    /// Processes one fact by the intake that all facts use. Does not wait for workers: a test that
    /// leases jobs itself is not a worker.
    pub async fn report_fact(&self, fact: Value) -> FactAnswer {
        let fact = facts::read(fact).expect("the test's fact is valid");
        self.accept
            .record_facts(vec![fact])
            .await
            .expect("Redis answers")
            .0
            .remove(0)
            .answer
    }

    /// Makes an address active again, as an operator does.
    pub async fn reinstate(&self, address: &str) -> FactAnswer {
        self.accept
            .apply_operator_command(id(address), FactOrCommand::Reinstate, None)
            .await
            .expect("Redis answers")
    }

    /// Processes many bounces, some hundred at a time.
    pub async fn post_bounces(&self, bounces: impl Iterator<Item = Value>) {
        let read =
            |bounce| json::read(bounce, self.now(), 64 << 10).expect("the test's bounce is valid");
        let mut bounces = bounces.map(read).peekable();
        while bounces.peek().is_some() {
            self.accept
                .accept(bounces.by_ref().take(BATCH_MAX).collect())
                .await
                .expect("Redis answers");
        }
    }

    /// Processes a bounce that starts a job, and moves the clock to the job's due time. Returns
    /// that time.
    pub async fn post_and_wait_until_due(&self, bounce: Value) -> Timestamp {
        let Answer::Scheduled { due } = self.post_bounce(bounce).await else {
            panic!("the address has a job already")
        };
        self.clock.set(due);
        due
    }

    /// Processes `count` bounces of different addresses at one domain, `user0` and so on. Moves the
    /// clock to a time at which all their jobs are due.
    pub async fn post_due_jobs(&self, domain: &str, count: usize) {
        let read = |n| {
            let posted = bounce(&format!("user{n}@{domain}"), "m1", FULL);
            json::read(posted, self.now(), 64 << 10).expect("the bounce is valid")
        };
        let answers = self
            .accept
            .accept((0..count).map(read).collect())
            .await
            .expect("Redis answers");
        assert!(
            answers
                .iter()
                .all(|answered| matches!(answered.answer, Answer::Scheduled { .. }))
        );
        self.clock.advance(27 * HOUR);
    }

    /// Leases at most `batch` due jobs in the shard of a destination.
    pub async fn claim_near(&self, destination: &str, batch: usize) -> Claimed {
        let bounds = ClaimBounds {
            batch,
            share: batch,
            lease: LEASE,
            unproven: usize::MAX,
        };
        self.store
            .claim(
                Destination::named(destination).shard(self.store.shards()),
                bounds,
            )
            .await
            .expect("Redis answers")
    }

    /// Returns the current pace of a destination.
    pub async fn pace(&self, destination: &str) -> PaceReport {
        self.store
            .pace(&Destination::named(destination))
            .await
            .expect("Redis answers")
    }

    /// Leases all due jobs.
    pub async fn claim(&self) -> Vec<LeasedJob> {
        let bounds = ClaimBounds {
            batch: 500,
            share: 500,
            lease: LEASE,
            unproven: usize::MAX,
        };
        let mut jobs = Vec::new();
        for shard in 0..self.store.shards() {
            let claimed = self
                .store
                .claim(shard, bounds)
                .await
                .expect("Redis answers");
            assert!(claimed.corrupt.is_empty(), "{:?}", claimed.corrupt);
            jobs.extend(claimed.jobs);
        }
        jobs
    }

    /// Leases the only due job.
    ///
    /// # Panics
    /// If no job is due, or more than one.
    pub async fn claim_one(&self) -> LeasedJob {
        let mut jobs = self.claim().await;
        assert_eq!(jobs.len(), 1, "one job is due: {jobs:?}");
        jobs.remove(0)
    }

    /// From now on, mail is sent by this sender.
    pub fn set_sender(&mut self, sender: Arc<dyn Sender>) {
        self.attempter = open::attempter(sender, self.settings.confirm, &self.clock);
    }

    /// Runs the attempt of a leased job. Returns the result, which is not settled yet.
    pub async fn attempt(&self, leased: LeasedJob) -> Settlement {
        let never = CancellationToken::new();
        let ended = self
            .attempter
            .attempt(leased, &never, &LeaseEnd::default())
            .await
            .expect("an attempt that is not stopped ends in a settlement");
        *ended.settlement
    }

    /// Runs the attempts of leased jobs, with `reply` as the answer to all their messages. Settles
    /// each attempt in a separate call.
    pub async fn attempt_and_settle(&self, jobs: impl IntoIterator<Item = LeasedJob>, reply: &str) {
        self.mail.reply_with(reply);
        for leased in jobs {
            let settlement = self.attempt(leased).await;
            assert_eq!(self.settle(&settlement).await, Settled::Done);
        }
    }

    /// Extends a lease to its full length from now.
    pub async fn extend(&self, lease: &Lease) -> Extended {
        self.store.extend(&[lease.key()], LEASE).await.remove(0)
    }

    /// Releases a lease without an attempt. Returns whether its token was valid.
    pub async fn release(&self, lease: &Lease) -> bool {
        self.store
            .release(std::slice::from_ref(lease), ReleaseReason::Untried)
            .await
            .expect("Redis answers")
            == 1
    }

    /// Releases a lease whose attempt crashed. Returns whether its token was valid.
    pub async fn crash(&self, lease: &Lease) -> bool {
        self.store
            .release(std::slice::from_ref(lease), ReleaseReason::Crashed)
            .await
            .expect("Redis answers")
            == 1
    }

    /// Settles one attempt.
    pub async fn settle(&self, settlement: &Settlement) -> Settled {
        self.settle_all(std::slice::from_ref(settlement)).await[0]
    }

    /// Settles several attempts in one call.
    pub async fn settle_all(&self, settlements: &[Settlement]) -> Vec<Settled> {
        self.store
            .settle(SettleCall::unique(), settlements)
            .await
            .expect("Redis answers")
            .settled
    }

    /// Claims, attempts and settles all due jobs. Returns how many there were.
    pub async fn work(&self) -> usize {
        let jobs = self.claim().await;
        let count = jobs.len();
        for leased in jobs {
            let settlement = self.attempt(leased).await;
            assert_eq!(
                self.settle(&settlement).await,
                Settled::Done,
                "the lease has just been taken"
            );
        }
        count
    }

    /// Returns all that is known about an address.
    pub async fn report(&self, address: &str) -> AddressReport {
        self.store
            .address(&id(address))
            .await
            .expect("Redis answers")
    }

    /// Returns the job of an address.
    ///
    /// # Panics
    /// If it has no job.
    pub async fn job(&self, address: &str) -> JobReport {
        self.job_if_any(address)
            .await
            .expect("the address has a job")
    }

    /// Returns the job of an address, if it has one.
    pub async fn job_if_any(&self, address: &str) -> Option<JobReport> {
        self.report(address).await.job
    }

    /// Returns the ids of the messages that wait in an address's job, oldest first. The list is
    /// empty if it has no job.
    pub async fn waiting(&self, address: &str) -> Vec<String> {
        let job = self.job_if_any(address).await;
        job.map(|report| {
            report
                .job
                .messages
                .into_iter()
                .map(|message| message.id)
                .collect()
        })
        .unwrap_or_default()
    }

    /// Returns the record of an address's standing. `None` means active.
    pub async fn standing_record(&self, address: &str) -> Option<StandingRecord> {
        self.report(address).await.standing
    }

    /// Returns an address's standing.
    pub async fn standing(&self, address: &str) -> Standing {
        self.standing_record(address)
            .await
            .map_or(Standing::Active, |record| record.at(self.now()))
    }

    /// Returns all events so far. The events of one address are in order.
    pub async fn events(&self) -> Vec<Event> {
        all_events(&self.store).await
    }

    /// Returns all events of one kind so far.
    pub async fn events_of(&self, kind: EventKind) -> Vec<Event> {
        self.events()
            .await
            .into_iter()
            .filter(|event| event.kind == kind)
            .collect()
    }

    /// Returns the final events so far, as kind, message id and reason.
    pub async fn final_events(&self) -> Vec<(EventKind, String, Option<String>)> {
        let events = self
            .events()
            .await
            .into_iter()
            .filter(|event| event.kind.is_final());
        events
            .map(|event| (event.kind, event.message.unwrap_or_default(), event.reason))
            .collect()
    }
}

/// Returns all events of a store so far. The events of one address are in order.
pub async fn all_events(store: &Store) -> Vec<Event> {
    let mut cursor = vec![EntryId::default(); usize::from(store.shards())];
    let mut events = Vec::new();
    loop {
        let journals = store
            .read_journal(&cursor, JOURNAL_PAGE)
            .await
            .expect("Redis answers");
        if journals.iter().all(Vec::is_empty) {
            return events;
        }
        for (place, journal) in cursor.iter_mut().zip(journals) {
            *place = journal.last().map_or(*place, |entry| entry.id);
            events.extend(journal.into_iter().flat_map(|entry| entry.events));
        }
    }
}

/// Returns the job id of an address of the default account.
pub fn id(address: &str) -> JobId {
    let recipient = Address::parse(address).expect("the test's address is valid");
    JobId {
        account: Account::default(),
        recipient,
    }
}
