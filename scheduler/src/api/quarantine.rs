//! Quarantine, for operators: lists the jobs in it, and releases one.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use domain::clock::Timestamp;
use domain::job::JobId;
use serde_json::{Value, json};
use store::quarantine::Quarantined;

use super::Api;
use super::addresses::{AccountQuery, read_job_id};
use super::page::{self, Page};
use super::problem::Problem;

/// `GET /v1/quarantine`: the jobs in it. Those that have been there longest come first.
pub async fn list(
    State(api): State<Api>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let (limit, after) = page::read(query, read_place)?;
    let found = api.store.quarantine(after.as_ref(), limit).await?;
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
    let next = found
        .last()
        .filter(|_| found.len() == limit)
        .map(write_place);
    Ok(Json(json!({"jobs": jobs, "next": next})))
}

/// `POST /v1/quarantine/{address}/release`: the address's job is due now. Its lapses are counted
/// from zero again.
pub async fn release(
    State(api): State<Api>,
    address: Result<Path<String>, PathRejection>,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let id = read_job_id(address, query)?;
    if !api.store.put_back(&id).await? {
        return Err(Problem::not_found(
            "this address has no job in quarantine; GET /v1/quarantine lists those that have one",
        ));
    }
    let job = api.store.address(&id).await?.job;
    let destination = job.as_ref().map(|job| &job.job.head.destination);
    let due = job.as_ref().and_then(|job| job.due);
    Ok(Json(
        json!({"job": id.key(), "destination": destination, "due": due}),
    ))
}

/// Returns the place in the list after this job: the instant and the id of the job.
fn write_place(last: &Quarantined) -> String {
    format!("{}/{}", last.since.ms(), last.job.key())
}

fn read_place(text: &str) -> Option<Quarantined> {
    let (since, job) = text.split_once('/')?;
    let since = Timestamp::from_ms(since.parse().ok()?);
    Some(Quarantined {
        job: JobId::from_key(job).ok()?,
        since,
        lapses: None,
    })
}
