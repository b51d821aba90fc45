//! `POST /v1/dsn`: one delivery report, as the mail in which it arrived.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::account::Account;
use serde::Deserialize;

use super::Api;
use super::items::{collect, essence};
use super::problem::Problem;
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
    let answer = api
        .reports
        .process(
            api.reports.read(message).await,
            &Origin {
                account,
                return_path: query.to,
            },
        )
        .await?;
    let status = if answer.refusal().is_some() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(answer.to_wire())).into_response())
}
