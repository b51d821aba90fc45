//! Postmark's webhooks: one record per request, verified by basic authentication (postmarkapp.com,
//! "Webhooks overview").

use async_trait::async_trait;
use axum::http::HeaderMap;
use config::hooks::Hook;
use domain::clock::Timestamp;
use domain::fact::FactKind;
use serde_json::Value;

use super::authentication::verify_basic;
use super::draft::{Draft, SeverityHint, deferral, occurred, read_each, text};
use super::event::{Event, EventMeaning};
use super::mail_service::MailService;
use super::request::{Denied, Verified, WebhookRequest};

pub(super) struct Postmark;

#[async_trait]
impl MailService for Postmark {
    async fn verify(
        &self,
        hook: &Hook,
        request: &WebhookRequest<'_>,
        _: Timestamp,
    ) -> Result<Verified, Denied> {
        verify_basic(hook, request)
    }

    fn read(&self, hook: &Hook, _: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, String> {
        read_each(body, |record| vec![read_record(hook, record)])
    }
}

fn read_record(hook: &Hook, record: &Value) -> Event {
    let field = |key: &str| record[key].as_str().filter(|text| !text.is_empty());
    let time_fields = ["BouncedAt", "DeliveredAt", "ReceivedAt", "ChangedAt"];
    let draft = Draft {
        recipient: field("Email").or(field("Recipient")),
        occurred: occurred(&time_fields.map(|key| &record[key])),
        message_id: field("MessageID"),
        metadata: record["Metadata"].as_object(),
        ..Draft::default()
    };
    let meaning = match field("RecordType") {
        Some("Delivery") => draft.fact(hook, FactKind::Delivered),
        Some("Open" | "Click") => draft.fact(hook, FactKind::Engaged),
        Some("SpamComplaint") => draft.fact(hook, FactKind::Complaint),
        Some("Bounce") => read_bounce(hook, &draft, record),
        Some("SubscriptionChange") => read_change(hook, &draft, record),
        other => EventMeaning::Unknown(other.unwrap_or("a record without a type").to_owned()),
    };
    let id = text(&record["ID"]).or_else(|| {
        let changed =
            field("ChangedAt").filter(|_| field("RecordType") == Some("SubscriptionChange"))?;
        Some(format!(
            "{changed} {} {}",
            field("Recipient")?,
            field("SuppressionReason").unwrap_or_default()
        ))
    });
    Event {
        id: id.map(|id| format!("{} {id}", field("RecordType").unwrap_or_default())),
        meaning,
    }
}

/// Reads a bounce by the type that Postmark gives. Its `Details` contain the reply of the server.
fn read_bounce(hook: &Hook, draft: &Draft<'_>, record: &Value) -> EventMeaning {
    let details = record["Details"].as_str().unwrap_or_default();
    let bounce = |hint| draft.bounce(hook, details, hint);
    match record["Type"].as_str().unwrap_or_default() {
        "HardBounce" => bounce(SeverityHint::AsReply("550 5.1.1")),
        "BadEmailAddress" => bounce(SeverityHint::AsReply("550 5.1.3")),
        "SoftBounce" | "Undeliverable" => bounce(SeverityHint::Soft("450")),
        "DnsError" => bounce(SeverityHint::Soft("450 4.4.4")),
        "Transient" => deferral(hook, bounce(SeverityHint::Soft("450")), "Transient"),
        "Blocked" | "ISPBlocked" | "SpamNotification" | "DMARCPolicy" => {
            bounce(SeverityHint::NotAddress("554 5.7.1"))
        }
        "VirusNotification" => bounce(SeverityHint::NotAddress("554 5.6.0")),
        "SMTPApiError" | "TemplateRenderingFailed" => bounce(SeverityHint::NotAddress("554 5.3.0")),
        "SpamComplaint" => draft.fact(hook, FactKind::Complaint),
        // The recipient, or an operator of the Postmark account, wants no more mail to this
        // address.
        "Unsubscribe" | "ManuallyDeactivated" => draft.fact(hook, FactKind::Unsubscribe),
        "AutoResponder" => EventMeaning::Ignored("AutoResponder"),
        "AddressChange" => EventMeaning::Ignored("AddressChange"),
        "Subscribe" | "Unconfirmed" => EventMeaning::Ignored("Subscribe"),
        "ChallengeVerification" => EventMeaning::Ignored("ChallengeVerification"),
        "OpenRelayTest" | "InboundError" => EventMeaning::Ignored("InboundError"),
        "Unknown" => bounce(SeverityHint::AsReply("450")),
        other => EventMeaning::Unknown(format!("Bounce {other}")),
    }
}

/// Reads a change of Postmark's suppression list: Postmark stops or resumes sending to an address.
fn read_change(hook: &Hook, draft: &Draft<'_>, record: &Value) -> EventMeaning {
    if record["SuppressSending"] != true {
        // An address that is suppressed here is reinstated only by an operator of ours.
        return EventMeaning::Ignored("SubscriptionChange to reactivate");
    }
    match record["SuppressionReason"].as_str() {
        Some("HardBounce") => draft.bounce(
            hook,
            "550 5.1.1 bounced before",
            SeverityHint::AsReply("550"),
        ),
        Some("SpamComplaint") => draft.fact(hook, FactKind::Complaint),
        Some("ManualSuppression") => draft.fact(hook, FactKind::Unsubscribe),
        other => EventMeaning::Unknown(format!(
            "SubscriptionChange {}",
            other.unwrap_or("without a reason")
        )),
    }
}
