//! Mailgun's webhooks: one event per request. The signature covers a timestamp and a token, but
//! nothing of the event, so each token is accepted for one request (documentation.mailgun.com,
//! "Securing Webhooks"). HTML forms, the format before 2018, are read too.

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use serde_json::{Map, Value, json};

use super::authentication::{NO_SECRET, is_hmac};
use super::draft::{Draft, SeverityHint, deferral, instant, occurred, text};
use super::event::{Event, EventMeaning};
use super::form::read_form;
use super::mail_service::MailService;
use super::request::{Denied, NOT_FRESH, Verified, WebhookRequest, is_fresh};
use crate::intake::foreign_json;

/// The longest timestamp, token and signature, in bytes.
const SIGNED_MAX: usize = 200;

pub(super) struct Mailgun;

#[async_trait]
impl MailService for Mailgun {
    /// Verifies the signature and its age. The token becomes the id of the request.
    async fn verify(
        &self,
        hook: &Hook,
        request: &WebhookRequest<'_>,
        now: Timestamp,
    ) -> Result<Verified, Denied> {
        let Some(key) = &hook.secret else {
            return Err(NO_SECRET);
        };
        let body = read_body(request.headers, request.body).map_err(Denied::Unreadable)?;
        let signed = if body["signature"].is_object() {
            &body["signature"]
        } else {
            &body
        };
        let part = |key: &str| text(&signed[key]).filter(|text| text.len() <= SIGNED_MAX);
        let (Some(timestamp), Some(token), Some(signature)) =
            (part("timestamp"), part("token"), part("signature"))
        else {
            return Err(Denied::Unverified("the signature is missing"));
        };
        if !is_hmac(key, format!("{timestamp}{token}").as_bytes(), &signature) {
            return Err(Denied::Unverified(
                "the signature was not made with this hook's signing key",
            ));
        }
        match instant(&Value::from(timestamp)) {
            Some(signed_at) if is_fresh(signed_at, now, hook) => Ok(Verified::Events {
                body: request.body.to_vec(),
                request_id: Some(token),
            }),
            _ => Err(NOT_FRESH),
        }
    }

