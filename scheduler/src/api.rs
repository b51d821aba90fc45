//! The HTTP API. Errors are problem documents (RFC 9457).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use config::model::Config;
use signing::api_token::Scope;
use store::handle::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, guard};
use crate::intake::accept::Accept;
use crate::intake::dsn::Reports;
use crate::intake::json::Reader;
use crate::intake::webhook::Webhooks;

pub mod addresses;
pub mod bounces;
pub mod destinations;
pub mod dsn;
pub mod events;
pub mod facts;
pub mod fields;
pub mod health;
pub mod hooks;
pub mod items;
pub mod page;
pub mod problem;
pub mod quarantine;

use items::answers::AnswerRoom;
use problem::Problem;

/// What every handler can use.
#[derive(Clone, Debug)]
pub struct Api {
    /// The store.
    pub store: Store,
    /// The door for bounces.
    pub accept: Accept,
    /// The way in for delivery reports.
    pub reports: Reports,
    /// Bounds on what comes in.
    pub limits: Limits,
    /// The hooks of mail services.
    pub webhooks: Webhooks,
    /// Who may do what.
    pub access: Arc<Access>,
    /// Room for batches of NDJSON: beyond it bodies wait.
    pub room: Arc<Semaphore>,
    /// Room for answers to NDJSON in temporary files.
    pub answer_room: AnswerRoom,
    /// What makes bounces of what comes in.
    pub reader: Reader,
    /// Cancelled when the process stops: streams end then.
    pub stop: CancellationToken,
}

/// Bounds on what comes in.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request that is one document.
    pub body: usize,
    /// Bytes of one line of NDJSON.
    pub line: usize,
    /// Bounces that are taken in together.
    pub batch: usize,
    /// Batches of NDJSON under way at once, of all requests together.
    pub batches: usize,
    /// Bytes of one request's answers kept in memory.
    pub answers: usize,
    /// Bounces of one document.
    pub items: usize,
    /// How long a request may stand still.
    pub idle: Duration,
}

impl Limits {
    /// The bounds that the configuration sets.
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

/// What is answered if there are as many connections as there may be: health checks, and that there
/// is no room.
pub fn reserve_router(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(no_room)
        .with_state(api)
}

/// Says that there are as many connections as there may be.
pub(crate) async fn no_room() -> Problem {
    Problem::unavailable(
        "this scheduler has as many connections as it may have, or as its client may have; try again later",
    )
}

/// All routes, each with the scope that it takes. Hooks prove themselves, and whoever watches the
/// process need not.
pub fn router(api: Api) -> Router {
    let guarded = |scope, routes: Router<Api>| {
        routes.route_layer(from_fn_with_state((api.access.clone(), scope), guard))
    };
    let ingest = Router::new()
        .route("/v1/bounces", post(bounces::post))
        .route("/v1/dsn", post(dsn::post))
        .route("/v1/facts", post(facts::post));
    let read = Router::new()
        .route("/v1/addresses/check", post(addresses::check))
        .route("/v1/addresses/{address}", get(addresses::get))
        .route("/v1/destinations", get(destinations::list::list))
        .route("/v1/destinations/{name}", get(destinations::get))
        .route("/v1/quarantine", get(quarantine::list))
        .route("/v1/hooks", get(hooks::list))
        .route("/v1/events", get(events::get));
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
            "/v1/destinations/{name}/hold",
            put(destinations::hold).delete(destinations::release),
        )
        .route(
            "/v1/destinations/{name}/limits",
            put(destinations::limit).delete(destinations::unlimit),
        )
        .route(
            "/v1/quarantine/{address}/release",
            post(quarantine::release),
        );
    Router::new()
        // Handlers bound what they read themselves, for a stream may be of any length.
        .merge(guarded(Scope::Ingest, ingest).layer(DefaultBodyLimit::disable()))
        .merge(guarded(Scope::Read, read))
        .merge(guarded(Scope::Admin, admin))
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
        .with_state(api)
}
