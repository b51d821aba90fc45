//! The list of destinations, for operators. Destinations in trouble come first, then those with
//! waiting jobs.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::describe_in_short;
use crate::api::Api;
use crate::api::page::{self, Page};
use crate::api::problem::Problem;

/// `GET /v1/destinations`: the state of each destination, in short.
pub async fn list(
    State(api): State<Api>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let (limit, after) = page::read(query, |text| text.parse().ok())?;
    let (listed, next) = api.store.destinations_after(after, limit).await?;
    let short = listed
        .iter()
        .map(|one| describe_in_short(&api, &one.destination, &one.pace, one.waiting));
    Ok(Json(json!({
        "destinations": short.collect::<Vec<_>>(),
        "next": next.map(|place| place.to_string()),
    })))
}