    fn read(&self, hook: &Hook, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, String> {
        let body = read_body(headers, body)?;
        let meaning = match &body["event-data"] {
            Value::Object(_) => read_event(hook, &body["event-data"]),
            _ => read_event(hook, &form_to_event(&body)),
        };
        // No id of its own: the token identifies the whole request.
        Ok(vec![Event { id: None, meaning }])
    }
}

fn read_body(headers: &HeaderMap, body: &[u8]) -> Result<Value, String> {
    if let Some(form) = read_form(headers, body) {
        return Ok(form?
            .into_iter()
            .map(|(name, value)| (name, Value::from(value)))
            .collect::<Map<_, _>>()
            .into());
    }
    match foreign_json::read(body) {
        Ok(body @ Value::Object(_)) => Ok(body),
        Ok(_) => Err("the body is not a JSON object".to_owned()),
        Err(err) => Err(format!("the body is not JSON: {err}")),
    }
}

fn read_event(hook: &Hook, event: &Value) -> EventMeaning {
    let headers = &event["message"]["headers"];
    let status = &event["delivery-status"];
    let message_id = headers["message-id"].as_str().map(in_brackets);
    let draft = Draft {
        recipient: event["recipient"].as_str().or(headers["to"].as_str()),
        occurred: occurred(&[&event["timestamp"]]),
        message_id: message_id.as_deref(),
        remote_mta: status["mx-host"].as_str(),
        metadata: event["user-variables"].as_object(),
        ..Draft::default()
    };
    match event["event"].as_str() {
        Some("delivered") => draft.fact(hook, FactKind::Delivered),
        Some("opened" | "clicked") => draft.fact(hook, FactKind::Engaged),
        Some("complained") => draft.fact(hook, FactKind::Complaint),
        Some("unsubscribed") => draft.fact(hook, FactKind::Unsubscribe),
        Some("failed") => read_failed(hook, &draft, event),
        Some("rejected") => {
            let reason = event["reject"]["reason"].as_str().unwrap_or_default();
            draft.bounce(
                hook,
                &format!("554 5.7.0 {reason}"),
                SeverityHint::AsReply("554 5.7.0"),
            )
        }
        Some("accepted") => EventMeaning::Ignored("accepted"),
        Some("stored") => EventMeaning::Ignored("stored"),
        other => EventMeaning::Unknown(other.unwrap_or("an event without a type").to_owned()),
    }
}

fn read_failed(hook: &Hook, draft: &Draft<'_>, event: &Value) -> EventMeaning {
    let status = &event["delivery-status"];
    let reported_code = status["code"]
        .as_u64()
        .or_else(|| status["code"].as_str()?.parse().ok());
    let temporary = event["severity"] == "temporary";
    // In addition to the codes of SMTP, Mailgun has its own. They mean that it did not try because
    // of an earlier event, or that it has given up.
    match (event["reason"].as_str().unwrap_or_default(), reported_code) {
        ("suppress-complaint", _) | (_, Some(607)) => return draft.fact(hook, FactKind::Complaint),
        ("suppress-unsubscribe", _) | (_, Some(606)) => {
            return draft.fact(hook, FactKind::Unsubscribe);
        }
        ("suppress-bounce", _) | (_, Some(605)) => {
            return draft.bounce(
                hook,
                "550 5.1.1 bounced before",
                SeverityHint::AsReply("550 5.1.1"),
            );
        }
        _ => {}
    }
    let part = |key: &str| {
        status[key]
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty())
    };
    let text = part("message").or(part("description")).unwrap_or_default();
    let smtp_code =
        reported_code.filter(|code| (400..498).contains(code) || (500..600).contains(code));
    let has_code = text
        .get(..3)
        .is_some_and(|start| start.bytes().all(|b| b.is_ascii_digit()));
    let reply = match (smtp_code, part("enhanced-code")) {
        (Some(code), Some(enhanced)) if !has_code => format!("{code} {enhanced} {text}"),
        (Some(code), None) if !has_code => format!("{code} {text}"),
        (None, Some(enhanced)) if !has_code => format!("{enhanced} {text}"),
        _ => text.to_owned(),
    };
    if temporary {
        deferral(
            hook,
            draft.bounce(hook, &reply, SeverityHint::Soft("450")),
            "failed for now",
        )
    } else if event["reason"] == "old" || matches!(reported_code, Some(498..500 | 600..605)) {
        // Mailgun tried for hours and gave up, or never reached a server. That is no verdict on the
        // address.
        draft.bounce(hook, &reply, SeverityHint::Soft("450 4.4.7"))
    } else if event["reason"] == "espblock" {
        draft.bounce(hook, &reply, SeverityHint::NotAddress("554 5.7.1"))
    } else {
        draft.bounce(hook, &reply, SeverityHint::AsReply("550"))
    }
}

/// Returns the event of a form, the format before 2018, in today's format.
fn form_to_event(form: &Value) -> Value {
    let field = |key: &str| form[key].as_str();
    let (event, failed) = match field("event") {
        Some("bounced" | "dropped") => ("failed", true),
        Some(other) => (other, false),
        None => return json!({}),
    };
    let mut converted = json!({
        "event": event,
        "timestamp": form["timestamp"],
        "recipient": form["recipient"],
        "message": {"headers": {"message-id": field("Message-Id").or(field("message-id"))}},
    });
    if failed {
        converted["reason"] = form["reason"].clone();
        converted["delivery-status"] =
            json!({"code": form["code"], "message": field("error").or(field("description"))});
    }
    converted
}

fn in_brackets(id: &str) -> String {
    if id.starts_with('<') {
        id.to_owned()
    } else {
        format!("<{id}>")
    }
}
