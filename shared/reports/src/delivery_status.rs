//! Delivery status notifications (RFC 3464; internationalised: RFC 6533). Also reads their fields
//! if a mail system wrote them into the text instead of a part of their own.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::reply::{MAX_TEXT, Reply, stage};
use domain::status::{EnhancedStatus, StatusClass};
use mail_parser::DateTime;

use crate::bounded::{cut, name, on_one_line};
use crate::bounds::{MAX_DIAGNOSTIC, MAX_RECIPIENTS};
use crate::fields::{Field, Group, groups};
use crate::instant::instant;
use crate::mime::{Mail, Part};
use crate::report::{Action, Recipient, Report, without_success};
use crate::text;

/// The largest number of recipients for which the text for people is searched.
const MAX_WITHOUT_DIAGNOSTIC: usize = 16;

/// A group without an address is added to the recipient before it only while that has fewer fields
/// than this.
const MAX_FIELDS: usize = 64;

/// Words in the names of extension fields that contain a reply. In other fields a reply must follow
/// the type `smtp;`.
const REPLY_FIELDS: [&str; 6] = ["reply", "response", "reason", "diagnostic", "error", "info"];

/// How many extension fields of a recipient are searched for a reply.
const MAX_EXTENSIONS: usize = 16;

/// How long a mail system must have tried for its last temporary refusal to count as permanent. Our
/// own schedule for a user who is unknown for now takes as long.
const TRIED_LONG: Duration = Duration::from_secs(4 * 86_400);

/// The note about that, which is appended to the text of the reply. It contains no number, because
/// a number would look like a retry hint.
const TRIED: &str = " (tried for days)";

/// Reads the delivery status of a report. Returns `None` if it contains no recipient.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    let parts = mail.parts.iter().filter_map(|part| match part {
        Part::DeliveryStatus(text) => Some(text.as_str()),
        _ => None,
    });
    let mut report = parts
        .chain(mail.texts().filter(|text| has_recipients(text)))
        .find_map(|text| from_fields(text, mail.date()))?;
    let words = text::words(mail);
    // The diagnostic code is optional. Without it, only the text for people explains the failure.
    let is_unexplained = |one: &&mut Recipient| {
        one.has_failed()
            && one.diagnostic.is_empty()
            && one.reply.status.is_none_or(|status| status.detail() == 0)
    };
    for recipient in report
        .recipients
        .iter_mut()
        .filter(is_unexplained)
        .take(MAX_WITHOUT_DIAGNOSTIC)
    {
        let (reply, diagnostic) =
            text::about(&words, mail, recipient.last.as_deref().unwrap_or_default());
        let status = recipient.reply.status.or(reply.status);
        // The comment of the status comes first.
        let text = cut(
            format!("{} {}", recipient.reply.text, reply.text).trim(),
            MAX_TEXT,
        )
        .to_owned();
        recipient.reply = Reply {
            status,
            text,
            ..reply
        };
        recipient.diagnostic = diagnostic;
    }
    // If there are several recipients, it is unclear which of them the text's stage belongs to.
    if let [recipient] = report.recipients.as_mut_slice() {
        stage::note(&mut recipient.reply, &words);
    }
    Some(report)
}

/// Whether a text for people contains the fields of a delivery status.
fn has_recipients(text: &str) -> bool {
    let recipient = |line: &str| {
        line.get(..16)
            .is_some_and(|name| name.eq_ignore_ascii_case("final-recipient:"))
    };
    text.lines().any(recipient)
}

