//! A small world for one test: a store of its own, a clock that stands until the test moves it, the
//! door that bounces come in by, and a worker's hands that work one step at a time.

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
use store::lease::{Extended, GivenBack};
use store::schedule::Answer;
use store::settle::{SettleCall, Settled, Settlement};
use tokio_util::sync::CancellationToken;

use crate::bounce::{FULL, bounce};
use crate::mail::MailSystem;

mod open;
mod worker;

pub use open::{Deployment, Settings};
pub use worker::RunningWorker;

/// How long leases last in tests.
pub const LEASE: Duration = Duration::from_secs(60);

/// The smallest step of the clock.
pub const MS: Duration = Duration::from_millis(1);

/// A second.
pub const SECOND: Duration = Duration::from_secs(1);

/// One hour.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// One day.
pub const DAY: Duration = Duration::from_secs(86_400);

/// How many shards a store has.
pub const SHARDS: u16 = 4;

/// How many entries of the journal are read at once.
const JOURNAL_PAGE: usize = 1_000;

/// The world of one test.
pub struct World {
    /// The clock, which stands until it is moved.
    pub clock: Arc<ManualClock>,
    /// The store.
    pub store: Store,
    /// Where all mail goes.
    pub mail: Arc<MailSystem>,
    /// The prefix of its keys.
    pub prefix: String,
    connections: Connections,
    settings: Settings,
    accept: Accept,
    attempter: Attempter,
}

impl World {
    /// What the clock shows.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes one bounce in, by the door that all bounces come in by.
    pub async fn take_in(&self, bounce: Value) -> Answer {
        self.try_take_in(bounce).await.expect("Redis answers")
    }

    /// The same, where Redis may be away.
    pub async fn try_take_in(&self, bounce: Value) -> Result<Answer, StoreError> {
        let bounce = json::read(bounce, self.now(), 64 << 10).expect("the test's bounce is one");
        let mut answered = self.accept.accept(vec![bounce]).await?;
        Ok(answered.remove(0).answer)
    }

    /// Tells one fact, by the door that all facts come in by. Does not wait for workers: who leases
    /// jobs by hand is none.
    pub async fn tell(&self, fact: Value) -> FactAnswer {
        let fact = facts::read(fact).expect("the test's fact is one");
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
            .apply_operator_command(id(address), FactOrCommand::Reinstate)
            .await
            .expect("Redis answers")
    }

    /// Takes many bounces in, some hundred at a time.
    pub async fn take_in_all(&self, bounces: impl Iterator<Item = Value>) {
        let read =
            |bounce| json::read(bounce, self.now(), 64 << 10).expect("the test's bounce is one");
        let mut bounces = bounces.map(read).peekable();
        while bounces.peek().is_some() {
            self.accept
                .accept(bounces.by_ref().take(BATCH_MAX).collect())
                .await
                .expect("Redis answers");
        }
    }

    /// Takes in a bounce that starts a job, moves the clock to where the job is due, and tells when
    /// that is.
    pub async fn take_in_and_wait(&self, bounce: Value) -> Timestamp {
        let Answer::Scheduled { due } = self.take_in(bounce).await else {
            panic!("the address has a job already")
        };
        self.clock.set(due);
        due
    }

