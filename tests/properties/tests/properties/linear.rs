//! No parser takes more than linear time for any input. For each piece of text that could make a
//! parser go back and forth, a long run of the piece is compared with a short run. The cost may
//! grow only about as much as the length.

use std::time::Duration;

use config::hooks::Service;
use nix::time::ClockId;
use properties::{address, dsn, ndjson, reply, webhook};

/// How many times as long the long run is.
const TIMES: u32 = 8;

/// How many times as much the long run may cost. Quadratic cost would be 64 times as much.
const RATIO_MAX: u32 = 24;

/// A short run counts at least this cost, so that a short pause of the machine does not matter.
const SHORT_MIN: Duration = Duration::from_micros(500);

/// How often two runs are compared before a high ratio counts.
const TRIES: usize = 6;

/// The text before a run, the repeated piece, and the text after it.
type Run = (&'static str, &'static str, &'static str);

/// Only 16 KiB of a reply are read. Fingerprints are made of texts of any length.
const REPLIES: &[Run] = &[
    ("", "5.1.1 ", ""),
    ("", "4.", ""),
    ("", "4", ""),
    ("", "4 ", ""),
    ("", "550 5.1.1 ", ""),
    ("550 5.1.1 x", " 550 5.1.1 ", ""),
    ("550 ", "550-", ""),
    ("", " said: ", ""),
    ("", " said: 450 ", ""),
    ("", "]: 450 ", ""),
    ("", "<<< ", ""),
    ("550 ", "(", ""),
    ("550", "-", "4.2.2"),
    ("550", "-4", ""),
    ("", "::", ""),
    ("", "\\r\\n", ""),
    ("", "\\", ""),
    ("", "é", ""),
    ("", "\n", ""),
    ("", "<", ""),
    ("", "@", ""),
    ("", "a@", ""),
    ("", "a=", ""),
    ("https://", "/", ""),
    ("https://", "a=b&", ""),
    ("", "1:", ""),
    ("", "1.", ""),
    ("", "[1.2.3.4]", ""),
    ("", "1m", ""),
    ("P", "1", ""),
    ("", "a1", ""),
    ("", "aB3", "="),
    ("", "=", ""),
    ("", "-1", ""),
    ("", "try again in ", ""),
    ("", "retry 1", ""),
    ("", "9 ", ""),
    ("a", "]", ""),
    ("x", ";", ""),
];

const ADDRESSES: &[Run] = &[
    ("", "@", ""),
    ("\"", "\\\"", "\"@example.com"),
    ("jo@", "a.", "com"),
    ("jo@", "xn--", ""),
    ("", "\u{301}", "@example.com"),
    ("jo@", "ü.", "com"),
];

const DELIVERY_STATUS: &str =
    "Content-Type: message/delivery-status\n\nFinal-Recipient: rfc822; a@b.example\n";

const MAILS: &[Run] = &[
    ("", "a: b\n", ""),
    ("", "Received: from a\n", "\n"),
    ("", "Received: a", ""),
    ("", ":", ""),
    ("", "\n", ""),
    ("", "\r", ""),
    ("Subject: ", "=?utf-8?q?a", ""),
    ("Subject: ", "=?utf-8?b?", ""),
    ("Subject: ", "=?", ""),
    ("Subject: ", "=?utf-8?q?a?= ", ""),
    ("Subject: ", "\n ", "x"),
    ("Date: ", "1 ", ""),
    ("From: ", "<", ""),
    ("From: ", "(", ""),
    ("To: ", "a@b,", ""),
    ("Content-Type: text/plain; boundary=", "b;", "\n\n"),
    ("Content-Type: text/plain", ";a*0*=b", "\n\n"),
    ("Content-Type: ", "(", "\n\n"),
    ("Content-Type: text/plain", "; a=\"", "\n\n"),
    ("Content-Type: multipart/mixed; boundary=b\n\n", "--b\n", ""),
    (
        "Content-Type: multipart/mixed; boundary=b\n\n",
        "--b\n\nx\n",
        "",
    ),
    ("Content-Type: multipart/mixed; boundary=-\n\n", "-", ""),
    ("", "Content-Type: multipart/mixed; boundary=b\n\n--b\n", ""),
    ("Content-Type: text/html\n\n", "<", ""),
    ("Content-Type: text/html\n\n", "&", ""),
    ("Content-Type: text/html\n\n", "<!--", ""),
    ("Content-Type: text/html\n\n", "<a b=\"", ""),
    ("Content-Type: text/html\n\n", "<p>", ""),
    ("Content-Type: text/html\n\n", "&#1", ""),
    ("Content-Type: text/html\n\n", "<head>", ""),
    ("Content-Transfer-Encoding: quoted-printable\n\n", "=", ""),
    ("Content-Transfer-Encoding: base64\n\n", "=", ""),
    ("Content-Type: text/plain; charset=utf-7\n\n", "+", "é"),
    (
        "Content-Type: text/plain; charset=iso-2022-jp\n\n",
        "\x1b$B",
        "\u{fffd}",
    ),
    (
        DELIVERY_STATUS,
        "Final-Recipient: rfc822; a@b.example\n",
        "",
    ),
    (DELIVERY_STATUS, "\nStatus: 5\n", ""),
    (DELIVERY_STATUS, "a: b\n\n", ""),
    (DELIVERY_STATUS, "action:\n\nstatus: 5\n\n", ""),
    (
        DELIVERY_STATUS,
        "\nFinal-Recipient: a@b\nStatus: 5.0.0\n\n",
        "",
    ),
    (
        "Content-Type: message/delivery-status\n\nFinal-Recipient: rfc822; ",
        "\\x{",
        "\n",
    ),
    (
        "Content-Type: message/delivery-status\n\n",
        "Original-Recipient: a\nfinal-recipient: b\n",
        "",
    ),
    (
        "Content-Type: message/feedback-report\n\n",
        "Original-Rcpt-To: a@b.example\n",
        "",
    ),
    ("From: mailer-daemon@b.example\n\n", "a@b.example\n", ""),
    ("From: mailer-daemon@b.example\n\n", "<a@b.example>:\n", ""),
    ("From: mailer-daemon@b.example\n\n", "a@", ""),
    ("From: mailer-daemon@b.example\n\n", "<a", ""),
    ("From: mailer-daemon@b.example\n\n", "550 5.1.1 no\n", ""),
    ("From: mailer-daemon@b.example\n\n", "é\n", ""),
    ("X-Failed-Recipients: ", "a@b.example, ", "\n\nno"),
    ("Subject: x\n\n{\"notificationType\":", "[", ""),
    (
        "Subject: x\n\n{\"eventType\":\"Bounce\",\"bounce\":{\"bouncedRecipients\":[",
        "{\"emailAddress\":\"a\"},",
        "{}]}}",
    ),
    ("Auto-Submitted: auto-replied\nFrom: ", "a ", ""),
    ("", "From a Mon Nov  2 08:00:00 2026\n", ""),
];

const DOCUMENTS: &[Run] = &[
    ("[", "{},", "{}]"),
    ("[", "[],", "{}]"),
    ("", "[", ""),
    ("", "{\"a\":", ""),
    ("[\"", "\\u0000", "\"]"),
    ("[", "1e9,", "1]"),
    ("{", "\"a\":1,", "\"b\":2}"),
    ("", "{}\n", ""),
    (
        "{\"type\":\"Bounce\",\"recipient\":[",
        "\"a@b.example\",",
        "\"c\"]}",
    ),
    ("", "--x\r\n", ""),
    ("", "a=1&", ""),
    ("", "%", ""),
    ("--x\r\nname=\"", "a\r\n", ""),
    ("{\"Message\":\"", "[", "\"}"),
    (
        "{\"recipient\":\"jo@example.com\",\"reply\":\"",
        "550 ",
        "\"}",
    ),
    ("{\"event-data\":{\"recipient\":\"", "<", ">\"}}"),
    (
        "{\"recipient\":\"jo@example.com\",\"reply\":\"450 x\",\"metadata\":{\"a\":\"",
        "x",
        "\"}}",
    ),
    ("Jan  1 10:00:02 o postfix/smtp[3]: ABCDE: to=<", "a", ">"),
    (
        "Jan  1 10:00:02 o postfix/smtp[3]: ABCDE: to=<a>, ",
        "relay=,",
        "",
    ),
    (
        "Jan  1 10:00:02 o postfix/smtp[3]: ABCDE: to=<a>, relay=, ",
        "dsn=4.0.0, status=bounced (",
        "",
    ),
    ("Jan  1 10:00:02 o ", "a/", ""),
    (
        "Jan  1 10:00:02 o postfix/smtp[3]: ABCDE: to=<a@b.example>, relay=, dsn=4.0.0, status=bounced (",
        " (in reply to A",
        ")",
    ),
];

/// A run of about this many bytes.
fn run_of((before, piece, after): Run, bytes: usize) -> Vec<u8> {
    [before, &piece.repeat(bytes / piece.len()), after]
        .concat()
        .into_bytes()
}

/// The CPU time that this thread needs to read these bytes.
fn cost(read: &dyn Fn(&[u8]), bytes: &[u8]) -> Duration {
    let now = || {
        Duration::from(
            ClockId::CLOCK_THREAD_CPUTIME_ID
                .now()
                .expect("every thread has a clock"),
        )
    };
    let before = now();
    read(bytes);
    now() - before
}

/// Compares runs of `bytes` with runs that are [`TIMES`] as long. Uses the best of several tries.
fn stays_linear(name: &str, runs: &[Run], bytes: usize, read: &dyn Fn(&[u8])) {
    for run in runs {
        let (short, long) = (run_of(*run, bytes), run_of(*run, bytes * TIMES as usize));
        let (mut least_short, mut least_long) = (Duration::MAX, Duration::MAX);
        let linear = (0..TRIES).any(|_| {
            least_short = least_short.min(cost(read, &short));
            least_long = least_long.min(cost(read, &long));
            least_long <= least_short.max(SHORT_MIN) * RATIO_MAX
        });
        assert!(
            linear,
            "{name}, {run:?}: {least_short:?} for {} bytes, {least_long:?} for {}",
            short.len(),
            long.len()
        );
    }
}

#[test]
fn replies_take_linear_time() {
    stays_linear("replies within the bound", REPLIES, 2 << 10, &reply::check);
    stays_linear("fingerprints", REPLIES, 8 << 10, &reply::check);
}

#[test]
fn addresses_take_linear_time() {
    let many_times = |bytes: &[u8]| (0..50).for_each(|_| address::check(bytes));
    stays_linear("addresses within the bound", ADDRESSES, 100, &many_times);
    stays_linear("addresses", ADDRESSES, 64 << 10, &address::check);
}

#[test]
fn mails_take_linear_time() {
    stays_linear("mails", MAILS, 32 << 10, &dsn::check);
}

#[test]
fn lines_take_linear_time() {
    stays_linear("lines", DOCUMENTS, 8 << 10, &ndjson::check_line);
    let in_small_pieces = |bytes: &[u8]| ndjson::check(&[b"\x07", bytes].concat());
    stays_linear(
        "lines in small pieces",
        DOCUMENTS,
        8 << 10,
        &in_small_pieces,
    );
}

#[test]
fn webhooks_take_linear_time() {
    let [json, form, multipart] = webhook::CONTENT_TYPES;
    let forms = [(Service::Mailgun, form), (Service::Mailgun, multipart)];
    for (service, content_type) in Service::ALL
        .map(|service| (service, json))
        .into_iter()
        .chain(forms)
    {
        let read = |body: &[u8]| webhook::check_body(service, content_type, body);
        stays_linear(
            &format!("{} as {content_type}", service.as_str()),
            DOCUMENTS,
            8 << 10,
            &read,
        );
    }
}
