//! The HTTP API. Errors are problem documents (RFC 9457).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use shared::config::Config;
use shared::store::Store;
use tokio_util::sync::CancellationToken;

use crate::intake::accept::Accept;

pub mod addresses;
pub mod bounces;
pub mod destinations;
pub mod events;
pub mod facts;
pub mod fields;
pub mod health;
pub mod problem;
pub mod quarantine;

use problem::Problem;

/// What every handler can use.
#[derive(Clone, Debug)]
pub struct Api {
    /// The store.
    pub store: Store,
    /// The door for bounces.
    pub accept: Accept,
    /// Bounds on what comes in.
    pub limits: Limits,
    /// The routes that a message can name.
    pub routes: Arc<[String]>,
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
    /// Bytes of one message's inline content.
    pub inline: usize,
    /// Bounces per call to the store.
    pub batch: usize,
    /// Bytes of answers kept in memory.
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
            inline: config.job.inline_max,
            batch: scheduler.batch,
            answers: scheduler.answers_in_memory,
            items: scheduler.items_max,
            idle: scheduler.idle_max,
        }
    }
}

/// All routes.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/bounces", post(bounces::post))
        .route("/v1/facts", post(facts::post))
        // Handlers bound what they read themselves, for a stream may be of any length.
        .layer(DefaultBodyLimit::disable())
        .route("/v1/addresses/check", post(addresses::check).layer(DefaultBodyLimit::max(api.limits.body)))
        .route("/v1/addresses/{address}", get(addresses::get))
        .route("/v1/addresses/{address}/suppress", post(addresses::suppress))
        .route("/v1/addresses/{address}/reinstate", post(addresses::reinstate))
        .route("/v1/destinations/{name}", get(destinations::get))
        .route("/v1/destinations/{name}/hold", put(destinations::hold).delete(destinations::release))
        .route("/v1/destinations/{name}/limits", put(destinations::limit).delete(destinations::unlimit))
        .route("/v1/quarantine", get(quarantine::list))
        .route("/v1/quarantine/{address}/release", post(quarantine::release))
        .route("/v1/events", get(events::get))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(async || Problem::not_found("there is nothing at this path; the API is below /v1"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .with_state(api)
}
