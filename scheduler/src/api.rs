//! The HTTP API: its routes, and what all handlers share. Errors are problem documents (RFC 9457).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post, put};
use config::model::Config;
use signing::api_token::Scope;
use store::handle::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Requirement, guard};
use crate::event_readers::EventReaders;
use crate::intake::accept::Accept;
use crate::intake::dsn::Reports;
use crate::intake::json::Reader;
use crate::intake::webhook::Webhooks;

pub mod addresses;
pub mod bounces;
pub mod destinations;
pub mod dsn;
mod encoding;
pub mod events;
pub mod facts;
pub mod fields;
pub mod health;
pub mod hooks;
pub mod items;
pub mod job_events;
pub mod metrics;
pub mod page;
pub mod problem;
pub mod quarantine;

use encoding::refuse_encoded;
use items::answers::AnswerSpace;
use problem::Problem;

/// What every handler can use.
#[derive(Clone, Debug)]
pub struct Api {
    /// The store.
    pub store: Store,
    /// Accepts bounces and facts.
    pub accept: Accept,
    /// Accepts delivery reports.
    pub reports: Reports,
    /// Bounds on requests.
    pub limits: Limits,
    /// The webhooks of mail services.
    pub webhooks: Webhooks,
    /// Decides what the bearer of a token may do.
    pub access: Arc<Access>,
    /// The open streams of events.
    pub event_readers: Arc<EventReaders>,
    /// Limits the batches of NDJSON in progress. Further batches wait, and their bodies are not
    /// read.
    pub batch_permits: Arc<Semaphore>,
    /// The space for answers to NDJSON in temporary files.
    pub answer_space: AnswerSpace,
    /// Reads bounces.
    pub reader: Reader,
    /// The address of a trace in a trace viewer, with `{trace_id}` in it.
    pub trace_url: Option<Arc<str>>,
    /// Cancelled when the process is asked to stop. From then on it is not ready.
    pub draining: CancellationToken,
    /// Cancelled when it takes no more requests. Streams of events then end.
    pub stop: CancellationToken,
    /// How long a live worker may send no heartbeat.
    pub silent_max: Duration,
}

/// Bounds on requests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest request that is one document, in bytes.
    pub body: usize,
    /// The longest line of NDJSON, in bytes.
    pub line: usize,
    /// How many bounces are handed to the store together.
    pub batch: usize,
    /// How many batches of NDJSON are in progress at once, of all requests together.
    pub batches: usize,
    /// How many bytes of one request's answers are kept in memory.
    pub answers: usize,
    /// How many bounces one document may have.
    pub items: usize,
    /// How long a client may send nothing of its request.
    pub idle: Duration,
}

impl Limits {
    /// Returns the bounds that the configuration sets.
    pub fn from_config(config: &Config) -> Self {
        let scheduler = &config.scheduler;
        Self {
            body: scheduler.body_max,
            line: scheduler.line_max,
            batch: scheduler.batch,
            batches: scheduler.batches,
            answers: scheduler.answers_in_memory,
            items: scheduler.items_max,
            idle: scheduler.idle_max,
        }
    }
}

/// What `/metrics` requires: it shows the mail of all accounts.
const METRICS: Requirement = Requirement::all_accounts(Scope::Read);

/// The routes for connections in the reserve, which are used when there are as many others as
/// allowed. Health checks and requests for metrics are answered. Any other request is answered with
/// 503.
pub fn reserve_router(api: Api) -> Router {
    let read = Router::new()
        .route("/metrics", get(metrics::get))
        .route_layer(from_fn_with_state((api.access.clone(), METRICS), guard));
    Router::new()
        .merge(read)
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(no_free_connection)
        .with_state(api)
}

async fn no_free_connection() -> Problem {
    Problem::unavailable(
        "this scheduler has as many connections as it may have in all, or from this client; \
         try again later",
    )
}

/// All routes, each with the token that it requires. If a token for some accounts suffices, the
/// handler checks the account. Webhooks are verified in another way, and health checks need no
/// token.
pub fn router(api: Api) -> Router {
    let guarded = |required: Requirement, routes: Router<Api>| {
        routes.route_layer(from_fn_with_state((api.access.clone(), required), guard))
    };
    let ingest = Router::new()
        .route("/v1/bounces", post(bounces::post))
        .route("/v1/dsn", post(dsn::post))
        .route("/v1/facts", post(facts::post));
    let read = Router::new()
        .route("/v1/addresses/check", post(addresses::check))
        .route("/v1/addresses/{address}", get(addresses::get))
        .route("/v1/addresses/{address}/events", get(job_events::get))
        .route("/v1/destinations", get(destinations::list::list))
        .route("/v1/destinations/{name}", get(destinations::get))
        .route("/v1/quarantine", get(quarantine::list))
        .route("/v1/events", get(events::get));
    let read_all = Router::new().route("/v1/hooks", get(hooks::list));
    let metrics = Router::new().route("/metrics", get(metrics::get));
    let admin = Router::new()
        .route(
            "/v1/addresses/{address}/suppress",
            post(addresses::suppress),
        )
        .route(
            "/v1/addresses/{address}/reinstate",
            post(addresses::reinstate),
        )
        .route(
            "/v1/quarantine/{address}/release",
            post(quarantine::release),
        );
    // All accounts share a destination.
    let admin_all = Router::new()
        .route(
            "/v1/destinations/{name}/hold",
            put(destinations::hold).delete(destinations::release),
        )
        .route(
            "/v1/destinations/{name}/limits",
            put(destinations::limit).delete(destinations::unlimit),
        );
    let ingest = guarded(Requirement::scope(Scope::Ingest), ingest);
    Router::new()
        // The handlers bound what they read, because a stream may have any length.
        .merge(ingest.layer(DefaultBodyLimit::disable()))
        .merge(guarded(Requirement::scope(Scope::Read), read))
        .merge(guarded(Requirement::all_accounts(Scope::Read), read_all))
        .merge(guarded(METRICS, metrics))
        .merge(guarded(Requirement::scope(Scope::Admin), admin))
        .merge(guarded(Requirement::all_accounts(Scope::Admin), admin_all))
        .route(
            "/v1/hooks/{service}",
            post(hooks::post).layer(DefaultBodyLimit::disable()),
        )
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(async || {
            Problem::not_found("there is nothing at this path; the API is below /v1")
        })
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn(refuse_encoded))
        .with_state(api)
}
