//! Reads as much of an item as is needed to send it: what kind it is, its account and its address.
//! The scheduler checks the rest.

use std::borrow::Cow;

use domain::account::Account;
use domain::address::Address;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bounce,
    Fact,
}

impl Kind {
    /// Returns the collection of the API that takes such items.
    pub(super) const fn collection(self) -> &'static str {
        match self {
            Self::Bounce => "bounces",
            Self::Fact => "facts",
        }
    }
}

/// The fields of an item that decide how it is sent.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    account: Presence,
}

/// Whether a field is there.
#[derive(Default, PartialEq)]
enum Presence {
    #[default]
    Absent,
    Null,
    Set,
}

fn present<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Presence, D::Error> {
    Ok(match Option::<IgnoredAny>::deserialize(deserializer)? {
        None => Presence::Null,
        Some(_) => Presence::Set,
    })
}

/// Returns the kind of a line of NDJSON, and the line with `account` added if it names none. A fact
/// has a field `type`, and a bounce cannot have one. A line that is not a JSON object is left as it
/// is, and counts as a bounce; the scheduler refuses it with the reason.
pub(super) fn read_line(line: &[u8], account: Option<&Account>) -> (Kind, Vec<u8>) {
    let line = line.trim_ascii();
    // Serde accepts an array for a struct: its items are the fields, in their order.
    let is_object = line.first() == Some(&b'{');
    let head = serde_json::from_slice::<Head>(line).ok();
    let Some(head) = head.filter(|_| is_object) else {
        return (Kind::Bounce, line.to_vec());
    };
    let kind = match head.kind {
        Some(_) => Kind::Fact,
        None => Kind::Bounce,
    };
    let body = match account {
        Some(account) if head.account != Presence::Set => {
            with_account(line, account, head.account == Presence::Null)
        }
        _ => line.to_vec(),
    };
    (kind, body)
}

/// Adds an account to an object. `replaces` is whether the object has an account that is `null`.
fn with_account(object: &[u8], account: &Account, replaces: bool) -> Vec<u8> {
    if replaces && let Ok(mut item) = serde_json::from_slice::<serde_json::Value>(object) {
        item["account"] = account.as_str().into();
        return item.to_string().into_bytes();
    }
    let rest = object[1..].trim_ascii_start();
    let comma = if rest.starts_with(b"}") { "" } else { "," };
    let mut body = format!("{{\"account\":\"{account}\"{comma}").into_bytes();
    body.extend_from_slice(rest);
    body
}

/// Returns the address that an item is about, in one form for each address. An address that cannot
/// be read is returned as it is.
pub(super) fn recipient(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct About<'b> {
        #[serde(borrow)]
        recipient: Cow<'b, str>,
    }
    let About { recipient } = serde_json::from_slice(body).ok()?;
    Some(match Address::parse(&recipient) {
        Ok(address) => address.as_str().to_owned(),
        Err(_) => recipient.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Kind, String) {
        let account = Account::parse("acme").unwrap();
        let (kind, body) = read_line(line.as_bytes(), Some(&account));
        (kind, String::from_utf8(body).unwrap())
    }

    #[test]
    fn a_line_with_a_type_is_a_fact_and_any_other_line_is_a_bounce() {
        for (line, kind) in [
            (
                r#"{"type":"delivered","recipient":"jo@example.com"}"#,
                Kind::Fact,
            ),
            (
                r#"{"recipient":"jo@example.com","type":"nonsense"}"#,
                Kind::Fact,
            ),
            (
                r#"{"recipient":"jo@example.com","reply":"452"}"#,
                Kind::Bounce,
            ),
            (
                r#"{"recipient":"jo@example.com","metadata":{"type":"a"}}"#,
                Kind::Bounce,
            ),
            (
                r#"{"recipient":"jo@example.com","type":null}"#,
                Kind::Bounce,
            ),
            (r#"["delivered"]"#, Kind::Bounce),
            ("not JSON", Kind::Bounce),
            ("", Kind::Bounce),
        ] {
            assert_eq!(
                read_line(line.as_bytes(), None),
                (kind, line.into()),
                "{line}"
            );
        }
    }

    #[test]
    fn an_account_is_added_to_an_item_without_one() {
        for (line, expected) in [
            (
                r#"{"recipient":"a@b"}"#,
                r#"{"account":"acme","recipient":"a@b"}"#,
            ),
            (
                r#" { "type":"engaged" } "#,
                r#"{"account":"acme","type":"engaged" }"#,
            ),
            ("{}", r#"{"account":"acme"}"#),
            (r#"{"account":"beta"}"#, r#"{"account":"beta"}"#),
            (r#"{"account":null,"a":1}"#, r#"{"account":"acme","a":1}"#),
            ("[]", "[]"),
            ("not JSON", "not JSON"),
        ] {
            assert_eq!(read(line).1, expected, "{line}");
        }
    }

    #[test]
    fn an_address_has_one_form_however_it_is_written() {
        let of = |text: &str| recipient(format!("{{\"recipient\":{text}}}").as_bytes());
        assert_eq!(of(r#""jo@EXAMPLE.com""#), of(r#""jo@example.com""#));
        assert_eq!(of(r#""j\u006f@example.com""#), of(r#""jo@example.com""#));
        assert_eq!(of(r#""nobody""#).as_deref(), Some("nobody"));
        assert_eq!(of("7"), None);
    }
}