fn from_fields(text: &str, dated: Option<Timestamp>) -> Option<Report> {
    let mut groups = groups(text);
    let envelope_id = groups
        .iter()
        .find_map(|group| group.get("original-envelope-id"));
    let envelope_id = envelope_id.and_then(|id| name(&xtext(id)));
    let arrived_at = groups
        .iter()
        .find_map(|group| group.get("arrival-date"))
        .and_then(date);
    let groups = by_recipient(&mut groups);
    let read = |group: &Group| {
        let ended_at = group.get("last-attempt-date").and_then(date).or(dated);
        let mut one = recipient(group);
        if arrived_at
            .zip(ended_at)
            .is_some_and(|(arrived, ended)| ended.since(arrived) >= TRIED_LONG)
        {
            note_tried(&mut one);
        }
        one
    };
    let recipients: Vec<Recipient> = groups.iter().take(MAX_RECIPIENTS).map(read).collect();
    (!recipients.is_empty()).then(|| Report {
        envelope_id,
        ..Report::about(recipients)
    })
}

/// Returns one group per recipient. Splits groups if blank lines are missing, and joins groups if
/// there are too many blank lines.
fn by_recipient(groups: &mut Vec<Group>) -> Vec<Group> {
    let is_address = |field: &Field| {
        matches!(
            field.name.as_str(),
            "final-recipient" | "original-recipient"
        )
    };
    let mut found: Vec<Group> = Vec::new();
    for group in groups.drain(..) {
        if group.0.iter().any(is_address) {
            let mut one = Group::default();
            for field in group.0 {
                if is_address(&field) && one.0.iter().any(|before| before.name == field.name) {
                    found.push(std::mem::take(&mut one));
                }
                one.0.push(field);
            }
            found.push(one);
        } else if let Some(last) = found.last_mut()
            && last.0.len() < MAX_FIELDS
            && (last.get("status").is_none() || last.get("action").is_none())
            && (group.get("status").is_some() || group.get("action").is_some())
        {
            last.0.extend(group.0);
        }
    }
    found
}

fn recipient(group: &Group) -> Recipient {
    let status = group.get("status").and_then(read_status);
    let action = group
        .get("action")
        .and_then(Action::from_name)
        .unwrap_or_else(|| Action::from_status(status));
    let diagnostic = group.all("diagnostic-code").next().unwrap_or_default();
    let mut reply = Reply::parse(diagnostic);
    let elsewhere = Some(group)
        .filter(|_| reply.code.is_none() && !reply.text.contains(char::is_alphabetic))
        .and_then(in_extension);
    let diagnostic = elsewhere.unwrap_or(diagnostic);
    if elsewhere.is_some() {
        reply = Reply::parse(diagnostic);
    }
    reply.status = effective_status(status, &reply, diagnostic);
    if reply.text.is_empty() {
        reply.text = comment(group.get("status").unwrap_or_default()).to_owned();
    }
    if action == Action::Failed {
        reply = without_success(reply);
    }
    Recipient {
        original: group
            .name("original-recipient")
            .and_then(|address| mailbox(&address)),
        last: group
            .name("final-recipient")
            .and_then(|address| mailbox(&address)),
        action: Some(action),
        diagnostic: on_one_line(without_type(diagnostic), MAX_DIAGNOSTIC),
        reply,
        remote_mta: group.name("remote-mta"),
    }
}

/// Returns the reply that an extension field quotes, such as
/// `X-Supplementary-Info: <mx #5.0.0 smtp; 550 no>`. Some mail systems write no diagnostic code, or
/// one without a word. `None` if no extension field contains a code of a failure.
fn in_extension(group: &Group) -> Option<&str> {
    let extensions = group.0.iter().filter(|field| field.name.starts_with("x-"));
    let quoted = extensions.filter_map(|field| {
        let is_for_replies = REPLY_FIELDS.iter().any(|word| field.name.contains(word));
        let value = field.value.trim();
        let value = value
            .strip_prefix('<')
            .and_then(|inner| inner.strip_suffix('>'))
            .unwrap_or(value);
        let after_type = value
            .match_indices(';')
            .map(|(at, _)| value.split_at(at))
            .find(|(before, _)| before.to_ascii_lowercase().ends_with("smtp"))
            .map(|(_, after)| after[1..].trim());
        after_type.or(Some(value).filter(|_| is_for_replies))
    });
    let mut quoted = quoted.take(MAX_EXTENSIONS);
    quoted.find(|text| Reply::parse(text).code.is_some_and(|code| code >= 400))
}

