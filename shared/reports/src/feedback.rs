//! Feedback reports (RFC 5965): a recipient, or a mail system for them, reports a message as spam.

use crate::bounded::name;
use crate::bounds::MAX_RECIPIENTS;
use crate::fields::groups;
use crate::mime::{Mail, Part};
use crate::original;
use crate::report::{Kind, Recipient, Report};

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
    Some(Report {
        kind: Kind::Feedback,
        recipients,
        envelope_id,
        ..Report::default()
    })
}
