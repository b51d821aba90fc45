//! SendGrid's event webhook: an array of events, signed with ECDSA over the timestamp and the raw
//! body (docs.sendgrid.com, "Event Webhook Reference" and "Security Features").

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::Value;

use super::authentication::{NO_SECRET, from_base64};
use super::draft::{Draft, SeverityHint, deferral, instant, occurred, read_each};
use super::event::{Event, EventMeaning};
use super::mail_service::MailService;
use super::request::{Denied, NOT_FRESH, Verified, WebhookRequest, is_fresh};

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

/// The first bytes of a P-256 public key in the form SubjectPublicKeyInfo (RFC 5480, section 2).
/// The point of the curve follows them.
const P256_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The failure that "blocked" stands for. SendGrid does not suppress such addresses: the next
/// message may succeed.
const BLOCKED: &str = "450";

/// SendGrid's classes of bounces that are about the sender or the message.
const NOT_ABOUT_ADDRESS: [&str; 3] = ["Content", "Reputation", "Frequency or Volume Too High"];

pub(super) struct SendGrid;

#[async_trait]
impl MailService for SendGrid {
    /// Verifies the signature and its age.
    async fn verify(
        &self,
        hook: &Hook,
        request: &WebhookRequest<'_>,
        now: Timestamp,
    ) -> Result<Verified, Denied> {
        let Some(key) = &hook.secret else {
            return Err(NO_SECRET);
        };
        let header = |name| {
            request
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let (Some(signature), Some(timestamp)) = (header(SIGNATURE), header(TIMESTAMP)) else {
            return Err(Denied::Unverified(
                "the signature is missing; turn on \"Signed Event Webhook\"",
            ));
        };
        // In PEM form there is a line before the key and a line after it.
        let base64: String = key
            .reveal_text()
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let info = from_base64(&base64).unwrap_or_default();
        let Some(point) = info.strip_prefix(&P256_INFO) else {
            return Err(Denied::Unverified(
                "intake.hooks.sendgrid.public_key is not a P-256 public key in base64",
            ));
        };
        let signed = [timestamp.as_bytes(), request.body].concat();
        let signature = from_base64(signature).unwrap_or_default();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(&signed, &signature)
            .map_err(|_| Denied::Unverified("the signature was not made with this hook's key"))?;
        match instant(&Value::from(timestamp)) {
            Some(signed_at) if is_fresh(signed_at, now, hook) => Ok(Verified::Events {
                body: request.body.to_vec(),
                request_id: None,
            }),
            _ => Err(NOT_FRESH),
        }
    }

    fn read(&self, hook: &Hook, _: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, String> {
        read_each(body, |event| vec![read_event(hook, event)])
    }
}

fn read_event(hook: &Hook, event: &Value) -> Event {
    let field = |key: &str| event[key].as_str().filter(|text| !text.is_empty());
    // The part before the dot is the same in all events of one message.
    let own_id = field("sg_message_id").map(|id| id.split('.').next().unwrap_or(id));
    let draft = Draft {
        recipient: field("email"),
        occurred: occurred(&[&event["timestamp"]]),
        message_id: field("smtp-id").or(own_id),
        ..Draft::default()
    };
    let reason = field("reason").or(field("response")).unwrap_or_default();
    let meaning = match field("event") {
        Some("delivered") => draft.fact(hook, FactKind::Delivered),
        // An open by a machine, which fetches the pictures before a person looks, is no sign of
        // life.
        Some("open") if event["sg_machine_open"] == true => {
            EventMeaning::Ignored("open by a machine")
        }
        Some("open" | "click") => draft.fact(hook, FactKind::Engaged),
        Some("spamreport") => draft.fact(hook, FactKind::Complaint),
        Some("unsubscribe" | "group_unsubscribe") => draft.fact(hook, FactKind::Unsubscribe),
        Some("bounce") => {
            let reply = match field("status") {
                Some(status) if !reason.contains(status) => format!("{status} {reason}"),
                _ => reason.to_owned(),
            };
            let hint = match (field("type"), field("bounce_classification")) {
                (Some("blocked"), _) => SeverityHint::NotAddress(BLOCKED),
                (_, Some(class)) if NOT_ABOUT_ADDRESS.contains(&class) => {
                    SeverityHint::NotAddress("554 5.7.1")
                }
                _ => SeverityHint::AsReply("550 5.1.1"),
            };
            draft.bounce(hook, &reply, hint)
        }
        Some("deferred") => deferral(
            hook,
            draft.bounce(hook, reason, SeverityHint::Soft("450")),
            "deferred",
        ),
        Some("dropped") => read_dropped(hook, &draft, reason),
        Some("processed") => EventMeaning::Ignored("processed"),
        Some("group_resubscribe") => EventMeaning::Ignored("group_resubscribe"),
        other => EventMeaning::Unknown(other.unwrap_or("an event without a type").to_owned()),
    };
    Event {
        id: field("sg_event_id").map(str::to_owned),
        meaning,
    }
}

/// Reads the event of a message that SendGrid did not try to send, because of earlier events.
fn read_dropped(hook: &Hook, draft: &Draft<'_>, reason: &str) -> EventMeaning {
    match reason.to_ascii_lowercase() {
        reason if reason.contains("unsubscribed") => draft.fact(hook, FactKind::Unsubscribe),
        reason if reason.contains("spam reporting") => draft.fact(hook, FactKind::Complaint),
        reason if reason.contains("bounced address") => draft.bounce(
            hook,
            "550 5.1.1 bounced before",
            SeverityHint::AsReply("550"),
        ),
        reason if reason == "invalid" => draft.bounce(
            hook,
            "550 5.1.3 invalid address",
            SeverityHint::AsReply("550"),
        ),
        _ => draft.bounce(
            hook,
            &format!("554 5.7.0 {reason}"),
            SeverityHint::AsReply("554 5.7.0"),
        ),
    }
}
