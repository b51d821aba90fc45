//! The JSON that describes an attempt to the platform.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use domain::address::Address;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::attempt::Attempt;

#[derive(Serialize)]
struct Request<'a> {
    job: &'a str,
    account: &'a str,
    recipient: &'a str,
    envelope_from: Option<&'a str>,
    message_id: &'a str,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: &'a Map<String, Value>,
    /// Present if the content is valid UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    /// Present if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_base64: Option<String>,
}

/// Returns the body of the POST. It contains the content if `with_content` and if there is any.
pub(super) fn body(attempt: &Attempt, with_content: bool) -> Vec<u8> {
    let content = attempt.content.as_deref().filter(|_| with_content);
    let text = content.and_then(|content| std::str::from_utf8(content).ok());
    let request = Request {
        job: &attempt.job,
        account: attempt
            .job
            .split_once('/')
            .map_or("", |(account, _)| account),
        recipient: attempt.recipient.as_str(),
        envelope_from: attempt.envelope_from.as_ref().map(Address::as_str),
        message_id: &attempt.message_id,
        attempt: attempt.number,
        stream: attempt.stream.as_deref(),
        traceparent: attempt.traceparent.as_deref(),
        metadata: &attempt.metadata,
        content: text,
        content_base64: content
            .filter(|_| text.is_none())
            .map(|content| BASE64_STANDARD.encode(content)),
    };
    serde_json::to_vec(&request).expect("text, numbers and maps with text keys always serialize")
}
