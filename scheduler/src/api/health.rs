//! For those who watch the process: is it alive, and can it work.

use axum::extract::State;

use super::Api;
use super::problem::Problem;

/// `GET /healthz`: the process answers.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the store answers too.
pub async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.store.ping().await?;
    Ok("ready\n")
}
