//! Webhooks: whatever a service sends, each of its events is a bounce or fact that the adapters of
//! the wire format can judge.

use axum::http::{HeaderMap, HeaderValue, header};
use config::hooks::{Hook, Service};
use domain::clock::Timestamp;
use scheduler::intake::webhook::{Said, read};
use scheduler::intake::{facts, json};

use crate::address::hold_of_address;
use crate::ndjson::{hold_of_bounce, hold_of_refusal};

/// What a body may say that it is.
pub const CONTENT_TYPES: [&str; 3] = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
];

/// Reads any bytes as the body of a webhook. The first byte chooses service and content type.
///
/// # Panics
/// Where something does not hold of an event.
pub fn hold_of(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    let choice = usize::from(*choice);
    let service = Service::ALL[choice % Service::ALL.len()];
    let content_type = CONTENT_TYPES[choice / Service::ALL.len() % CONTENT_TYPES.len()];
    hold_of_body(service, content_type, body);
}

/// Reads any bytes as the body of a request of this service.
///
/// # Panics
/// Where something does not hold of an event.
pub fn hold_of_body(service: Service, content_type: &'static str, body: &[u8]) {
    let headers =
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    let hook = Hook::default();
    let Ok(events) = read(service, &hook, &headers, body) else {
        return;
    };
    assert!(
        events.len() <= body.len().max(1),
        "each event takes a byte at least"
    );
    assert_eq!(
        read(service, &hook, &headers, body).as_ref(),
        Ok(&events),
        "ids are the same when it is told again"
    );
    for event in events {
        match event.said {
            Said::Bounce(item) => match json::read(item, Timestamp::from_ms(0), 0) {
                Ok(bounce) => hold_of_bounce(&bounce),
                Err(refusal) => {
                    hold_of_refusal(&refusal);
                    assert_ne!(
                        refusal.field.as_deref(),
                        Some("metadata"),
                        "no bounce is lost over what goes along"
                    );
                }
            },
            Said::Fact(item) => match facts::read(item) {
                Ok(fact) => hold_of_address(&fact.recipient),
                Err(refusal) => hold_of_refusal(&refusal),
            },
            Said::Ignored(_) | Said::Unknown(_) => {}
        }
    }
}
