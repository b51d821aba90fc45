//! Webhooks of mail services. Each service has a file, which verifies the requests and reads their
//! events as bounces and facts. These are in the wire format of the JSON adapters, which check
//! every field again. An event that is sent twice is recognised by its id.

use std::sync::Arc;

use axum::http::HeaderMap;
use config::hooks::{Hook, Hooks, Service};
use store::handle::Store;

use super::accept::Accept;

mod authentication;
pub mod counts;
mod draft;
mod event;
pub mod fetch;
mod form;
pub(super) mod kumomta;
mod mail_service;
mod mail_services;
mod mailgun;
mod postmark;
mod process;
mod received;
mod request;
mod sendgrid;
mod ses;
mod sns;
mod sparkpost;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tables;

use counts::Counts;
pub use event::{Event, EventMeaning};
use fetch::{Fetch, Unreachable};
use mail_services::MailServices;
use process::Processor;
pub use received::{ReceiveError, Received};
use request::Verified;
pub use request::{Denied, WebhookRequest};

/// The webhooks of all services.
#[derive(Clone, Debug)]
pub struct Webhooks {
    hooks: Arc<Hooks>,
    store: Store,
    services: Arc<MailServices>,
    counts: Arc<Counts>,
    events_max: usize,
    processor: Processor,
}

/// Bounds on the events of a request.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many events are handed to the store at a time.
    pub batch: usize,
    /// How many events one request may have.
    pub events_max: usize,
}

impl Webhooks {
    /// The webhooks that are configured. Requests to SNS go through `fetch`.
    pub fn new(
        hooks: Hooks,
        store: Store,
        accept: Accept,
        fetch: Arc<dyn Fetch>,
        bounds: Bounds,
    ) -> Self {
        let counts = Arc::<Counts>::default();
        let processor = Processor::new(store.clone(), accept, counts.clone(), bounds.batch);
        Self {
            hooks: Arc::new(hooks),
            store,
            services: Arc::new(MailServices::new(fetch)),
            counts,
            events_max: bounds.events_max,
            processor,
        }
    }

    /// Returns the settings of a service's hook, if it is configured.
    pub fn hook(&self, service: Service) -> Option<&Hook> {
        self.hooks.get(service)
    }

    /// Returns the counts of each service since the process started.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Verifies, reads and processes a request of a configured service. Once a request is verified,
    /// it is processed to completion even if the client disconnects.
    ///
    /// # Errors
    /// [`ReceiveError::Denied`] if nothing of the request was processed. [`ReceiveError::Store`] if
    /// the store failed; the request may then be sent again.
    pub async fn receive(
        &self,
        service: Service,
        hook: &Hook,
        request: &WebhookRequest<'_>,
    ) -> Result<Received, ReceiveError> {
        let (events, request_id) = match self.verify_and_read(service, hook, request).await {
            Ok(events) => events,
            Err(denied) => {
                self.counts.deny(service, &denied);
                return Err(denied.into());
            }
        };
        self.processor
            .process_detached(service, events, request_id)
            .await
    }

    /// Waits until no request is being processed. No new request may arrive any more.
    pub async fn finish(&self) {
        self.processor.finish().await;
    }

    /// Verifies a request. Returns its events, and the id of the whole request, if the service
    /// gives it one.
    async fn verify_and_read(
        &self,
        service: Service,
        hook: &Hook,
        request: &WebhookRequest<'_>,
    ) -> Result<(Vec<Event>, Option<String>), Denied> {
        let mail_service = self.services.get(service);
        let now = self.store.clock().now();
        let (body, request_id) = match mail_service.verify(hook, request, now).await? {
            Verified::Events { body, request_id } => (body, request_id),
            Verified::Handled(kind) => {
                let meaning = EventMeaning::Ignored(kind);
                return Ok((vec![Event { id: None, meaning }], None));
            }
        };
        let events = mail_service
            .read(hook, request.headers, &body)
            .map_err(Denied::Unreadable)?;
        if events.len() > self.events_max {
            return Err(Denied::Unreadable(format!(
                "the request has {} events; at most {} are allowed",
                events.len(),
                self.events_max
            )));
        }
        Ok((events, request_id))
    }
}

/// Reads the events of a service's body, which may contain one or many. Needs no running scheduler,
/// for tests and fuzzing.
///
/// # Errors
/// If the body is not in a form that the service sends. The text explains why.
pub fn read(
    service: Service,
    hook: &Hook,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Vec<Event>, String> {
    let fetch = Arc::new(Unreachable("reading needs no requests".to_owned()));
    MailServices::new(fetch)
        .get(service)
        .read(hook, headers, body)
}
