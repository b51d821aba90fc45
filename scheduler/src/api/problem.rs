//! Problem documents (RFC 9457): the errors that a client gets. Knows no handler.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use store::connection::fault::named;
use store::error::StoreError;
use system::limiter::admit_outage;

use crate::intake::json::Refusal;

/// When a client should try again if the store cannot be reached, in seconds.
const RETRY_AFTER_S: u64 = 2;

/// An error in the form that a client gets.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    field: Option<Cow<'static, str>>,
    /// An object whose members are added to the document.
    members: Option<Box<Value>>,
    /// The authentication that the client has to use.
    challenge: Option<&'static str>,
    /// When the client should try again, in seconds.
    retry_after_s: Option<u64>,
    /// The encodings of a body that are possible.
    accept_encoding: Option<&'static str>,
}

impl Problem {
    /// The request is wrong. `detail` states what is wrong and what is allowed.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        let (status, detail) = (StatusCode::BAD_REQUEST, detail.into());
        Self {
            status,
            detail,
            field: None,
            members: None,
            challenge: None,
            retry_after_s: None,
            accept_encoding: None,
        }
    }

    /// One field or parameter is wrong.
    pub fn bad_field(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::bad_request(detail)
        }
    }

    /// The only item of the request is refused. The document also has the members of an item's
    /// answer, for clients that read the answers to many items.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        Self {
            members: Some(Box::new(refusal.to_wire())),
            ..Self::bad_request(refusal.reason.clone())
        }
    }

    /// The body as a whole is refused.
    pub(crate) fn wrong_body(refusal: &Refusal) -> Self {
        let field = refusal.field.clone().map(Cow::Owned);
        Self {
            field,
            ..Self::bad_request(refusal.reason.clone())
        }
    }

    /// The body is too large.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            ..Self::bad_request(detail)
        }
    }

    /// The answers to a request of many lines could not be kept. All lines up to `taken_in` have
    /// been processed.
    pub(crate) fn insufficient_storage(detail: impl Into<String>, taken_in: u64) -> Self {
        let members = Some(Box::new(json!({"taken_in": taken_in})));
        Self {
            status: StatusCode::INSUFFICIENT_STORAGE,
            members,
            ..Self::unavailable(detail)
        }
    }

    /// The body has a content type that is not supported here.
    pub fn unsupported(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ..Self::bad_request(detail)
        }
    }

    /// The body is encoded, for example compressed.
    pub fn encoded() -> Self {
        Self {
            accept_encoding: Some("identity"),
            ..Self::unsupported(
                "an encoded body is not supported; send it without Content-Encoding, \
                 not compressed",
            )
        }
    }

    /// The client sent nothing for too long.
    pub fn timed_out(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::REQUEST_TIMEOUT,
            ..Self::bad_request(detail)
        }
    }

    /// The client is not authenticated. `challenge` states how it could be (RFC 9110, section
    /// 11.6.1).
    pub fn unauthorized(detail: impl Into<String>, challenge: &'static str) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            challenge: Some(challenge),
            ..Self::bad_request(detail)
        }
    }

    /// The client may not act for the account that the request names.
    pub(crate) fn wrong_account(refusal: &Refusal) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            ..Self::wrong_body(refusal)
        }
    }

    /// The client may not act for the account of the only item of the request.
    pub(crate) fn item_of_wrong_account(refusal: &Refusal) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            ..Self::refused(refusal)
        }
    }

    /// The client is not allowed to do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            ..Self::bad_request(detail)
        }
    }

    /// The client sends too many requests. The next one is allowed after `wait` (RFC 6585, section
    /// 4).
    pub fn too_many(detail: impl Into<String>, wait: Duration) -> Self {
        let retry_after_s = Some(wait.as_secs_f64().ceil().max(1.0) as u64);
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after_s,
            ..Self::bad_request(detail)
        }
    }

    /// The request cannot be processed now, but perhaps later.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let retry_after_s = Some(RETRY_AFTER_S);
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after_s,
            ..Self::bad_request(detail)
        }
    }

    /// The same problem, whose document also has the members of this object.
    #[must_use]
    pub(crate) fn with_members(self, members: Value) -> Self {
        let members = Some(Box::new(members));
        Self { members, ..self }
    }

    /// The path, or the thing that it names, does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::bad_request(detail)
        }
    }

    /// The path does not support this method.
    pub fn method_not_allowed() -> Self {
        let detail =
            "this path does not support this method; the Allow header lists those that it does";
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Self::bad_request(detail)
        }
    }
}

fn log_postponed(err: &StoreError) {
    if let Some(left_out) = admit_outage("postponed requests") {
        tracing::warn!(%err, left_out, "a request could not be processed for now");
    }
}

impl From<StoreError> for Problem {
    fn from(err: StoreError) -> Self {
        match err {
            err @ StoreError::UnderWay => {
                log_postponed(&err);
                Self::unavailable(err.to_string())
            }
            err if err.may_pass() => {
                log_postponed(&err);
                // The text of a connection error is only for the log.
                let answer = match named(&err) {
                    Some(named) => format!("the store answers {named}"),
                    None => "the store does not answer".to_owned(),
                };
                Self::unavailable(format!(
                    "{answer}; repeat the whole request later, nothing is lost by that"
                ))
            }
            err => {
                if let Some(left_out) = admit_outage("failed requests") {
                    tracing::error!(%err, left_out, "a request failed");
                }
                let detail = "the store gave an unexpected answer; the log has the details";
                Self {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    ..Self::bad_request(detail)
                }
            }
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        let text = rejection.body_text();
        let why = text
            .strip_prefix("Failed to deserialize query string: ")
            .unwrap_or(&text);
        // For an unknown word, Serde repeats the word first.
        let why = why
            .find("unknown field")
            .map_or(why, |at| &why[at..])
            .replace("unknown field", "unknown parameter");
        Self::bad_request(format!("the query is wrong: {why}"))
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut document = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(field) = self.field {
            document["field"] = field.into();
        }
        if let (Value::Object(document), Some(Value::Object(members))) =
            (&mut document, self.members.map(|members| *members))
        {
            document.extend(members);
        }
        let mut response = (self.status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(encodings) = self.accept_encoding {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(encodings));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        response
    }
}
