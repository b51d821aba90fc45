//! Health checks: whether the process is alive, and whether it can work.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::problem::Problem;

/// What `/readyz` adds if nothing would send the mail.
const NO_WORKER: &str =
    "no worker has sent a heartbeat lately: mail is taken in, but nothing sends it";

/// `GET /healthz`: the process is alive.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the process takes requests, and the store answers. The body shows the parts.
///
/// A scheduler without workers is ready, because it can take in what they will send. So is one
/// whose Redis is full: it can still answer, and every replica would be the same.
pub async fn ready(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    if api.draining.is_cancelled() {
        let parts = json!({"ready": false, "intake": "draining"});
        let why = "draining: this scheduler stops, and soon takes no more requests";
        return Err(Problem::unavailable(why).with_members(parts));
    }
    let not_ready = |problem: Problem| {
        let parts = json!({"ready": false, "redis": "does not answer", "intake": "closed"});
        problem.with_members(parts)
    };
    api.store
        .ping()
        .await
        .map_err(|err| not_ready(Problem::from(err)))?;
    let workers = api.store.live_workers(api.silent_max).await;
    let workers = workers.map_err(|err| not_ready(Problem::from(err)))?;
    let intake = match api.store.check_intake().await {
        Ok(()) => "open".to_owned(),
        Err(err) => format!("closed: {err}"),
    };
    let mut parts =
        json!({"ready": true, "redis": "answers", "intake": intake, "workers": workers});
    if workers == 0 {
        parts["note"] = NO_WORKER.into();
    }
    Ok(Json(parts))
}