    /// Takes in `count` bounces to as many addresses of one domain, `user0` and so on, and moves
    /// the clock to where the jobs are all due.
    pub async fn with_due(&self, domain: &str, count: usize) {
        let read = |n| {
            let posted = bounce(&format!("user{n}@{domain}"), "m1", FULL);
            json::read(posted, self.now(), 64 << 10).expect("it is a bounce")
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

    /// Leases at most `batch` of the jobs that are due in the shard of a destination.
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

    /// The pace of a destination as it is now.
    pub async fn pace(&self, destination: &str) -> PaceReport {
        self.store
            .pace(&Destination::named(destination))
            .await
            .expect("Redis answers")
    }

    /// Leases all jobs that are due.
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

    /// Leases the one job that is due.
    ///
    /// # Panics
    /// Where there is none, or more than one.
    pub async fn claim_one(&self) -> LeasedJob {
        let mut jobs = self.claim().await;
        assert_eq!(jobs.len(), 1, "one job is due: {jobs:?}");
        jobs.remove(0)
    }

    /// From now on mail leaves by this sender.
    pub fn sends_by(&mut self, sender: Arc<dyn Sender>) {
        self.attempter = open::attempter(sender, self.settings.confirm, &self.clock);
    }

    /// Attempts a leased job; what is to be settled.
    pub async fn attempt(&self, leased: LeasedJob) -> Settlement {
        let never = CancellationToken::new();
        *self
            .attempter
            .attempt(leased, &never, &LeaseEnd::default())
            .await
            .expect("an attempt that is not cut off ends in a settlement")
    }

    /// Attempts leased jobs, whose messages are all answered with `reply`, and settles each in a
    /// call of its own.
    pub async fn end(&self, jobs: impl IntoIterator<Item = LeasedJob>, reply: &str) {
        self.mail.says(reply);
        for leased in jobs {
            let settlement = self.attempt(leased).await;
            assert_eq!(self.settle(&settlement).await, Settled::Done);
        }
    }

    /// Lengthens a lease to its full length from now.
    pub async fn extend(&self, lease: &Lease) -> Extended {
        self.store.extend(&[lease.key()], LEASE).await.remove(0)
    }

    /// Gives a lease back; whether its token was valid.
    pub async fn release(&self, lease: &Lease) -> bool {
        self.store
            .release(std::slice::from_ref(lease), GivenBack::Untried)
            .await
            .expect("Redis answers")
            == 1
    }

    /// Gives a lease back whose attempt crashed; whether its token was valid.
    pub async fn crash(&self, lease: &Lease) -> bool {
        self.store
            .release(std::slice::from_ref(lease), GivenBack::Crashed)
            .await
            .expect("Redis answers")
            == 1
    }

    /// Settles one attempt.
    pub async fn settle(&self, settlement: &Settlement) -> Settled {
        self.settle_all(std::slice::from_ref(settlement)).await[0]
    }

    /// Settles attempts, in one call.
    pub async fn settle_all(&self, settlements: &[Settlement]) -> Vec<Settled> {
        self.store
            .settle(SettleCall::unique(), settlements)
            .await
            .expect("Redis answers")
            .settled
    }

    /// Claims, attempts and settles all jobs that are due. Tells how many.
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

    /// All that is known of an address.
    pub async fn report(&self, address: &str) -> AddressReport {
        self.store
            .address(&id(address))
            .await
            .expect("Redis answers")
    }

    /// The job of an address that has one.
    ///
    /// # Panics
    /// Where it has none.
    pub async fn job(&self, address: &str) -> JobReport {
        self.job_if_any(address)
            .await
            .expect("the address has a job")
    }

    /// The job of an address, if it has one.
    pub async fn job_if_any(&self, address: &str) -> Option<JobReport> {
        self.report(address).await.job
    }

    /// The ids of the messages that wait in an address's job, oldest first; empty where it has
    /// none.
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

    /// The record of an address's standing; none means active.
    pub async fn standing_record(&self, address: &str) -> Option<StandingRecord> {
        self.report(address).await.standing
    }

    /// An address's standing.
    pub async fn standing(&self, address: &str) -> Standing {
        self.standing_record(address)
            .await
            .map_or(Standing::Active, |record| record.at(self.now()))
    }

    /// All events so far. Those of one address are in order.
    pub async fn events(&self) -> Vec<Event> {
        all_events(&self.store).await
    }

    /// All events of one kind so far.
    pub async fn events_of(&self, kind: EventKind) -> Vec<Event> {
        self.events()
            .await
            .into_iter()
            .filter(|event| event.kind == kind)
            .collect()
    }

    /// The final events so far, as kind, message id and reason.
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

/// All events of a store so far. Those of one address are in order.
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

/// The job id of an address of the default account.
pub fn id(address: &str) -> JobId {
    let recipient = Address::parse(address).expect("the test's address is one");
    JobId {
        account: Account::default(),
        recipient,
    }
}
