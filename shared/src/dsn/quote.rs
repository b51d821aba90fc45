//! Reports that a person handed on by hand: quoted, each line after a mark.

/// `text` without one level of quoting, where most of it is quoted; else as it is. Words that stand above what was handed
/// on stay.
pub(super) fn unquoted(text: String) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    if lines().filter(|line| line.starts_with('>')).count() * 2 <= lines().count() {
        return text;
    }
    let bare =
        |line: &str| line.strip_prefix("> ").or_else(|| line.strip_prefix('>')).unwrap_or(line).to_owned() + "\n";
    text.lines().map(bare).collect()
}

#[cfg(test)]
mod tests {
    use super::unquoted;

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
