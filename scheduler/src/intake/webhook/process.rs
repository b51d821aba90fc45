//! Processes verified requests. A request is processed to the end even if its client disconnects. A
//! request that is valid only once is processed once, however often and by however many clients it
//! is sent. Knows nothing of how services sign or write their events.

use std::panic;
use std::sync::Arc;

use config::hooks::Service;
use domain::bounce::Bounce;
use domain::fact::Fact;
use serde_json::Value;
use store::error::StoreError;
use store::handle::Store;
use tokio::sync::Semaphore;

use super::counts::Counts;
use super::event::{Event, EventMeaning};
use super::received::{ReceiveError, Received};
use super::request::Denied;
use crate::intake::accept::{Accept, Answered, FactAnswered};
use crate::intake::facts;
use crate::intake::json::{self, Refusal};

/// How many requests are processed at the same time. Further requests wait. A request that still
/// waits is dropped if its client disconnects.
const AT_ONCE_MAX: u32 = 256;

/// Processes verified requests. Clones share the limit and the counts.
#[derive(Clone, Debug)]
pub(super) struct Processor {
    store: Store,
    accept: Accept,
    counts: Arc<Counts>,
    batch: usize,
    permits: Arc<Semaphore>,
}

impl Processor {
    /// A processor that hands the store at most `batch` events at a time.
    pub(super) fn new(store: Store, accept: Accept, counts: Arc<Counts>, batch: usize) -> Self {
        let permits = Arc::new(Semaphore::new(AT_ONCE_MAX as usize));
        Self {
            store,
            accept,
            counts,
            batch,
            permits,
        }
    }

    /// Waits until no request is being processed. No new request may arrive any more.
    pub(super) async fn finish(&self) {
        let _all = self
            .permits
            .acquire_many(AT_ONCE_MAX)
            .await
            .expect("the semaphore is never closed");
    }

    /// Processes the events of a request in a task of its own. Otherwise a client that disconnects
    /// midway would leave half of the events unprocessed. It would also leave a claim behind, and
    /// its next try would have to wait until the claim expires.
    pub(super) async fn process_detached(
        &self,
        service: Service,
        events: Vec<Event>,
        request_id: Option<String>,
    ) -> Result<Received, ReceiveError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let processor = self.clone();
        let task = tokio::spawn(async move {
            let _permit = permit;
            let processed = match request_id {
                Some(id) => {
                    let id = scoped_id(service, &id);
                    processor.process_once(service, id, events).await
                }
                None => processor
                    .process_all(service, events)
                    .await
                    .map_err(ReceiveError::Store),
            };
            match &processed {
                Ok(received) => processor.counts.add(service, received),
                Err(ReceiveError::Denied(denied)) => processor.counts.deny(service, denied),
                Err(ReceiveError::Store(_)) => {}
            }
            processed
        });
        // The task is never cancelled, so an error here means that it panicked.
        task.await
            .unwrap_or_else(|err| panic::resume_unwind(err.into_panic()))
    }

    /// Processes a request that is valid only once. A claim keeps out other requests with its id.
    async fn process_once(
        &self,
        service: Service,
        id: String,
        events: Vec<Event>,
    ) -> Result<Received, ReceiveError> {
        let Some(claim) = self.store.claim_request(&id).await? else {
            return Err(Denied::UnderWay.into());
        };
        let processed = self.process_unless_seen(service, id, events).await;
        // Also after a failure, because the service then sends the request again.
        let released = self.store.release_request(&claim).await;
        let received = processed?;
        released?;
        Ok(received)
    }

    async fn process_unless_seen(
        &self,
        service: Service,
        id: String,
        events: Vec<Event>,
    ) -> Result<Received, StoreError> {
        let id = [id];
        if self.store.seen(&id).await?.contains(&true) {
            return Ok(Received {
                replayed: events.len() as u64,
                ..Received::default()
            });
        }
        let received = self.process_all(service, events).await?;
        // Marked only now: after a crash before this line the service sends the request again, and
        // nothing is lost.
        self.store.mark_seen(&id).await?;
        Ok(received)
    }

    async fn process_all(
        &self,
        service: Service,
        events: Vec<Event>,
    ) -> Result<Received, StoreError> {
        let mut received = Received::default();
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let batch = events.by_ref().take(self.batch).collect();
            self.process_batch(service, batch, &mut received).await?;
        }
        Ok(received)
    }

    async fn process_batch(
        &self,
        service: Service,
        events: Vec<Event>,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        let id = |event: &Event| event.remembered_id().map(|id| scoped_id(service, id));
        let ids: Vec<String> = events.iter().filter_map(id).collect();
        let mut seen = self.store.seen(&ids).await?.into_iter();
        let mut bounces = Vec::new();
        let mut facts = Vec::new();
        // For each bounce or fact of the request, in order: whether it is a bounce, or its refusal.
        let mut items: Vec<Result<bool, Refusal>> = Vec::new();
        for event in events {
            if event.remembered_id().is_some() && seen.next() == Some(true) {
                received.replayed += 1;
                continue;
            }
            match event.meaning {
                EventMeaning::Bounce(item) => items.push(self.read_bounce(item).map(|bounce| {
                    bounces.push(bounce);
                    true
                })),
                EventMeaning::Fact(item) => {
                    let accounts = self.accept.signed_accounts();
                    let fact = facts::read_reported(item, accounts, self.store.clock().now());
                    items.push(fact.map(|fact: Fact| {
                        facts.push(fact);
                        false
                    }));
                }
                EventMeaning::Unreadable(why) => items.push(Err(Refusal::whole(why))),
                EventMeaning::Ignored(_) => received.ignored += 1,
                EventMeaning::Unknown(kind) => *received.unknown.entry(kind).or_default() += 1,
            }
        }
        let accept = self.accept.clone().with_source(service.as_str());
        let answers = accept.accept(bounces).await?;
        let mut bounce_answers = answers.iter().map(Answered::to_wire);
        let (answers, still_sent_to) = self.accept.record_facts(facts).await?;
        let mut fact_answers = answers.iter().map(FactAnswered::to_wire);
        received
            .answers
            .extend(items.into_iter().filter_map(|item| match item {
                Ok(true) => bounce_answers.next(),
                Ok(false) => fact_answers.next(),
                Err(refusal) => Some(refusal.to_wire()),
            }));
        // Marked before waiting for workers. If a complaint in this request takes too long, the
        // service sends the request again, and the repeated bounces then start nothing.
        self.store.mark_seen(&ids).await?;
        self.accept.wait_for_workers(still_sent_to).await
    }

    fn read_bounce(&self, item: Value) -> Result<Bounce, Refusal> {
        let now = self.store.clock().now();
        let mut bounce = json::read_reported(item, now)?;
        self.accept.signed_accounts().apply(&mut bounce, now);
        Ok(bounce)
    }
}

/// Returns the id prefixed with the service, so that ids of different services never collide.
fn scoped_id(service: Service, id: &str) -> String {
    format!("{}/{id}", service.as_str())
}
