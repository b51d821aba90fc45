//! Reports that a person handed on by hand: quoted, each line after a mark.

use domain::clock::Timestamp;
use mail_parser::DateTime;

use crate::bounded::begins_with;
use crate::instant::instant;

/// `text` without one level of quoting, where most of it is quoted; else as it is. Words that stand
/// above what was handed on stay.
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

/// When what a person handed on was written: the `Date` among the fields that stand first in
/// `text`.
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
    fn only_the_fields_of_what_was_handed_on_say_when_it_was_written() {
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
    fn what_is_mostly_quoted_loses_its_marks() {
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
