//! Health checks: whether the process is alive, and whether it can work.

use axum::extract::State;

use super::Api;
use super::problem::Problem;

/// `GET /healthz`: the process is alive.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the process is alive, and the store answers.
pub async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.store.ping().await?;
    Ok("ready\n")
}
