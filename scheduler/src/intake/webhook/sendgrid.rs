//! SendGrid's event webhook: an array of events, signed with ECDSA over the timestamp and the raw
//! body (docs.sendgrid.com, "Event Webhook Reference" and "Security Features").

use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::Value;

use super::draft::{Draft, SeverityHint, deferral, instant, read_json};
use super::proof::{UNSET, from_base64};
use super::{Delivery, Denied, Event, Proven, Said, is_fresh};

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

/// What a P-256 public key starts with as a SubjectPublicKeyInfo (RFC 5480, section 2); the point
/// follows.
const P256_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Checks the signature, and that it is not too old.
pub(super) fn prove(
    hook: &Hook,
    delivery: &Delivery<'_>,
    now: Timestamp,
) -> Result<Proven, Denied> {
    let Some(key) = &hook.secret else {
        return Err(UNSET);
    };
    let header = |name| {
        delivery
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let (Some(signature), Some(timestamp)) = (header(SIGNATURE), header(TIMESTAMP)) else {
        return Err(Denied::Unproven(
            "the signature is missing; turn on \"Signed Event Webhook\"",
        ));
    };
    // A key in PEM form has a line before it and one after.
    let base64: String = key
        .reveal_text()
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let info = from_base64(&base64).unwrap_or_default();
    let Some(point) = info.strip_prefix(&P256_INFO) else {
        return Err(Denied::Unproven(
            "intake.hooks.sendgrid.public_key is no P-256 public key in base64",
        ));
    };
    let signed = [timestamp.as_bytes(), delivery.body].concat();
    let signature = from_base64(signature).unwrap_or_default();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(&signed, &signature)
        .map_err(|_| Denied::Unproven("the signature is not that of this hook's key"))?;
    match instant(&Value::from(timestamp)) {
        Some(signed_at) if is_fresh(signed_at, now, hook) => {
            Ok(Proven::Body(delivery.body.to_vec(), None))
        }
        _ => Err(Denied::Unproven("it was signed too long ago")),
    }
}

/// Reads the events of a body.
pub(super) fn read(hook: &Hook, body: &[u8]) -> Result<Vec<Event>, String> {
    Ok(read_json(body)?
        .iter()
        .map(|event| read_event(hook, event))
        .collect())
}

fn read_event(hook: &Hook, event: &Value) -> Event {
    let word = |key: &str| event[key].as_str().filter(|text| !text.is_empty());
    // The part before the dot is the same in all events of one message.
    let own_id = word("sg_message_id").map(|id| id.split('.').next().unwrap_or(id));
    let draft = Draft {
        recipient: word("email"),
        occurred: instant(&event["timestamp"]),
        message_id: word("smtp-id").or(own_id),
        ..Draft::default()
    };
    let reason = word("reason").or(word("response")).unwrap_or_default();
    let said = match word("event") {
        Some("delivered") => draft.fact(hook, FactKind::Delivered),
        // A machine that fetches pictures before anybody looks is no sign of life.
        Some("open") if event["sg_machine_open"] == true => Said::Ignored("open by a machine"),
        Some("open" | "click") => draft.fact(hook, FactKind::Engaged),
        Some("spamreport") => draft.fact(hook, FactKind::Complaint),
        Some("unsubscribe" | "group_unsubscribe") => draft.fact(hook, FactKind::Unsubscribe),
        Some("bounce") => {
            let reply = match word("status") {
                Some(status) if !reason.contains(status) => format!("{status} {reason}"),
                _ => reason.to_owned(),
            };
            let blocked = word("type") == Some("blocked");
            draft.bounce(
                hook,
                &reply,
                SeverityHint::AsSaid(if blocked { "450" } else { "550 5.1.1" }),
            )
        }
        Some("deferred") => deferral(
            hook,
            draft.bounce(hook, reason, SeverityHint::Soft("450")),
            "deferred",
        ),
        Some("dropped") => read_dropped(hook, &draft, reason),
        Some("processed") => Said::Ignored("processed"),
        Some("group_resubscribe") => Said::Ignored("group_resubscribe"),
        other => Said::Unknown(other.unwrap_or("an event without a type").to_owned()),
    };
    Event {
        id: word("sg_event_id").map(str::to_owned),
        said,
    }
}

/// SendGrid did not try, because of what it knew before.
fn read_dropped(hook: &Hook, draft: &Draft<'_>, reason: &str) -> Said {
    match reason.to_ascii_lowercase() {
        reason if reason.contains("unsubscribed") => draft.fact(hook, FactKind::Unsubscribe),
        reason if reason.contains("spam reporting") => draft.fact(hook, FactKind::Complaint),
        reason if reason.contains("bounced address") => draft.bounce(
            hook,
            "550 5.1.1 bounced before",
            SeverityHint::AsSaid("550"),
        ),
        reason if reason == "invalid" => draft.bounce(
            hook,
            "550 5.1.3 invalid address",
            SeverityHint::AsSaid("550"),
        ),
        _ => draft.bounce(
            hook,
            &format!("554 5.7.0 {reason}"),
            SeverityHint::AsSaid("554 5.7.0"),
        ),
    }
}
