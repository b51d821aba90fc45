//! Feedback reports (RFC 5965): a recipient, or a mail system for them, reports a message as spam.

use crate::bounded::name;
use crate::bounds::MAX_RECIPIENTS;
use crate::fields::groups;
use crate::mime::{Mail, Part};
use crate::original;
use crate::report::{Feedback, Kind, Recipient, Report};

/// How many return paths of the original are read.
const MAX_RETURN_PATHS: usize = 4;

/// Reads a feedback report. Returns `None` if the message is not one.
pub(crate) fn read(mail: &Mail<'_>) -> Option<Report> {
    let fields = mail.parts.iter().find_map(|part| match part {
        Part::Feedback(text) => Some(text),
        _ => None,
    })?;
    let groups = groups(fields);
    let all = |name: &'static str| groups.iter().flat_map(move |group| group.all(name));
    let address = |value: &str| {
        value
            .split_once(';')
            .map_or(value, |(_, value)| value)
            .trim()
            .trim_matches(['<', '>'])
            .to_owned()
    };
    let mut named: Vec<String> = all("original-rcpt-to")
        .chain(all("removal-recipient"))
        .map(address)
        .collect();
    if named.is_empty() {
        named = original::recipients(mail);
    }
    named.dedup();
    let recipients = named
        .iter()
        .take(MAX_RECIPIENTS)
        .map(|address| Recipient::named(Some(address)))
        .collect();
    let envelope_id = all("original-envelope-id").next().and_then(name);
    let sent_from = all("original-mail-from")
        .map(address)
        .chain(original::return_path(mail))
        .filter_map(|path| name(&path))
        .take(MAX_RETURN_PATHS);
    Some(Report {
        kind: Kind::Feedback,
        feedback: meaning(all("feedback-type").next().unwrap_or("abuse")),
        sent_from: sent_from.collect(),
        recipients,
        envelope_id,
        ..Report::default()
    })
}

/// Returns what a type of feedback asks for (RFC 5965, section 3.1 and 7.3, and drafts of it that
/// are still in use). Reports about authentication and viruses ask for nothing.
fn meaning(kind: &str) -> Option<Feedback> {
    match kind.trim().to_ascii_lowercase().as_str() {
        "abuse" | "fraud" | "other" | "miscategorized" => Some(Feedback::Complaint),
        "opt-out" | "opt-out-list" | "unsubscribe" => Some(Feedback::Unsubscribe),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complaints_and_requests_to_unsubscribe_ask_for_something() {
        for (kind, expected) in [
            ("Abuse ", Some(Feedback::Complaint)),
            ("fraud", Some(Feedback::Complaint)),
            ("opt-out", Some(Feedback::Unsubscribe)),
            ("not-spam", None),
            ("auth-failure", None),
            ("virus", None),
        ] {
            assert_eq!(meaning(kind), expected, "{kind}");
        }
    }

    #[test]
    fn the_return_path_of_the_original_is_read() {
        let report = Report::read(
            b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\
            Content-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\n\
            Original-Mail-From: <a@example.org>\r\nOriginal-Rcpt-To: jo@example.com\r\n\r\n\
            --b\r\nContent-Type: message/rfc822\r\n\r\nReturn-Path: <b@example.org>\r\n\
            Subject: hello\r\n\r\nhi\r\n--b--\r\n",
        );
        assert_eq!(report.sent_from, ["a@example.org", "b@example.org"]);
        assert_eq!(report.feedback, Some(Feedback::Complaint));
    }
}
