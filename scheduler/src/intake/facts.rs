//! The JSON adapter of facts: one object of the wire format is one fact. A wrong fact is refused
//! with the field's name, its value, and what is allowed there. Knows no store.

use domain::account::Account;
use domain::bounce::derived_message_id;
use domain::clock::Timestamp;
use domain::fact::{Fact, FactKind};
use serde::Deserialize;
use serde_json::Value;

use super::json::Refusal;
use super::json::field::{Field, Kind, Text, object};
use super::json::side_fields::SideFields;
use super::signed_account::SignedAccounts;

/// All fields that a fact may have.
const FIELDS: [(&str, Kind); 6] = [
    ("type", Kind::Text),
    ("recipient", Kind::Text),
    ("account", Kind::Text),
    ("occurred_at", Kind::Text),
    ("message_id", Kind::Text),
    ("envelope_from", Kind::SideText),
];

/// A fact as it was sent.
#[derive(Deserialize)]
struct Draft<'i> {
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'i>>,
    #[serde(borrow)]
    recipient: Option<Text<'i>>,
    #[serde(borrow)]
    account: Option<Text<'i>>,
    #[serde(borrow)]
    occurred_at: Option<Text<'i>>,
    #[serde(borrow)]
    message_id: Option<Text<'i>>,
    #[serde(borrow)]
    envelope_from: Option<Text<'i>>,
}

/// Reads one fact.
///
/// # Errors
/// If it is wrong. The refusal names the field and what is allowed.
pub fn read(item: Value) -> Result<Fact, Refusal> {
    let now = Timestamp::from_ms(0);
    read_item(item, false, &SignedAccounts::default(), now)
}

/// Reads one fact. If its envelope sender is a return path that we signed, its account is the one
/// that the return path carries.
///
/// # Errors
/// The same as those of [`read`].
pub fn read_signed(
    item: Value,
    accounts: &SignedAccounts,
    now: Timestamp,
) -> Result<Fact, Refusal> {
    read_item(item, false, accounts, now)
}

/// Reads one fact that an adapter took from the report of another system. The sender of such a
/// report will not correct it. So a time or a message id that cannot be read is left out, with a
/// warning.
///
/// # Errors
/// The same as those of [`read`].
pub fn read_reported(
    item: Value,
    accounts: &SignedAccounts,
    now: Timestamp,
) -> Result<Fact, Refusal> {
    read_item(item, true, accounts, now)
}

fn read_item(
    item: Value,
    is_reported: bool,
    accounts: &SignedAccounts,
    now: Timestamp,
) -> Result<Fact, Refusal> {
    let (item, warnings) = object(item, "a fact", &FIELDS, "")?;
    let mut side = SideFields::new(is_reported, warnings);
    let draft = Draft::deserialize(item).map_err(|_| Refusal::whole("the item is not a fact"))?;
    let kinds = || FactKind::ALL.map(FactKind::as_str).join(", ");
    let kind = Field::new("type", draft.kind.as_ref())
        .parse(|kind| FactKind::parse(kind).ok_or_else(|| format!("must be one of {}", kinds())))?
        .ok_or_else(|| {
            Refusal::of_field("type", None, format!("is required; use one of {}", kinds()))
        })?;
    let recipient = Field::new("recipient", draft.recipient.as_ref())
        .address()?
        .ok_or_else(|| {
            let reason = "is required; a message is found by its address, not by its id alone";
            Refusal::of_field("recipient", None, reason)
        })?;
    let mut account = Field::new("account", draft.account.as_ref())
        .parse(Account::parse)?
        .unwrap_or_default();
    let occurred_at = Field::new("occurred_at", draft.occurred_at.as_ref()).instant();
    let occurred_at = side.read_reported(occurred_at)?;
    let message_id = Field::new("message_id", draft.message_id.as_ref());
    let message_id = match side.read_reported(message_id.message_id())? {
        // A delivery of an unknown message must not end the jobs of all the others.
        None => message_id.raw().map(|raw| derived_message_id(&[raw])),
        id => id,
    };
    let sender = side.read(Field::new("envelope_from", draft.envelope_from.as_ref()).sender());
    let warning = accounts.replace(&mut account, sender.as_ref(), &recipient, now);
    let mut warnings = side.into_warnings();
    warnings.extend(warning);
    Ok(Fact {
        account,
        recipient,
        kind,
        occurred_at,
        message_id,
        warnings,
    })
}

#[cfg(test)]
mod tests {
    use domain::clock::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_documented_example_is_a_fact() {
        let fact = read(json!({
            "type": "delivered", "recipient": "jo@Example.com", "account": "acme",
            "occurred_at": "2026-11-21T09:30:00Z", "message_id": "<c42.9@news.example.org>",
        }))
        .unwrap();
        assert_eq!(
            (fact.job_id().key().as_str(), fact.kind),
            ("acme/jo@example.com", FactKind::Delivered)
        );
        assert_eq!(fact.occurred_at, Timestamp::parse("2026-11-21T09:30:00Z"));
        assert_eq!(fact.message_id.as_deref(), Some("<c42.9@news.example.org>"));
        let least =
            read(json!({"type": "unsubscribe", "recipient": "jo@example.com", "message_id": null}))
                .unwrap();
        assert_eq!(
            (least.account, least.message_id),
            (Account::default(), None)
        );
    }

    #[test]
    fn a_refusal_names_the_wrong_field() {
        for (item, field) in [
            (json!([]), None),
            (json!({"recipient": "jo@example.com"}), Some("type")),
            (
                json!({"type": "bounce", "recipient": "jo@example.com"}),
                Some("type"),
            ),
            (
                json!({"type": "delivered", "message_id": "m1"}),
                Some("recipient"),
            ),
            (
                json!({"type": "delivered", "recipient": "jo@@example.com"}),
                Some("recipient"),
            ),
            (
                json!({"type": "delivered", "recipient": "jo@example.com", "account": "a/b"}),
                Some("account"),
            ),
            (
                json!({"type": "delivered", "recipient": "jo@example.com", "occurred_at": 7}),
                Some("occurred_at"),
            ),
            (
                json!({"type": "delivered", "recipient": "jo@example.com", "message_id": ""}),
                Some("message_id"),
            ),
            (
                json!({"type": "delivered", "recipient": "jo@example.com", "message_id": "a\nb"}),
                Some("message_id"),
            ),
            (
                json!({"type": "delivered", "recipient": "jo@example.com", "reply": "250 ok"}),
                Some("reply"),
            ),
        ] {
            assert_eq!(
                read(item.clone()).unwrap_err().field.as_deref(),
                field,
                "{item}"
            );
        }
    }
}
