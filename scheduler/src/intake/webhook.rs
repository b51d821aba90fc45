//! Webhooks of mail services. Each service has a file: how its requests prove where they come from,
//! and what its events mean as bounces and facts in the wire format of the JSON adapters, which
//! check every field once more. What is told twice is recognised by its id.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use axum::http::HeaderMap;
use config::hooks::{Hook, Hooks, Service};
use domain::bounce::Bounce;
use domain::clock::Timestamp;
use domain::fact::{Fact, FactKind};
use serde_json::{Value, json};
use store::error::StoreError;
use store::handle::Store;

use super::accept::{Accept, Answered, FactAnswered};
use super::facts;
use super::json::{self, Refusal};

pub mod counts;
mod draft;
pub mod fetch;
mod form;
mod kumomta;
mod mailgun;
mod once;
mod postmark;
mod proof;
mod sendgrid;
mod ses;
mod sns;
mod sparkpost;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tables;

use counts::Counts;
use fetch::Fetch;
use once::Room;
use sns::Sns;

/// A request as it came.
#[derive(Debug)]
pub struct Delivery<'r> {
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// Its body, byte for byte: signatures are over these.
    pub body: &'r [u8],
}

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It does not prove where it comes from; the text says what is missing, and nothing of what is
    /// expected.
    Unproven(&'static str),
    /// It is what nobody can read.
    Unreadable(String),
    /// It could not be decided now; worth another try.
    Undecided(String),
    /// It is good for one time, and is being taken in at this moment; worth another try, in case
    /// that fails.
    UnderWay,
}

/// One event of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What tells it from all others of this service, where anything does.
    pub id: Option<String>,
    /// What it says.
    pub said: Said,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A bounce, in the wire format of `POST /v1/bounces`.
    Bounce(Value),
    /// A fact, in the wire format of `POST /v1/facts`.
    Fact(Value),
    /// Something of no use here, by its type.
    Ignored(&'static str),
    /// Something that nobody here knows, by its type.
    Unknown(String),
}

/// What came of a request.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// One answer per bounce and fact, in order.
    pub answers: Vec<Value>,
    /// How many events were of no use here.
    pub ignored: u64,
    /// How many there were of each type that nobody here knows.
    pub unknown: BTreeMap<String, u64>,
    /// How many had been told before.
    pub replayed: u64,
}

/// What a proven request holds.
enum Proven {
    /// Events, as the service's own adapter reads them; and what tells the whole request from all
    /// others, if anything.
    Body(Vec<u8>, Option<String>),
    /// Nothing; what there was to do is done.
    Done(&'static str),
}

/// The hooks of all services.
#[derive(Clone, Debug)]
pub struct Webhooks {
    hooks: Arc<Hooks>,
    store: Store,
    accept: Accept,
    sns: Arc<Sns>,
    counts: Arc<Counts>,
    batch: usize,
    /// How many events one request may have.
    events_max: usize,
    inline_max: usize,
    room: Room,
}

impl Webhooks {
    /// The hooks that are configured. What SNS has to be asked for goes through `fetch`.
    pub fn new(
        hooks: Hooks,
        store: Store,
        accept: Accept,
        fetch: Arc<dyn Fetch>,
        bounds: (usize, usize),
    ) -> Self {
        let (batch, events_max) = bounds;
        let sns = Arc::new(Sns::new(fetch));
        let (hooks, counts, room) = (Arc::new(hooks), Arc::default(), Room::default());
        Self {
            hooks,
            store,
            accept,
            sns,
            counts,
            batch,
            events_max,
            inline_max: 0,
            room,
        }
    }

    /// The settings of a service's hook, where it is configured.
    pub fn hook(&self, service: Service) -> Option<&Hook> {
        self.hooks.of(service)
    }

    /// What has come in since the start, by service.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes a request of a configured service. What is proven is taken in to its end, even where
    /// whoever brought it is gone before.
    ///
    /// # Errors
    /// [`Denied`] where nothing was taken; those of the store, where the request may be made again.
    pub async fn take(
        &self,
        service: Service,
        hook: &Hook,
        delivery: &Delivery<'_>,
    ) -> Result<Result<Received, Denied>, StoreError> {
        let (events, whole) = match self.prove_and_read(service, hook, delivery).await {
            Ok(told) => told,
            Err(denied) => {
                self.counts.deny(service, &denied);
                return Ok(Err(denied));
            }
        };
        self.process_detached(service, events, whole).await
    }

    async fn process_all(
        &self,
        service: Service,
        events: Vec<Event>,
    ) -> Result<Received, StoreError> {
        let mut received = Received::default();
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            self.take_batch(
                service,
                events.by_ref().take(self.batch).collect(),
                &mut received,
            )
            .await?;
        }
        Ok(received)
    }

