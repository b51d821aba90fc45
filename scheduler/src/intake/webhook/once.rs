//! What is proven is taken in to its end, whether or not whoever brought it waits for the answer;
//! and what is good for one time is taken in once, however often and by how many it is brought.

use std::panic;
use std::sync::Arc;

use config::hooks::Service;
use store::error::StoreError;
use tokio::sync::Semaphore;

use super::{Denied, Event, Received, Webhooks, name};

/// How many requests are taken in at once. Those behind wait, and are gone with whoever brought
/// them.
const UNDER_WAY_MAX: u32 = 256;

/// Room for requests that are taken in. Cloning it shares it.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNDER_WAY_MAX as usize)))
    }
}

impl Webhooks {
    /// Waits until nothing is under way. Nobody may bring anything any more.
    pub async fn finish(&self) {
        let _all = self
            .room
            .0
            .acquire_many(UNDER_WAY_MAX)
            .await
            .expect("nobody closes it");
    }

    /// Takes in what a request holds. A client that hangs up midway would leave half of it, and a
    /// claim that its next try had to wait for.
    pub(super) async fn process_detached(
        &self,
        service: Service,
        events: Vec<Event>,
        whole: Option<String>,
    ) -> Result<Result<Received, Denied>, StoreError> {
        let room = self
            .room
            .0
            .clone()
            .acquire_owned()
            .await
            .expect("nobody closes it");
        let webhooks = self.clone();
        let task = tokio::spawn(async move {
            let _room = room;
            let taken = match whole {
                Some(id) => {
                    webhooks
                        .take_once(service, &name(service, &id), events)
                        .await?
                }
                None => Ok(webhooks.process_all(service, events).await?),
            };
            match &taken {
                Ok(received) => webhooks.counts.add(service, received),
                Err(denied) => webhooks.counts.deny(service, denied),
            }
            Ok(taken)
        });
        // Nobody cancels it, so it has panicked where it did not end.
        task.await
            .unwrap_or_else(|err| panic::resume_unwind(err.into_panic()))
    }

    /// Takes in a request that is good for one time.
    async fn take_once(
        &self,
        service: Service,
        id: &str,
        events: Vec<Event>,
    ) -> Result<Result<Received, Denied>, StoreError> {
        let Some(claim) = self.store.claim_request(id).await? else {
            return Ok(Err(Denied::UnderWay));
        };
        let taken = self
            .process_unless_seen(service, id.to_owned(), events)
            .await;
        // Whether it could be taken in or not: if not, the service tells it again.
        let ended = self.store.release_request(&claim).await;
        let received = taken?;
        ended?;
        Ok(Ok(received))
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
        // Only now: a crash before repeats what the service tells, and loses nothing.
        self.store.mark_seen(&id).await?;
        Ok(received)
    }
}
