//! Webhooks: for any body that a service sends, each bounce or fact in it can be read by the
//! readers of our own formats, or is refused with a reason. It belongs to the hook's account.

use axum::http::{HeaderMap, HeaderValue, header};
use config::hooks::{Hook, Service};
use domain::account::Account;
use domain::clock::Timestamp;
use scheduler::intake::signed_account::SignedAccounts;
use scheduler::intake::webhook::{EventMeaning, read};
use scheduler::intake::{facts, json};

use crate::address::check_address;
use crate::ndjson::{check_bounce, check_refusal};

/// The content types that a body may have.
pub const CONTENT_TYPES: [&str; 3] = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
];

/// Parses any bytes as the body of a webhook. The first byte chooses service and content type.
///
/// # Panics
/// If an event breaks a property.
pub fn check(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    let choice = usize::from(*choice);
    let service = Service::ALL[choice % Service::ALL.len()];
    let content_type = CONTENT_TYPES[choice / Service::ALL.len() % CONTENT_TYPES.len()];
    check_body(service, content_type, body);
}

/// Parses any bytes as the body of a request of this service.
///
/// # Panics
/// If an event breaks a property.
pub fn check_body(service: Service, content_type: &'static str, body: &[u8]) {
    let headers =
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    let hook = Hook {
        account: Account::parse("acme").expect("it is an account"),
        ..Hook::default()
    };
    let Ok(events) = read(service, &hook, &headers, body) else {
        return;
    };
    assert!(
        events.len() <= body.len().max(1),
        "each event takes at least one byte"
    );
    assert_eq!(
        read(service, &hook, &headers, body).as_ref(),
        Ok(&events),
        "a repeated event has the same ids"
    );
    for event in events {
        match event.meaning {
            EventMeaning::Bounce(item) => match json::read_reported(item, Timestamp::from_ms(0)) {
                Ok(bounce) => {
                    assert_eq!(
                        bounce.account, hook.account,
                        "no event names another account"
                    );
                    check_bounce(&bounce);
                }
                Err(refusal) => {
                    check_refusal(&refusal);
                    assert_ne!(
                        refusal.field.as_deref(),
                        Some("metadata"),
                        "no bounce is refused because of its metadata"
                    );
                }
            },
            EventMeaning::Fact(item) => {
                match facts::read_reported(item, &SignedAccounts::default(), Timestamp::from_ms(0))
                {
                    Ok(fact) => {
                        assert_eq!(fact.account, hook.account, "no event names another account");
                        check_address(&fact.recipient);
                    }
                    Err(refusal) => check_refusal(&refusal),
                }
            }
            EventMeaning::Ignored(_) | EventMeaning::Unknown(_) | EventMeaning::Unreadable(_) => {}
        }
    }
}
