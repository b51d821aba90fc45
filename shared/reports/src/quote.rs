//! Reports that a person forwarded as quoted text, with a mark before each line.

use domain::clock::Timestamp;
use mail_parser::DateTime;

use crate::bounded::begins_with;
use crate::instant::instant;

/// Returns `text` without one level of quotation marks if most of it is quoted, else unchanged.
/// Words above the forwarded mail are kept.
pub(crate) fn unquoted(text: String) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    if lines().filter(|line| line.starts_with('>')).count() * 2 <= lines().count() {
        return text;
    }
    let bare = |line: &str| {
        line.strip_prefix("> ")
            .or_else(|| line.strip_prefix('>'))
            .unwrap_or(line)
            .to_owned()
            + "\n"
    };
    text.lines().map(bare).collect()
}

/// Returns when a forwarded mail was written: the `Date` among the first header fields in `text`.
pub(crate) fn date(text: &str) -> Option<Timestamp> {
    let is_field = |line: &&str| {
        let name = line.split_once(": ").map_or("", |(name, _)| name);
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
    };
    let mut fields = text
        .lines()
        .skip_while(|line| !is_field(line))
        .take_while(is_field);
    let value = fields
        .find(|line| begins_with(line, "date: "))?
        .split_once(' ')?
        .1;
    instant(&DateTime::parse_rfc822(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fields_of_the_forwarded_mail_date_it() {
        let written = |text: &str| date(text).map(|at| at.to_string());
        let at = Some("2026-11-02T08:00:00.000Z".to_owned());
        assert_eq!(
            written("See below.\n\nFrom: a\nDate: Mon, 2 Nov 2026 09:00:00 +0100\nSubject: b\n"),
            at
        );
        for text in [
            "From: a\nSubject: b\n\nReturned:\nDate: Mon, 2 Nov 2026 09:00:00 +0100\n",
            "From: a\nDate: the other day\n",
            "Date: Mon, 99 Nov 2026 09:00:00 +0100\n",
            "Date:\n",
            "",
        ] {
            assert_eq!(written(text), None, "{text}");
        }
    }

    #[test]
    fn mostly_quoted_text_loses_its_quotation_marks() {
        for (text, bare) in [
            (
                "See below.\n\n> Status: 5.1.1\n>\n> <<< 550 no\n>>> DATA\n",
                "See below.\n\nStatus: 5.1.1\n\n<<< 550 no\n>> DATA\n",
            ),
            ("Status: 5.1.1\n> not mine\n", "Status: 5.1.1\n> not mine\n"),
            ("", ""),
        ] {
            assert_eq!(unquoted(text.to_owned()), bare, "{text:?}");
        }
    }
}
