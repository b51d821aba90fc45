//! `POST /v1/hooks/{service}`: the webhook of a mail service. Each service authenticates its
//! requests in its own way. `GET /v1/hooks`: counts of what arrived by each webhook.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use config::hooks::Service;
use serde_json::{Map, Value, json};
use system::limiter::admit_outage;

use super::Api;
use super::items::collect;
use super::problem::Problem;
use crate::intake::webhook::{Denied, ReceiveError, WebhookRequest};

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
            "there is no hook of this name; choose one of {known}"
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
    let request = WebhookRequest {
        headers: &head.headers,
        body: &body,
    };
    match api.webhooks.receive(service, hook, &request).await {
        Ok(mut received) => {
            let status = if received.is_unknown() {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            };
            Ok((status, Json(received.to_wire())).into_response())
        }
        Err(ReceiveError::Store(err)) => Err(err.into()),
        Err(ReceiveError::Denied(denied)) => Err(denied_problem(service, denied)),
    }
}

fn denied_problem(service: Service, denied: Denied) -> Problem {
    match denied {
        Denied::Unverified(why) => Problem::unauthorized(why, challenge(service)),
        Denied::Unreadable(why) => Problem::bad_request(why),
        Denied::UnderWay => Problem::unavailable(
            "this very request is being processed at this moment; try again later",
        ),
        Denied::Undecided(why) => {
            if let Some(left_out) = admit_outage("unverified webhook requests") {
                tracing::warn!(
                    service = service.as_str(),
                    why,
                    left_out,
                    "a webhook request could not be verified for now"
                );
            }
            Problem::unavailable("the request could not be verified for now; try again later")
        }
    }
}

/// `GET /v1/hooks`: whether each hook is configured, and its counts since this process started.
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

/// Returns the authentication that a service has to use (RFC 9110, section 11.6.1).
fn challenge(service: Service) -> &'static str {
    match service {
        Service::Postmark | Service::SparkPost => "Basic realm=\"redeliver hooks\"",
        Service::KumoMta => "Bearer realm=\"redeliver hooks\"",
        Service::Ses | Service::SendGrid | Service::Mailgun => {
            "Signature realm=\"redeliver hooks\""
        }
    }
}
