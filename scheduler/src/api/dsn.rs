//! `POST /v1/dsn`: one delivery report, as the mail that it came as.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::account::Account;
use serde::Deserialize;

use super::Api;
use super::items::collect;
use super::problem::Problem;
use crate::intake::dsn::Origin;

/// Content types that a report comes as.
const TYPES: [&str; 2] = ["message/rfc822", "message/global"];

/// What can stand in the query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The account of mail whose return path does not say.
    account: Option<String>,
    /// The address that the report came to.
    to: Option<String>,
}

/// `POST /v1/dsn`.
pub async fn post(
    State(api): State<Api>,
    asked: Result<Query<Asked>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Query(asked) = asked?;
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if !TYPES.contains(&essence.as_str()) {
        return Err(Problem::unsupported(format!(
            "content type \"{essence}\"; send the mail as {}",
            TYPES[0]
        )));
    }
    let account = asked.account.as_deref().map(Account::parse).transpose();
    let account = account
        .map_err(|why| Problem::bad_field("account", why.to_string()))?
        .unwrap_or_default();
    let message = collect(&api, request.into_body()).await?;
    if message.is_empty() {
        return Err(Problem::bad_request("the body holds no mail"));
    }
    let taken = api
        .reports
        .take(
            api.reports.read(message).await,
            &Origin {
                account,
                return_path: asked.to,
            },
        )
        .await?;
    let status = if taken.refusal().is_some() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(taken.to_wire())).into_response())
}
