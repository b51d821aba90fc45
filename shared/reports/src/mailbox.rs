//! Mailbox files: several messages in one file, each after an envelope line (RFC 4155).

/// The days of the week that the time of an envelope line begins with.
const DAYS: [&[u8]; 7] = [
    b"Mon ", b"Tue ", b"Wed ", b"Thu ", b"Fri ", b"Sat ", b"Sun ",
];

/// Returns the messages of a mailbox file, each with its envelope line. A file that is a single
/// message is returned as one.
pub fn messages(file: &[u8]) -> Vec<&[u8]> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        if is_envelope(line) {
            starts.push(at);
        }
        at += line.len();
    }
    if starts.first() != Some(&0) {
        return vec![file];
    }
    let ends = starts.iter().skip(1).copied().chain([file.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &file[*start..end])
        .collect()
}

/// Whether a line is `From sender Mon Nov  2 08:00:00 2026`.
fn is_envelope(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"From ") else {
        return false;
    };
    let Some(end) = rest.iter().position(|byte| *byte == b' ') else {
        return false;
    };
    let time = rest[end..].trim_ascii_start();
    DAYS.iter().any(|day| time.starts_with(day)) && time.contains(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_file_is_split_into_messages_and_a_single_message_is_not_split() {
        let envelope = "From jo@example.com  Mon Nov  2 08:00:00 2026\n";
        let one = "Subject: x\n\nFrom me to you\nFrom here Mon\n";
        for (file, count) in [
            (format!("{envelope}{one}{envelope}{one}{envelope}"), 3),
            (format!("{envelope}{one}"), 1),
            (format!("{one}{envelope}{one}"), 1),
            (String::new(), 1),
        ] {
            assert_eq!(messages(file.as_bytes()).len(), count, "{file}");
        }
    }
}
