//! The fingerprint of a reply: its text without the parts that differ from one mail to the next. So
//! replies with the same meaning are grouped under one text. It is only for counting: what a reply
//! means is read from the reply itself.

use std::net::{IpAddr, Ipv4Addr};

/// The length of the longest word without a digit or mark that is kept unchecked (see
/// [`may_vary`]): one less than a UUID without hyphens.
const PLAIN_MAX: usize = 31;

/// The length of the longest number that is kept unchecked because it may be a code or a status, in
/// digits and marks.
const SHORT_NUMBER_MAX: usize = 6;

/// The smallest number of letters and digits in an id.
const ID_MIN: usize = 8;

/// The smallest number of changes between letters and digits in an id. Product names and error
/// codes (`OFR006_102`) have fewer.
const ID_TURNS_MIN: usize = 3;

/// The smallest number of digits in a number that is replaced: it means nothing outside its mail.
const NUMBER_MIN: usize = 7;

/// How many levels of `a=b=c` are examined.
const DEPTH_MAX: u8 = 3;

/// Words for units of time. A number before one of them is a span of time.
const UNITS: [&str; 22] = [
    "s", "sec", "secs", "second", "seconds", "m", "min", "mins", "minute", "minutes", "h", "hr",
    "hrs", "hour", "hours", "d", "day", "days", "week", "weeks", "month", "year",
];

/// Returns `text` with one space between words and the varying parts replaced.
///
/// Addresses, IP addresses, hosts with numbers in their names, ids, times and spans of time become
/// `{email}`, `{ipaddr}`, `{host}`, `{uuid}`, `{base64}`, `{hash}`, `{number}`, `{timestamp}` and
/// `{duration}`. Punctuation around a replaced word is removed with it. Of a link, only the varying
/// parts are replaced. Takes time linear in the text.
pub fn fingerprint(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut words = text.split_ascii_whitespace().peekable();
    while let Some(word) = words.next() {
        if !result.is_empty() {
            result.push(' ');
        }
        let is_number = word.bytes().all(|b| b.is_ascii_digit());
        if is_number
            && words
                .peek()
                .is_some_and(|next| is_unit(next.trim_end_matches(is_enclosing)))
        {
            words.next();
            result.push_str("{duration}");
        } else {
            push_word(&mut result, word, 0);
        }
    }
    result
}

/// Appends `word`, or its placeholder.
fn push_word(result: &mut String, word: &str, depth: u8) {
    // Fast path: most words consist of letters only and are kept.
    if word
        .bytes()
        .all(|b| b.is_ascii_alphabetic() || !b.is_ascii())
    {
        return result.push_str(word);
    }
    let bare = word.trim_matches(is_enclosing);
    // Two colons at the edge of a word are part of it: `::1`.
    let colons = word.as_bytes().windows(2).any(|pair| pair == b"::");
    if !colons && !may_vary(bare) {
        result.push_str(word);
    } else if let Some(placeholder) = placeholder(bare).or_else(|| {
        (bare.len() < word.len())
            .then(|| placeholder(word))
            .flatten()
    }) {
        result.push_str(placeholder);
    } else if word.contains("://") {
        push_parts(result, word, &['/', '?', '&', '#'], depth);
    } else if let Some((host, rest)) = host_and_ip(bare) {
        result.push_str(if is_numbered_host(host) {
            "{host}"
        } else {
            host
        });
        result.push_str(rest);
    } else if let Some((name, value)) = word.split_once('=').filter(|_| depth < DEPTH_MAX) {
        result.push_str(name);
        result.push('=');
        push_word(result, value, depth + 1);
    } else if bare.contains(['/', '[', '<', '|', ',']) && depth < DEPTH_MAX {
        push_parts(
            result,
            word,
            &['/', '[', ']', '<', '>', '|', ',', '(', ')'],
            depth + 1,
        );
    } else {
        result.push_str(word);
    }
}

