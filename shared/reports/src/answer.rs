//! Automatic replies of recipients' mail systems (RFC 3834): out of office, receipts, unsubscribing
//! by mail. They show that the address is alive, and are not bounces.

use crate::bounded::begins_with;
use crate::fields::groups;
use crate::mime::Mail;
use crate::report::{Feedback, Kind, Recipient, Report};

/// Header fields that automatic replies and reports have, with the beginning of their value.
const FIELDS: [(&str, &str); 4] = [
    ("Auto-Submitted", "auto-replied"),
    ("Auto-Submitted", "auto-generated"),
    ("Auto-Submitted", "auto-notified"),
    ("X-Auto-Response-Suppress", ""),
];

/// Header fields that only the automatic reply of a person has.
const ABSENCE_FIELDS: [(&str, &str); 4] = [
    ("X-Autoreply", ""),
    ("X-Autorespond", ""),
    ("X-Autoresponder", ""),
    ("Precedence", "auto_reply"),
];

/// The beginning of the subject of an automatic reply, in lower case.
const SUBJECTS: [&str; 33] = [
    "auto:",
    "auto reply",
    "auto-reply",
    "autoreply",
    "automatic reply",
    "automated reply",
    "automatische antwort",
    "automatisch antwoord",
    "out of office",
    "out of the office",
    "i am out of",
    "away from",
    "abwesenheit",
    "abwesend",
    "im urlaub",
    "vacation",
    "on holiday",
    "réponse automatique",
    "absence du bureau",
    "absent du bureau",
    "respuesta automática",
    "fuera de la oficina",
    "risposta automatica",
    "fuori sede",
    "resposta automática",
    "afwezig",
    "automatyczna odpowiedź",
    "автоответ",
    "автоматический ответ",
    "自動応答",
    "自动回复",
    "自動回覆",
    "자동 회신",
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
        feedback: Some(Feedback::Unsubscribe),
        recipients: vec![Recipient::named(sender(mail).as_deref())],
        ..Report::default()
    })
}

/// Reads an automatic reply. Returns `None` if the message is not one.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    let is_automatic = is_absence(mail) || has_one(mail, &FIELDS);
    is_automatic.then(|| Report {
        kind: Kind::AutoReply,
        recipients: vec![Recipient::named(sender(mail).as_deref())],
        ..Report::default()
    })
}

/// Whether the message is the automatic reply of a person, such as a vacation notice: no mail
/// system writes so in a report.
pub(crate) fn is_absence(mail: &Mail<'_>) -> bool {
    let subject = mail.subject().trim().to_lowercase();
    SUBJECTS.iter().any(|opening| subject.starts_with(opening)) || has_one(mail, &ABSENCE_FIELDS)
}

/// Whether the message has one of these header fields, with the beginning of its value.
fn has_one(mail: &Mail<'_>, fields: &[(&str, &str)]) -> bool {
    fields.iter().any(|(name, value)| {
        mail.header(name)
            .is_some_and(|found| begins_with(found, value))
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
