//! The recipient of a report that is a sentence: the one address that it names. People's languages
//! put it anywhere in it.

use crate::bounds::MAX_NAME;
use crate::mime::Mail;

/// Local parts that reports come from.
pub(crate) const DAEMONS: [&str; 6] = [
    "mailer-daemon",
    "postmaster",
    "post_master",
    "mail-daemon",
    "mdaemon",
    "mail.delivery.system",
];

/// Local parts of those who may be asked why, whom a report names beside its recipient.
const ASKED: [&str; 6] = ["abuse", "admin", "contact", "help", "info", "support"];

/// Fields with the addresses of the report itself: whose it is, and whom it is written to.
const OWN: [&str; 5] = ["From", "To", "Cc", "Reply-To", "Return-Path"];

/// How many addresses of its own a report has at most.
const MAX_OWN: usize = 16;

/// The address that the words name, where they name one alone beside the report's own and those of
/// who may be asked.
pub(crate) fn recipient<'w>(mail: &Mail<'_>, words: &'w str) -> Option<&'w str> {
    let own: Vec<&str> = OWN
        .iter()
        .filter_map(|field| mail.header(field))
        .flat_map(addresses)
        .take(MAX_OWN)
        .collect();
    let is_own = |address: &str| own.iter().any(|own| own.eq_ignore_ascii_case(address));
    let mut others = addresses(words).filter(|address| !is_own(address) && !is_asked(address));
    let first = others.next()?;
    others
        .all(|other| other.eq_ignore_ascii_case(first))
        .then_some(first)
}

fn addresses(text: &str) -> impl Iterator<Item = &str> {
    let is_between = |c: char| c.is_whitespace() || "<>()[]{}\"'`,;:|“”‘’«»„".contains(c);
    text.split(is_between)
        .map(|word| word.trim_matches(['.', '!', '?', '*']))
        .filter(|word| {
            let is_whole = |(local, domain): (&str, &str)| {
                !local.is_empty() && domain.contains('.') && !domain.contains('@')
            };
            word.len() <= MAX_NAME && word.split_once('@').is_some_and(is_whole)
        })
}

fn is_asked(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default().to_lowercase();
    DAEMONS
        .iter()
        .chain(&ASKED)
        .any(|name| local.contains(name))
}

#[cfg(test)]
mod tests {
    use crate::report::{Kind, Report};

    #[test]
    fn a_report_that_is_a_sentence_is_about_the_one_address_that_it_names() {
        for (words, named) in [
            (
                "Your message to ann@example.com could not be delivered.",
                Some("ann@example.com"),
            ),
            (
                "Your message to <ann@example.com> couldn't be delivered because the mailbox is full.",
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
                    "From: Postmaster <postmaster@mx.example.com>\nTo: news@example.org\nSubject: Undeliverable mail\n\
                     Content-Type: text/plain; charset=utf-8\n\n{words}\n"
                )
                .as_bytes(),
            );
            assert_eq!(report.kind, Kind::Failed, "{words}");
            assert_eq!(report.recipients[0].address(), named, "{words}");
        }
    }
}