/// Appends the parts of `word` between `marks`, each replaced if it varies, and the marks
/// themselves.
fn push_parts(result: &mut String, word: &str, marks: &[char], depth: u8) {
    for part in word.split_inclusive(marks) {
        let value = part.trim_end_matches(marks);
        match value.split_once('=') {
            Some((name, value)) => {
                result.push_str(name);
                result.push('=');
                result.push_str(placeholder(value).unwrap_or(value));
            }
            None if depth > 0 => push_word(result, value, DEPTH_MAX),
            None => result.push_str(placeholder(value).unwrap_or(value)),
        }
        result.push_str(&part[value.len()..]);
    }
}

/// Whether `c` is punctuation that may enclose a varying part and is removed with it:
/// `<jo@example.com>:`, `[192.0.2.1].`
fn is_enclosing(c: char) -> bool {
    matches!(
        c,
        '<' | '>'
            | '('
            | ')'
            | '['
            | ']'
            | '{'
            | '}'
            | '"'
            | '\''
            | '`'
            | ','
            | ';'
            | ':'
            | '.'
            | '!'
    )
}

/// Whether a word can vary, or contain a part that does. All varying kinds contain a digit, `@`,
/// `:` or `=`, or are long. Codes and statuses are short numbers.
fn may_vary(word: &str) -> bool {
    if word.len() > PLAIN_MAX {
        return true;
    }
    let (mut marks, mut letters) = (false, false);
    for b in word.bytes() {
        marks |= matches!(b, b'0'..=b'9' | b'@' | b':' | b'=');
        letters |= !matches!(b, b'0'..=b'9' | b'.' | b'-');
    }
    marks && (letters || word.len() > SHORT_NUMBER_MAX)
}

/// Tests whether a word is of one kind.
type KindTest = fn(&str) -> bool;

/// Returns the placeholder for `word` if it is of a varying kind.
fn placeholder(word: &str) -> Option<&'static str> {
    if word.is_empty() {
        return None;
    }
    let kinds: [(&str, KindTest); 9] = [
        ("{email}", is_email),
        ("{uuid}", is_uuid),
        ("{ipaddr}", is_ip),
        ("{timestamp}", is_timestamp),
        ("{duration}", is_duration),
        ("{base64}", is_base64),
        ("{host}", is_numbered_host),
        ("{hash}", is_id),
        ("{number}", is_long_number),
    ];
    kinds
        .into_iter()
        .find(|(_, is)| is(word))
        .map(|(placeholder, _)| placeholder)
}

fn is_email(word: &str) -> bool {
    let Some((local, domain)) = word.rsplit_once('@') else {
        return false;
    };
    let host = domain
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_') || !b.is_ascii());
    !local.is_empty() && !domain.is_empty() && host && !local.contains("://")
}