    /// The events of a request that is proven, and what tells it from all others, if anything.
    async fn prove_and_read(
        &self,
        service: Service,
        hook: &Hook,
        delivery: &Delivery<'_>,
    ) -> Result<(Vec<Event>, Option<String>), Denied> {
        let (body, whole) = match self.prove(service, hook, delivery).await? {
            Proven::Done(what) => {
                return Ok((
                    vec![Event {
                        id: None,
                        said: Said::Ignored(what),
                    }],
                    None,
                ));
            }
            Proven::Body(body, whole) => (body, whole),
        };
        let events = read(service, hook, delivery.headers, &body).map_err(Denied::Unreadable)?;
        if events.len() > self.events_max {
            return Err(Denied::Unreadable(format!(
                "a request may have {} events",
                self.events_max
            )));
        }
        Ok((events, whole))
    }

    async fn prove(
        &self,
        service: Service,
        hook: &Hook,
        delivery: &Delivery<'_>,
    ) -> Result<Proven, Denied> {
        let now = self.store.clock().now();
        match service {
            Service::Ses => self.sns.prove(hook, delivery, now).await,
            Service::SendGrid => sendgrid::prove(hook, delivery, now),
            Service::Mailgun => mailgun::prove(hook, delivery, now),
            Service::Postmark | Service::SparkPost => proof::basic(hook, delivery),
            Service::KumoMta => proof::bearer(hook, delivery),
        }
    }

    async fn take_batch(
        &self,
        service: Service,
        events: Vec<Event>,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        let id = |event: &Event| event.remembered_id().map(|id| name(service, id));
        let ids: Vec<String> = events.iter().filter_map(id).collect();
        let mut known = self.store.seen(&ids).await?.into_iter();
        let (mut bounces, mut told, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            if event.remembered_id().is_some() && known.next() == Some(true) {
                received.replayed += 1;
                continue;
            }
            match event.said {
                Said::Bounce(item) => places.push(self.read_bounce(item).map(|bounce| {
                    bounces.push(bounce);
                    true
                })),
                Said::Fact(item) => places.push(facts::read(item).map(|fact: Fact| {
                    told.push(fact);
                    false
                })),
                Said::Ignored(_) => received.ignored += 1,
                Said::Unknown(kind) => *received.unknown.entry(kind).or_default() += 1,
            }
        }
        let bounced = self.accept.accept(bounces).await?;
        let mut bounced = bounced.iter().map(Answered::to_wire);
        let (told, sent_to) = self.accept.record_facts(told).await?;
        let mut told = told.iter().map(FactAnswered::to_wire);
        received
            .answers
            .extend(places.into_iter().filter_map(|place| match place {
                Ok(true) => bounced.next(),
                Ok(false) => told.next(),
                Err(refusal) => Some(refusal.to_wire()),
            }));
        // Before workers are waited for: a bounce that is repeated because a complaint beside it
        // took too long starts nothing anew.
        self.store.mark_seen(&ids).await?;
        self.accept.wait_for_workers(sent_to).await
    }

    fn read_bounce(&self, item: Value) -> Result<Bounce, Refusal> {
        json::read(item, self.store.clock().now(), self.inline_max)
    }
}

impl Event {
    /// Its id, where to hear of it twice would do harm: a bounce would start a job anew, a
    /// complaint undo what an operator took back. Signs of life tell the same each time, and are
    /// too many to remember.
    fn remembered_id(&self) -> Option<&str> {
        let id = self.id.as_deref()?;
        match &self.said {
            Said::Bounce(_) => Some(id),
            Said::Fact(item) => {
                let kind = item["type"].as_str().and_then(FactKind::parse);
                kind.filter(|kind| kind.suppresses()).map(|_| id)
            }
            Said::Ignored(_) | Said::Unknown(_) => None,
        }
    }
}

impl Received {
    /// What came of it, as the API says it.
    pub fn to_wire(&mut self) -> Value {
        json!({
            "answers": mem::take(&mut self.answers), "ignored": self.ignored, "unknown": self.unknown,
            "replayed": self.replayed,
        })
    }

    /// Whether there was nothing but what nobody here knows.
    pub fn is_unknown(&self) -> bool {
        !self.unknown.is_empty() && self.answers.is_empty() && self.ignored + self.replayed == 0
    }
}

/// Reads the events of a service, be they one or many.
///
/// # Errors
/// Where nobody can; the text says why.
pub fn read(
    service: Service,
    hook: &Hook,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Vec<Event>, String> {
    match service {
        Service::Ses => ses::read(hook, body),
        Service::SendGrid => sendgrid::read(hook, body),
        Service::Mailgun => mailgun::read(hook, headers, body),
        Service::Postmark => postmark::read(hook, body),
        Service::SparkPost => sparkpost::read(hook, body),
        Service::KumoMta => kumomta::read(hook, body),
    }
}

/// An id of one service, told apart from those of the others.
fn name(service: Service, id: &str) -> String {
    format!("{}/{id}", service.as_str())
}

/// Whether what was signed at `signed` may still be taken at `now`: neither too old nor from the
/// future, but for clocks that differ.
fn is_fresh(signed: Timestamp, now: Timestamp, hook: &Hook) -> bool {
    const CLOCKS_DIFFER: std::time::Duration = std::time::Duration::from_secs(300);
    now.since(signed) <= hook.window && signed.since(now) <= CLOCKS_DIFFER
}