/// If the last refusal was temporary, adds the note to the reply that the mail system had tried for
/// days before it gave up.
fn note_tried(recipient: &mut Recipient) {
    let reply = &mut recipient.reply;
    let is_transient = reply.class() == Some(StatusClass::Transient);
    if recipient.action == Some(Action::Failed) && is_transient && !reply.text.is_empty() {
        reply.text = format!("{}{TRIED}", cut(&reply.text, MAX_TEXT - TRIED.len()));
    }
}

/// Returns the instant of a date field (RFC 5322, section 3.3).
fn date(value: &str) -> Option<Timestamp> {
    instant(&DateTime::parse_rfc822(value)?)
}

/// Returns the status that counts. A status that the recipient's own server sent directly after its
/// code has priority over the status of the reporting mail system: some of those have one status
/// for every refusal, and one for every expiry. A status from elsewhere in the text counts if the
/// report has no status, or only a vague one.
fn effective_status(
    field: Option<EnhancedStatus>,
    reply: &Reply,
    diagnostic: &str,
) -> Option<EnhancedStatus> {
    let (Some(reported), Some(quoted)) = (field, reply.status) else {
        return field.or(reply.status);
    };
    let follows_code = reply.code.is_some_and(|code| {
        [' ', '-']
            .iter()
            .any(|between| diagnostic.contains(&format!("{code}{between}{quoted}")))
    });
    if !is_vague(quoted) && (follows_code || is_vague(reported)) {
        Some(quoted)
    } else {
        Some(reported)
    }
}

/// Whether a status contains no more than its class.
fn is_vague(status: EnhancedStatus) -> bool {
    status.subject() == 0 && status.detail() == 0
}

/// Reads a status such as `5.1.1`, `5.1.1 (bad address)` or `smtp; 5.1.1`.
fn read_status(value: &str) -> Option<EnhancedStatus> {
    let value = value
        .split_once(';')
        .map_or(value, |(_, value)| value)
        .trim_start();
    let end = value
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(value.len());
    value[..end].trim_end_matches('.').parse().ok()
}

/// Returns the comment of a status.
fn comment(status: &str) -> &str {
    status
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'))
        .map_or("", |(comment, _)| comment)
}

fn without_type(diagnostic: &str) -> &str {
    match diagnostic.split_once(';') {
        Some((kind, rest)) if !kind.contains(' ') && kind.len() <= 32 => rest.trim_start(),
        _ => diagnostic,
    }
}

/// Returns the address in a recipient field. Some mail systems write a name that is not an address;
/// it is returned unchanged.
fn mailbox(value: &str) -> Option<String> {
    let inner = value
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or(value, |(inner, _)| inner);
    let inner = inner
        .split_once(" (")
        .map_or(inner, |(inner, _)| inner)
        .trim();
    name(&unicode(inner))
}

/// Decodes utf-8-addr-xtext (RFC 6533, section 3): `\x{E4}` is `ä`.
fn unicode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(r"\x{") {
        out.push_str(before);
        let decoded = after.split_once('}').and_then(|(hex, rest)| {
            let plain = (1..=6).contains(&hex.len());
            Some((
                plain
                    .then(|| u32::from_str_radix(hex, 16).ok().and_then(char::from_u32))
                    .flatten()?,
                rest,
            ))
        });
        match decoded {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => {
                out.push_str(r"\x{");
                rest = after;
            }
        }
    }
    out + rest
}

