//! Postmark's webhooks: one record per request, proven by basic authentication (postmarkapp.com,
//! "Webhooks overview").

use config::hooks::Hook;
use domain::fact::FactKind;
use serde_json::Value;

use super::draft::{Draft, SeverityHint, deferral, instant, read_json, text};
use super::{Event, Said};

/// Reads the records of a body.
pub(super) fn read(hook: &Hook, body: &[u8]) -> Result<Vec<Event>, String> {
    Ok(read_json(body)?
        .iter()
        .map(|record| read_record(hook, record))
        .collect())
}

fn read_record(hook: &Hook, record: &Value) -> Event {
    let word = |key: &str| record[key].as_str().filter(|text| !text.is_empty());
    let happened = ["BouncedAt", "DeliveredAt", "ReceivedAt", "ChangedAt"];
    let draft = Draft {
        recipient: word("Email").or(word("Recipient")),
        occurred: happened.iter().find_map(|key| instant(&record[*key])),
        message_id: word("MessageID"),
        metadata: record["Metadata"].as_object(),
        ..Draft::default()
    };
    let said = match word("RecordType") {
        Some("Delivery") => draft.fact(hook, FactKind::Delivered),
        Some("Open" | "Click") => draft.fact(hook, FactKind::Engaged),
        Some("SpamComplaint") => draft.fact(hook, FactKind::Complaint),
        Some("Bounce") => read_bounce(hook, &draft, record),
        Some("SubscriptionChange") => read_change(hook, &draft, record),
        other => Said::Unknown(other.unwrap_or("a record without a type").to_owned()),
    };
    let id = text(&record["ID"]).or_else(|| {
        let changed =
            word("ChangedAt").filter(|_| word("RecordType") == Some("SubscriptionChange"))?;
        Some(format!(
            "{changed} {} {}",
            word("Recipient")?,
            word("SuppressionReason").unwrap_or_default()
        ))
    });
    Event {
        id: id.map(|id| format!("{} {id}", word("RecordType").unwrap_or_default())),
        said,
    }
}

/// A bounce by the type that Postmark found; what the server said stands in the details.
fn read_bounce(hook: &Hook, draft: &Draft<'_>, record: &Value) -> Said {
    let details = record["Details"].as_str().unwrap_or_default();
    let said = |hint| draft.bounce(hook, details, hint);
    match record["Type"].as_str().unwrap_or_default() {
        "HardBounce" => said(SeverityHint::AsSaid("550 5.1.1")),
        "BadEmailAddress" => said(SeverityHint::AsSaid("550 5.1.3")),
        "SoftBounce" | "Undeliverable" => said(SeverityHint::Soft("450")),
        "DnsError" => said(SeverityHint::Soft("450 4.4.4")),
        "Transient" => deferral(hook, said(SeverityHint::Soft("450")), "Transient"),
        "Blocked" | "ISPBlocked" | "SpamNotification" | "DMARCPolicy" => {
            said(SeverityHint::AsSaid("554 5.7.1"))
        }
        "VirusNotification" => said(SeverityHint::AsSaid("554 5.6.0")),
        "SMTPApiError" | "TemplateRenderingFailed" => said(SeverityHint::AsSaid("554 5.3.0")),
        "SpamComplaint" => draft.fact(hook, FactKind::Complaint),
        // An operator of the account there has said that it gets no more.
        "Unsubscribe" | "ManuallyDeactivated" => draft.fact(hook, FactKind::Unsubscribe),
        "AutoResponder" => Said::Ignored("AutoResponder"),
        "AddressChange" => Said::Ignored("AddressChange"),
        "Subscribe" | "Unconfirmed" => Said::Ignored("Subscribe"),
        "ChallengeVerification" => Said::Ignored("ChallengeVerification"),
        "OpenRelayTest" | "InboundError" => Said::Ignored("InboundError"),
        "Unknown" => said(SeverityHint::AsSaid("450")),
        other => Said::Unknown(format!("Bounce {other}")),
    }
}

/// Postmark will not, or will again, send to an address.
fn read_change(hook: &Hook, draft: &Draft<'_>, record: &Value) -> Said {
    if record["SuppressSending"] != true {
        // Whoever is suppressed here comes back by an operator alone.
        return Said::Ignored("SubscriptionChange to reactivate");
    }
    match record["SuppressionReason"].as_str() {
        Some("HardBounce") => draft.bounce(
            hook,
            "550 5.1.1 bounced before",
            SeverityHint::AsSaid("550"),
        ),
        Some("SpamComplaint") => draft.fact(hook, FactKind::Complaint),
        Some("ManualSuppression") => draft.fact(hook, FactKind::Unsubscribe),
        other => Said::Unknown(format!(
            "SubscriptionChange {}",
            other.unwrap_or("without a reason")
        )),
    }
}
