//! Automatic answers of people's mail systems (RFC 3834): out of office, receipts, unsubscribing by
//! mail. They say that the address lives, and start nothing.

use crate::bounded::begins_with;
use crate::fields::groups;
use crate::mime::Mail;
use crate::report::{Kind, Recipient, Report};

/// Header fields that only automatic answers have, with what their value begins with.
const FIELDS: [(&str, &str); 8] = [
    ("Auto-Submitted", "auto-replied"),
    ("Auto-Submitted", "auto-generated"),
    ("Auto-Submitted", "auto-notified"),
    ("X-Autoreply", ""),
    ("X-Autorespond", ""),
    ("X-Autoresponder", ""),
    ("Precedence", "auto_reply"),
    ("X-Auto-Response-Suppress", ""),
];

/// What the subject of an automatic answer begins with, in lower case.
const SUBJECTS: [&str; 14] = [
    "auto:",
    "auto reply",
    "auto-reply",
    "autoreply",
    "automatic reply",
    "automated reply",
    "automatische antwort",
    "automatisch antwoord",
    "out of office",
    "abwesenheit",
    "vacation",
    "réponse automatique",
    "respuesta automática",
    "risposta automatica",
];

/// Reads a request of a mail program to be unsubscribed, which stands for a person; `None` where
/// the message is none.
pub(crate) fn unsubscribes(mail: &Mail<'_>) -> Option<Report> {
    let automatic = mail
        .header("Auto-Submitted")
        .is_some_and(|value| begins_with(value, "auto-replied"));
    let asks = automatic && mail.subject().trim().eq_ignore_ascii_case("unsubscribe");
    asks.then(|| Report {
        kind: Kind::Feedback,
        recipients: vec![Recipient::named(sender(mail).as_deref())],
        ..Report::default()
    })
}

/// Reads an automatic answer; `None` where the message is none.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    let field = || {
        FIELDS.iter().any(|(name, value)| {
            mail.header(name)
                .is_some_and(|found| begins_with(found, value))
        })
    };
    let subject = mail.subject().trim().to_lowercase();
    let automatic = SUBJECTS.iter().any(|opening| subject.starts_with(opening)) || field();
    automatic.then(|| Report {
        kind: Kind::AutoReply,
        recipients: vec![Recipient::named(sender(mail).as_deref())],
        ..Report::default()
    })
}

/// The address that the message is from.
pub(crate) fn sender(mail: &Mail<'_>) -> Option<String> {
    let from = mail.header("From")?;
    let group = &groups(&format!("from: {from}"))[0];
    let from = group.get("from")?;
    let inner = from
        .rsplit_once('<')
        .map_or(from, |(_, rest)| rest.split('>').next().unwrap_or_default())
        .trim();
    let inner = inner.split(' ').next().unwrap_or_default();
    inner.contains('@').then(|| inner.to_owned())
}
