//! `POST /v1/dsn`: one delivery report, as the mail in which it arrived.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::account::Account;
use serde::Deserialize;

use super::Api;
use super::items::{collect, essence};
use super::problem::Problem;
use crate::access::caller::Caller;
use crate::intake::dsn::Origin;

/// The content types that a report may have.
const TYPES: [&str; 2] = ["message/rfc822", "message/global"];

/// The query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    /// The account of the mail if its return path names none.
    account: Option<String>,
    /// The address that the report was sent to.
    to: Option<String>,
}

/// `POST /v1/dsn`.
pub async fn post(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ReportQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let content_type = essence(request.headers());
    if !TYPES.contains(&content_type.as_str()) {
        return Err(Problem::unsupported(format!(
            "the content type \"{content_type}\" is not supported; send the mail as {}",
            TYPES[0]
        )));
    }
    let account = query.account.as_deref().map(Account::parse).transpose();
    let account = account
        .map_err(|why| Problem::bad_field("account", why.to_string()))?
        .unwrap_or_default();
    let message = collect(&api, request.into_body()).await?;
    if message.is_empty() {
        return Err(Problem::bad_request(
            "the body is empty; send the mail with the report in it",
        ));
    }
    let origin = Origin {
        account,
        return_path: query.to,
        accounts: caller.accounts().clone(),
    };
    let reports = api.reports.on_behalf_of(caller.token());
    let answer = reports
        .process(reports.read(message).await, &origin)
        .await?;
    let status = match answer.refusal() {
        None => StatusCode::ACCEPTED,
        // The account is the only field of a report that is refused.
        Some(refusal) if refusal.field.is_some() => StatusCode::FORBIDDEN,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Ok((status, Json(answer.to_wire())).into_response())
}
