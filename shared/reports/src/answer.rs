//! Automatic replies of recipients' mail systems (RFC 3834): out of office, receipts, unsubscribing
//! by mail. They show that the address is alive, and are not bounces.

use crate::bounded::begins_with;
use crate::fields::groups;
use crate::mime::Mail;
use crate::report::{Kind, Recipient, Report};

/// Header fields that only automatic replies have, with the beginning of their value.
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

/// The beginning of the subject of an automatic reply, in lower case.
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

/// Reads a request to unsubscribe that a mail program sends for a person. Returns `None` if the
/// message is not one.
pub(crate) fn unsubscribes(mail: &Mail<'_>) -> Option<Report> {
    let is_automatic = mail
        .header("Auto-Submitted")
        .is_some_and(|value| begins_with(value, "auto-replied"));
    let is_request = is_automatic && mail.subject().trim().eq_ignore_ascii_case("unsubscribe");
    is_request.then(|| Report {
        kind: Kind::Feedback,
        recipients: vec![Recipient::named(sender(mail).as_deref())],
        ..Report::default()
    })
}

/// Reads an automatic reply. Returns `None` if the message is not one.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    let has_field = || {
        FIELDS.iter().any(|(name, value)| {
            mail.header(name)
                .is_some_and(|found| begins_with(found, value))
        })
    };
    let subject = mail.subject().trim().to_lowercase();
    let is_automatic = SUBJECTS.iter().any(|opening| subject.starts_with(opening)) || has_field();
    is_automatic.then(|| Report {
        kind: Kind::AutoReply,
        recipients: vec![Recipient::named(sender(mail).as_deref())],
        ..Report::default()
    })
}

/// Returns the address in the `From` field.
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