/// Whether a word is a UUID, with or without hyphens. Both forms occur in replies.
fn is_uuid(word: &str) -> bool {
    let hyphens: &[usize] = match word.len() {
        36 => &[8, 13, 18, 23],
        32 => &[],
        _ => return false,
    };
    let found = word
        .bytes()
        .enumerate()
        .filter(|(_, b)| *b == b'-')
        .map(|(at, _)| at);
    found.eq(hyphens.iter().copied()) && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// Whether a word is an IP address, possibly with a port or a network mask.
fn is_ip(word: &str) -> bool {
    let word = word.strip_prefix("IPv6:").unwrap_or(word);
    if word.len() > 64 || !word.bytes().any(|b| b == b'.' || b == b':') {
        return false;
    }
    let (address, more) = word.split_once(']').map_or_else(
        || match word.split_once(['/', '#']) {
            Some(parts) => parts,
            None => word
                .split_once(':')
                .filter(|(v4, _)| v4.contains('.'))
                .unwrap_or((word, "")),
        },
        |(address, more)| (address, more.trim_start_matches(':')),
    );
    let address = address.trim_start_matches('[');
    let is = if address.contains(':') {
        address.parse::<IpAddr>().is_ok()
    } else {
        address.parse::<Ipv4Addr>().is_ok()
    };
    is && more.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a word is a date as in RFC 3339, with or without the time of day, or a time of day
/// alone.
fn is_timestamp(word: &str) -> bool {
    let bytes = word.as_bytes();
    let digits = |from: usize, to: usize| {
        bytes
            .get(from..to)
            .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let at = |at: usize, mark: u8| bytes.get(at) == Some(&mark);
    let time_of_day = |from: usize| {
        let rest = word.get(from..).unwrap_or_default();
        digits(from, from + 2)
            && at(from + 2, b':')
            && digits(from + 3, from + 5)
            && rest
                .bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.' | b'+' | b'-' | b'Z' | b'z'))
    };
    let dated = digits(0, 4) && at(4, b'-') && digits(5, 7) && at(7, b'-') && digits(8, 10);
    match bytes.len() {
        0..5 => false,
        10 if dated => true,
        _ if dated => (at(10, b'T') || at(10, b't') || at(10, b'_')) && time_of_day(11),
        _ => time_of_day(0),
    }
}

/// Whether a word is a duration such as `5m`, `1h30m`, `3days` or `P1DT2H` (ISO 8601).
fn is_duration(word: &str) -> bool {
    if let Some(parts) = word.strip_prefix('P') {
        let mut counted = false;
        let mut unit_last = false;
        for b in parts.bytes() {
            match b {
                b'0'..=b'9' | b'.' => (counted, unit_last) = (true, false),
                b'Y' | b'M' | b'W' | b'D' | b'H' | b'S' if counted => {
                    (counted, unit_last) = (false, true);
                }
                b'T' if !counted => {}
                _ => return false,
            }
        }
        return unit_last;
    }
    let mut rest = word;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let end = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        if unit.len() == rest.len() || !is_unit(&unit[..end]) {
            return false;
        }
        rest = &unit[end..];
    }
    !word.is_empty()
}

fn is_unit(word: &str) -> bool {
    let plural = word.strip_suffix('s').unwrap_or(word);
    UNITS
        .iter()
        .any(|unit| word.eq_ignore_ascii_case(unit) || plural.eq_ignore_ascii_case(unit))
        || matches!(word, "ms" | "us" | "ns")
}

/// Whether a word is Base64 in either alphabet: padded, or with changes of case that no word has.
fn is_base64(word: &str) -> bool {
    let body = word.trim_end_matches('=');
    let padding = word.len() - body.len();
    if word.len() < ID_MIN || padding > 2 || !word.len().is_multiple_of(4) {
        return false;
    }
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'_' | b'-');
    if !body.bytes().all(alphabet) || (padding == 0 && body.contains(['-', '_', '/'])) {
        return false;
    }
    let bytes = body.as_bytes();
    let ups = bytes
        .windows(2)
        .filter(|pair| !pair[0].is_ascii_uppercase() && pair[1].is_ascii_uppercase())
        .count();
    let mixed = bytes.iter().any(u8::is_ascii_lowercase) && bytes.iter().any(u8::is_ascii_digit);
    padding > 0 || (mixed && ups >= 2)
}

/// Whether a word is probably one of many hosts: a name of at least three parts, with a digit in
/// it.
fn is_numbered_host(word: &str) -> bool {
    let mut labels = word.rsplit('.');
    let top = labels.next().unwrap_or_default();
    top.len() >= 2
        && top.bytes().all(|b| b.is_ascii_alphabetic())
        && word.bytes().filter(|b| *b == b'.').count() >= 2
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && labels.any(|label| label.bytes().any(|b| b.is_ascii_digit()))
}

/// Splits `host[192.0.2.1]`, possibly with a port, into the host and a placeholder for the address.
fn host_and_ip(word: &str) -> Option<(&str, &'static str)> {
    let (host, ip) = word.split_once('[')?;
    (!host.is_empty() && is_ip(ip.trim_end_matches(']'))).then_some((host, "[{ipaddr}]"))
}

/// Whether a word is the id of a queue entry, session or transaction: letters and digits that
/// alternate, with `.`, `-` and `_` between them.
fn is_id(word: &str) -> bool {
    let (mut letters, mut digits, mut turns) = (0, 0, 0);
    let mut last = None;
    for b in word.bytes() {
        let is_digit = b.is_ascii_digit();
        match b {
            b'.' | b'-' | b'_' => continue,
            _ if is_digit => digits += 1,
            _ if b.is_ascii_alphabetic() => letters += 1,
            _ => return false,
        }
        turns += usize::from(last.is_some_and(|last| last != is_digit));
        last = Some(is_digit);
    }
    letters + digits >= ID_MIN && letters > 1 && digits > 1 && turns >= ID_TURNS_MIN
}

/// Whether a word is a number of many digits, possibly in groups: an id, a size, a count of
/// seconds.
fn is_long_number(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_digit() || b == b'-')
        && word.bytes().filter(u8::is_ascii_digit).count() >= NUMBER_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varying_parts_are_replaced_and_the_rest_stays() {
        for (text, expected) in [
            (
                "550 5.1.1 <jo@example.com>: no such user",
                "550 5.1.1 {email} no such user",
            ),
            (
                "blocked: 192.0.2.1:25, [2001:db8::1] and ::1",
                "blocked: {ipaddr} {ipaddr} and {ipaddr}",
            ),
            (
                "host mx7.mail.example.com[192.0.2.1] said",
                "host {host}[{ipaddr}] said",
            ),
            (
                "host mx.example.com[192.0.2.1]:25: refused",
                "host mx.example.com[{ipaddr}] refused",
            ),
            ("by mta1061.mail.ne1.example.com today", "by {host} today"),
            ("at 2026-11-21T09:30:00.123Z", "at {timestamp}"),
            ("on 2026-11-21 09:30:00", "on {timestamp} {timestamp}"),
            ("try again in 300 seconds.", "try again in {duration}"),
            (
                "retry after 1h30m or 3days or P1DT2H",
                "retry after {duration} or {duration} or {duration}",
            ),
            ("id=10aa5da5-3f3b-4176-beb9-32875830f0aa", "id={uuid}"),
            ("session [c2FtcGxlIHRleHQ=]", "session {base64}"),
            (
                "queued as 4XyzB71qZ2m y3si675602plr.1 - gsmtp",
                "queued as {hash} {hash} - gsmtp",
            ),
            ("size=10485760 (10485760)", "size={number} {number}"),
            (
                "see https://example.com/bl?ip=192.0.2.1&c=hi now",
                "see https://example.com/bl?ip={ipaddr}&c=hi now",
            ),
            (
                "see https://example.com/query/192.0.2.1",
                "see https://example.com/query/{ipaddr}",
            ),
            ("too  many   spaces", "too many spaces"),
            // Codes that name a cause are kept.
            (
                "OFR006_102 [102] S3140 TSS04 4.7.650 P2 5xx",
                "OFR006_102 [102] S3140 TSS04 4.7.650 P2 5xx",
            ),
            (
                "AUP#CDRBL 2yearhello Exchange2003 IPv4",
                "AUP#CDRBL 2yearhello Exchange2003 IPv4",
            ),
            ("Grüße: voll", "Grüße: voll"),
            ("", ""),
        ] {
            assert_eq!(fingerprint(text), expected, "{text}");
        }
    }

    #[test]
    fn replies_with_the_same_meaning_have_the_same_fingerprint() {
        let fingerprints = [
            "452 4.2.2 <a@example.com> is over quota, \
             session 4XyzB71qZ2m9 at mx1.in.example.com[192.0.2.1]",
            "452 4.2.2 <b@example.net> is over quota, \
             session 9Ab7cDe3f5G2 at mx12.in.example.com[2001:db8::7]",
        ]
        .map(fingerprint);
        assert_eq!(fingerprints[0], fingerprints[1]);
    }
}
