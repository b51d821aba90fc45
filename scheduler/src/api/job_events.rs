//! `GET /v1/addresses/{address}/events`: the events of the address's latest job, which may have
//! ended.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use store::job_events::ReadBounds;

use super::Api;
use super::addresses::{read_id, with_trace_url};
use super::problem::Problem;
use crate::access::caller::Caller;

/// How much of the journal one request reads. It takes well under a second.
const READ: ReadBounds = ReadBounds {
    entries: 20_000,
    bytes: 32 << 20,
};

/// The query of a request for the events of an address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    account: Option<String>,
    /// Where to continue: the field `next` of an earlier answer.
    before: Option<String>,
}

/// `GET /v1/addresses/{address}/events`.
pub async fn get(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    address: Result<Path<String>, PathRejection>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(EventsQuery { account, before }) = query?;
    let id = read_id(&caller, address, account.as_deref())?;
    let before = before
        .map(|text| {
            text.parse().map_err(|_| {
                let detail =
                    "this is no place in the journal; use the field next of an earlier answer";
                Problem::bad_field("before", detail)
            })
        })
        .transpose()?;
    let found = api.store.job_events(&id, before, READ).await?;
    let events: Vec<Value> = found
        .events
        .iter()
        .map(|one| {
            let mut wire = one.event.to_wire(&one.id, one.time);
            if let Some(trace) = &one.event.trace_id {
                with_trace_url(&mut wire, trace, api.trace_url.as_deref());
            }
            wire
        })
        .collect();
    Ok(Json(json!({
        "job": id.key(),
        "events": events,
        "complete": found.is_from_start,
        "next": found.next.map(|place| place.to_string()),
    })))
}
