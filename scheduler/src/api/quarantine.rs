//! Quarantine, for operators: lists the jobs in it, and releases one.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use domain::clock::Timestamp;
use serde_json::{Value, json};
use store::quarantine::QuarantinePlace;

use super::Api;
use super::addresses::{AccountQuery, read_job_id};
use super::page::{self, Page};
use super::problem::Problem;
use crate::access::caller::Caller;

/// `GET /v1/quarantine`: its jobs of the caller's accounts. Those that have been there longest come
/// first.
pub async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let (limit, after) = page::read(query, read_place)?;
    let page = api
        .store
        .quarantine(caller.accounts(), after.as_ref(), limit)
        .await?;
    let found = &page.jobs;
    let domains: Vec<&str> = found.iter().map(|one| one.job.recipient.domain()).collect();
    let destinations = api.store.destinations(&domains).await?;
    let jobs: Vec<Value> = found
        .iter()
        .zip(destinations)
        .map(|(one, destination)| {
            json!({
                "job": one.job.key(),
                "destination": destination,
                "since": one.since,
                "lapses": one.lapses,
            })
        })
        .collect();
    let next = page.next.as_ref().map(write_place);
    Ok(Json(json!({"jobs": jobs, "next": next})))
}

/// `POST /v1/quarantine/{address}/release`: the address's job is due now. Its lapses are counted
/// from zero again.
pub async fn release(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    address: Result<Path<String>, PathRejection>,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let id = read_job_id(&caller, address, query)?;
    let store = api.store.on_behalf_of(caller.token());
    if !store.put_back(&id).await? {
        return Err(Problem::not_found(
            "this address has no job in quarantine; those that have one are listed by \
             GET /v1/quarantine and `redeliver quarantine list`",
        ));
    }
    tracing::info!(
        by = caller.name(),
        job = store.ids().hash(&id.key()),
        "an operator released a job from quarantine"
    );
    let job = store.address(&id).await?.job;
    let destination = job.as_ref().map(|job| &job.job.head.destination);
    let due = job.as_ref().and_then(|job| job.due);
    Ok(Json(
        json!({"job": id.key(), "destination": destination, "due": due}),
    ))
}

/// Writes a place in the list: the instant, and the id of a job or its beginning.
fn write_place(place: &QuarantinePlace) -> String {
    format!("{}/{}", place.since.ms(), place.id)
}

fn read_place(text: &str) -> Option<QuarantinePlace> {
    let (since, id) = text.split_once('/')?;
    let since = Timestamp::from_ms(since.parse().ok()?);
    Some(QuarantinePlace {
        since,
        id: id.to_owned(),
    })
}
