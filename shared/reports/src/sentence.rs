//! Finds the recipient of a report that is only a sentence: the one address that it names. In
//! natural language the address can be anywhere in the sentence.

use crate::bounds::MAX_NAME;
use crate::mime::Mail;

/// Local parts of addresses that send reports.
pub(crate) const DAEMONS: [&str; 6] = [
    "mailer-daemon",
    "postmaster",
    "post_master",
    "mail-daemon",
    "mdaemon",
    "mail.delivery.system",
];

/// Local parts of contact addresses that a report names next to its recipient.
const CONTACTS: [&str; 6] = ["abuse", "admin", "contact", "help", "info", "support"];

/// Header fields with the addresses of the report itself: its sender and its receivers.
const OWN: [&str; 5] = ["From", "To", "Cc", "Reply-To", "Return-Path"];

/// The largest number of the report's own addresses that are read.
const MAX_OWN: usize = 16;

/// Returns the address that the words name. Returns `None` unless there is exactly one, apart from
/// the report's own addresses and contact addresses.
pub(crate) fn recipient<'w>(mail: &Mail<'_>, words: &'w str) -> Option<&'w str> {
    let own: Vec<&str> = OWN
        .iter()
        .filter_map(|field| mail.header(field))
        .flat_map(addresses)
        .take(MAX_OWN)
        .collect();
    let is_own = |address: &str| own.iter().any(|own| own.eq_ignore_ascii_case(address));
    let mut others = addresses(words).filter(|address| !is_own(address) && !is_contact(address));
    let first = others.next()?;
    others
        .all(|other| other.eq_ignore_ascii_case(first))
        .then_some(first)
}

fn addresses(text: &str) -> impl Iterator<Item = &str> {
    let marks = "<>()[]{}\"'`,;:|“”‘’«»„";
    let is_between = |c: char| c.is_whitespace() || marks.contains(c);
    text.split(is_between)
        .map(|word| word.trim_matches(['.', '!', '?', '*']))
        .filter(|word| {
            let is_whole = |(local, domain): (&str, &str)| {
                !local.is_empty() && domain.contains('.') && !domain.contains('@')
            };
            word.len() <= MAX_NAME && word.split_once('@').is_some_and(is_whole)
        })
}

fn is_contact(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default().to_lowercase();
    DAEMONS
        .iter()
        .chain(&CONTACTS)
        .any(|name| local.contains(name))
}

#[cfg(test)]
mod tests {
    use crate::report::{Kind, Report};

    #[test]
    fn a_report_that_is_only_a_sentence_is_about_the_one_address_in_it() {
        for (words, named) in [
            (
                "Your message to ann@example.com could not be delivered.",
                Some("ann@example.com"),
            ),
            (
                "Your message to <ann@example.com> couldn't be delivered because the mailbox is \
                 full.",
                Some("ann@example.com"),
            ),
            (
                "Die Nachricht an „ann@example.com“ konnte nicht zugestellt werden.",
                Some("ann@example.com"),
            ),
            (
                "Delivery to the following recipient failed permanently: ann@example.com",
                Some("ann@example.com"),
            ),
            (
                "ann@example.com: nobody. I mean Ann@Example.com! Ask support@example.com.",
                Some("ann@example.com"),
            ),
            (
                "Your message to ann@example.com or bob@example.com was not delivered.",
                None,
            ),
            (
                "Mail from news@example.org was not delivered; ask postmaster@example.com.",
                None,
            ),
            ("Your message to ann could not be delivered.", None),
            ("Your message c42@localhost could not be delivered.", None),
        ] {
            let report = Report::read(
                format!(
                    "From: Postmaster <postmaster@mx.example.com>\nTo: news@example.org\n\
                     Subject: Undeliverable mail\n\
                     Content-Type: text/plain; charset=utf-8\n\n{words}\n"
                )
                .as_bytes(),
            );
            assert_eq!(report.kind, Kind::Failed, "{words}");
            assert_eq!(report.recipients[0].address(), named, "{words}");
        }
    }
}