/// Decodes xtext (RFC 3461, section 4): `+2B` is `+`.
fn xtext(text: &str) -> String {
    let text = on_one_line(text, crate::bounds::MAX_NAME);
    let mut pieces = text.split('+');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match piece
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|byte| !byte.is_ascii_control())
        {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'+');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    String::from_utf8(bytes).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Kind;

    fn report(fields: &str) -> Report {
        from_fields(fields, None).unwrap()
    }

    #[test]
    fn a_reply_in_an_extension_field_is_read_if_the_diagnostic_code_has_none() {
        let fields = "Final-Recipient: rfc822; jo@example.com\nAction: failed\nStatus: 5.0.0\n";
        for (more, expected) in [
            (
                "X-Supplementary-Info: <192.0.2.9 #5.0.0 smtp; 550 \"Unknown User\">",
                "550 5.0.0 \"Unknown User\"",
            ),
            (
                "X-Supplementary-Info: < #5.1.1 smtp;550 5.1.1 nobody>",
                "550 5.1.1 nobody",
            ),
            ("X-Remote-Reply: 552 5.2.2 full", "552 5.2.2 full"),
            ("X-Last: SMTP; 552 full", "552 5.0.0 full"),
            (
                "Diagnostic-Code: smtp; 5.0.0\nX-Reply: 552 full",
                "552 5.0.0 full",
            ),
            (
                "Diagnostic-Code: smtp; 550 nobody\nX-Reply: 552 full",
                "550 5.0.0 nobody",
            ),
            ("X-Display-Name: 550 Lane\nX-Trace: <250 ok>", "5.0.0"),
            ("X-Trace: <250 ok>\nX-Category: bad-mailbox", "5.0.0"),
        ] {
            let report = report(&format!("{fields}{more}\n"));
            assert_eq!(report.recipients[0].reply.to_string(), expected, "{more}");
        }
    }

    #[test]
    fn a_temporary_refusal_after_days_of_trying_is_noted() {
        let (arrived, written) = (
            "Mon, 2 Nov 2026 09:00:00 +0100",
            Timestamp::parse("2026-11-06T08:00:00Z"),
        );
        for (arrived, last, action, reply, noted) in [
            (arrived, "", "failed", "450 4.1.1 unknown", true),
            (
                arrived,
                "Last-Attempt-Date: Fri, 6 Nov 2026 08:00:00 +0000",
                "failed",
                "450 4.1.1 unknown",
                true,
            ),
            (
                arrived,
                "Last-Attempt-Date: Fri, 6 Nov 2026 07:59:59 +0000",
                "failed",
                "450 4.1.1 unknown",
                false,
            ),
            (
                "Mon, 2 Nov 2026 09:00:01 +0100",
                "",
                "failed",
                "450 4.1.1 unknown",
                false,
            ),
            (
                "Sat, 7 Nov 2026 09:00:00 +0100",
                "",
                "failed",
                "450 4.1.1 unknown",
                false,
            ),
            ("the other day", "", "failed", "450 4.1.1 unknown", false),
            (arrived, "", "delayed", "450 4.1.1 unknown", false),
            (arrived, "", "failed", "550 5.1.1 unknown", false),
            (arrived, "", "failed", "450 4.1.1", false),
        ] {
            let fields = format!(
                "Arrival-Date: {arrived}\n\nFinal-Recipient: rfc822; jo@example.com\n\
                 Action: {action}\nDiagnostic-Code: smtp; {reply}\n{last}\n"
            );
            let report = from_fields(&fields, written).unwrap();
            let expected = if noted {
                format!("{reply}{TRIED}")
            } else {
                reply.to_owned()
            };
            assert_eq!(report.recipients[0].reply.to_string(), expected, "{fields}");
        }
        let fields = "Arrival-Date: Mon, 2 Nov 2026 09:00:00 +0100\n\
                      Final-Recipient: rfc822; jo@example.com\n";
        let report = from_fields(
            &format!(
                "{fields}Diagnostic-Code: smtp; 450 {}",
                "x".repeat(MAX_TEXT)
            ),
            written,
        );
        let text = &report.unwrap().recipients[0].reply.text;
        assert_eq!((text.len(), text.ends_with(TRIED)), (MAX_TEXT, true));
    }

    #[test]
    fn the_servers_status_has_priority_over_the_reporting_systems_status() {
        for (status, diagnostic, effective) in [
            (
                "5.1.1",
                "smtp; 550 5.1.1 <jo@example.com> User unknown",
                "5.1.1",
            ),
            ("5.1.1", "smtp; 550 5.7.1 listed", "5.7.1"),
            (
                "4.4.7",
                "smtp; 450-4.7.1 Come back later\n 450 4.7.1 please",
                "4.7.1",
            ),
            ("5.0.0", "smtp; 550 5.2.2 full", "5.2.2"),
            (
                "5.0.0",
                "X-Mailer; rejected: 5.1.0 - 'Mailbox 5.2.2 is full'",
                "5.1.0",
            ),
            ("5.2.1", "smtp; 550 5.0.0 no", "5.2.1"),
            ("5.2.1", "smtp; 550 no mailbox 5.1.1 here", "5.2.1"),
            ("4.2.2 (Over quota)", "", "4.2.2"),
            ("", "smtp; 550 5.1.1 no", "5.1.1"),
            ("nonsense", "smtp; 550 no", "-"),
        ] {
            let fields = format!(
                "Final-Recipient: rfc822; jo@example.com\nAction: failed\nStatus: {status}\n\
                 Diagnostic-Code: {diagnostic}"
            );
            let found = report(&fields).recipients[0]
                .reply
                .status
                .map_or("-".to_owned(), |status| status.to_string());
            assert_eq!(found, effective, "{status} {diagnostic}");
        }
    }

    #[test]
    fn recipients_are_separated_whether_blank_lines_are_missing_or_too_many() {
        let one = "Final-Recipient: rfc822; a@example.com\nAction: failed\nStatus: 5.1.1\n";
        let two = "Final-Recipient: rfc822; b@example.com\nAction: delayed\nStatus: 4.2.2\n";
        for between in ["", "\n", "\n \n\n"] {
            let read = report(&format!("Reporting-MTA: dns; mx\n\n{one}{between}{two}"));
            let found: Vec<_> = read
                .recipients
                .iter()
                .map(|one| (one.address().unwrap(), one.action.unwrap()))
                .collect();
            assert_eq!(
                found,
                [
                    ("a@example.com", Action::Failed),
                    ("b@example.com", Action::Delayed)
                ],
                "{between:?}"
            );
            assert_eq!(read.kind, Kind::Failed);
        }
        let split =
            report("Final-Recipient: rfc822; a@example.com\n\nAction: failed\n\nStatus: 5.1.1\n");
        assert_eq!(split.recipients[0].reply.status, "5.1.1".parse().ok());
    }

    #[test]
    fn ids_and_addresses_are_decoded() {
        let read = report(
            "Original-Envelope-Id: a+2Bb+3D+zz+\n\n\
             Original-Recipient: utf-8; j\\x{F6}@example.com\n\
             Final-Recipient: rfc822; <jo@example.net> (forwarded)\n\
             Remote-MTA: dns; mx.example.net (192.0.2.1)",
        );
        assert_eq!(read.envelope_id.as_deref(), Some("a+b=+zz+"));
        let one = &read.recipients[0];
        assert_eq!(
            (one.address(), one.last.as_deref()),
            (Some("jö@example.com"), Some("jo@example.net"))
        );
        assert_eq!(
            one.remote_mta.as_deref(),
            Some("mx.example.net (192.0.2.1)")
        );
        assert_eq!(unicode(r"a\x{}\x{110000}\x{6a"), r"a\x{}\x{110000}\x{6a");
    }

    #[test]
    fn an_action_has_priority_over_a_status_that_contradicts_it() {
        let read = report("Final-Recipient: rfc822; a@example.com\nAction: failed\nStatus: 2.0.0");
        assert_eq!(
            (read.kind, read.recipients[0].reply.status),
            (Kind::Failed, None)
        );
        let read = report("Final-Recipient: rfc822; a@example.com\nStatus: 2.0.0");
        assert_eq!(read.kind, Kind::Delivered);
    }
}
