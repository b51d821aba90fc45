//! `POST /v1/hooks/{service}`: the events of a mail service, which proves itself in its own way.
//! `GET /v1/hooks`: what came in by them.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use config::hooks::Service;
use serde_json::{Map, Value, json};

use super::Api;
use super::items::collect;
use super::problem::Problem;
use crate::intake::webhook::{Delivery, Denied};

/// `POST /v1/hooks/{service}`.
pub async fn post(
    State(api): State<Api>,
    service: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Path(name) = service?;
    let Some(service) = Service::parse(&name) else {
        let known = Service::ALL.map(Service::as_str).join(", ");
        return Err(Problem::not_found(format!(
            "there is no hook of this name; there are {known}"
        )));
    };
    let Some(hook) = api.webhooks.hook(service) else {
        let detail = format!(
            "the hook of {} is not configured; set {}",
            service.as_str(),
            service.key()
        );
        return Err(Problem::not_found(detail));
    };
    let (head, body) = request.into_parts();
    let body = collect(&api, body).await?;
    let delivery = Delivery {
        headers: &head.headers,
        body: &body,
    };
    match api.webhooks.take(service, hook, &delivery).await? {
        Ok(mut received) => {
            let status = if received.is_unknown() {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            };
            Ok((status, Json(received.to_wire())).into_response())
        }
        Err(Denied::Unproven(why)) => Err(Problem::unauthorized(why, challenge(service))),
        Err(Denied::Unreadable(why)) => Err(Problem::bad_request(why)),
        Err(Denied::UnderWay) => Err(Problem::unavailable(
            "this very request is being taken in; try again later",
        )),
        Err(Denied::Undecided(why)) => {
            tracing::warn!(
                service = service.as_str(),
                why,
                "a webhook could not be verified for now"
            );
            Err(Problem::unavailable(
                "it could not be verified for now; try again later",
            ))
        }
    }
}

/// `GET /v1/hooks`: which are configured, and what came in by each since this process started.
pub async fn list(State(api): State<Api>) -> Json<Value> {
    let describe = |service: Service| {
        let mut wire = api.webhooks.counts().to_wire(service);
        wire["configured"] = json!(api.webhooks.hook(service).is_some());
        (service.as_str().to_owned(), wire)
    };
    Json(Value::Object(
        Service::ALL
            .into_iter()
            .map(describe)
            .collect::<Map<_, _>>(),
    ))
}

/// How a service could prove itself (RFC 9110, section 11.6.1).
fn challenge(service: Service) -> &'static str {
    match service {
        Service::Postmark | Service::SparkPost => "Basic realm=\"redeliver hooks\"",
        Service::KumoMta => "Bearer realm=\"redeliver hooks\"",
        Service::Ses | Service::SendGrid | Service::Mailgun => {
            "Signature realm=\"redeliver hooks\""
        }
    }
}
