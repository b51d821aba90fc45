//! Every dialect has a fixture. One table contains what must be read from each fixture.

use domain::address::Address;

use crate::bounds::MAX_NAME;
use crate::dialect::names;
use crate::report::{Kind, Recipient, Report};

macro_rules! fixtures {
    ($($name:ident)*) => {
        &[$((
            stringify!($name),
            include_str!(concat!("fixtures/", stringify!($name), ".eml")),
        )),*]
    };
}

const FIXTURES: &[(&str, &str)] = fixtures!(
    any automatic_notification domino dragonfly dsn exchange exim exim_delay ezweb feedback global
    google imail inter_mail letter lsmtp m_filter mail_enable mail_marshal mailru mdaemon nemesis
    notice opensmtpd postfix qmail quoted sendmail vacation zoho
);

/// For each fixture, kind and message id of the report, and for each recipient the address, code,
/// status and the words that its text must contain.
const EXPECTED: &[(&str, &str)] = &[
    ("any", "failed - | ann@example.com 550 5.2.2 'Over quota'"),
    (
        "automatic_notification",
        "failed - | ann@example.com 553 5.3.0 'Nobody' \
         | bob@example.com 553 5.3.0 'Nobody'",
    ),
    ("domino", "failed - | ann@example.com - - 'not listed'"),
    (
        "dragonfly",
        "failed c7.3@news.example.org | ann@example.com 550 - 'not here'",
    ),
    (
        "dsn",
        "failed c7.13@news.example.org | ann@example.com 550 5.2.2 'Over quota' \
         | bob@example.com - 2.0.0 ''",
    ),
    (
        "exchange",
        "failed - | ann@example.com - - 'not recognized'",
    ),
    (
        "exim",
        "failed c7.8@news.example.org | ann@example.com 550 - 'for good' \
         | bob@example.net - - 'timeout'",
    ),
    ("exim_delay", "delayed - | ann@example.com 451 4.3.0 'Busy'"),
    ("ezweb", "failed - | ann@example.com 550 - 'Nobody'"),
    (
        "feedback",
        "feedback c7.14@news.example.org | ann@example.com - - ''",
    ),
    ("global", "delayed - | jörg@example.com - 4.4.1 ''"),
    (
        "google",
        "failed c7.9@news.example.org | ann@example.com 550 5.2.1 'closed'",
    ),
    (
        "imail",
        "failed c7.11@news.example.org | ann@example.com 550 - 'Unknown user' \
         | bob@example.com - - 'Unknown user'",
    ),
    (
        "inter_mail",
        "failed - | ann@example.com - - 'within 3 days' \
         | bob@example.com - - 'within 3 days'",
    ),
    ("letter", "none -"),
    (
        "lsmtp",
        "failed c7.12@news.example.org | ann@example.com 554 - 'Loop'",
    ),
    (
        "m_filter",
        "failed c7.99@news.example.org | ann@example.com 550 5.4.1 'refused'",
    ),
    ("mail_enable", "failed - | ann@example.com 550 - 'nobody'"),
    (
        "mail_marshal",
        "failed - | ann@example.com 552 5.2.2 'quota' \
         | bob@example.com 552 5.2.2 'quota'",
    ),
    (
        "mailru",
        "failed c7.6@news.example.org | ann@example.com 550 5.1.1 'Nobody'",
    ),
    ("mdaemon", "failed - | ann@example.com 550 5.1.1 'Nobody'"),
    (
        "nemesis",
        "failed c7.5@news.example.org | ann@example.com - 5.1.1 'Nobody'",
    ),
    (
        "notice",
        "failed c7.50@news.example.org | ann@example.com 550 5.1.1 'nobody of that name'",
    ),
    (
        "opensmtpd",
        "failed c7.4@news.example.org | ann@example.com 550 5.2.2 'quota' \
         | bob@example.net 550 5.1.1 'Nobody'",
    ),
    (
        "postfix",
        "failed c7.2@news.example.org | ann@example.com 452 4.2.2 'tomorrow'",
    ),
    (
        "qmail",
        "failed c7.1@news.example.org | ann@example.com 550 5.1.1 'Nobody' \
         | bob@example.net - 4.1.2 'any host'",
    ),
    ("quoted", "failed - | ann@example.com 550 5.1.1 'Nobody'"),
    (
        "sendmail",
        "failed c7.10@news.example.org | ann@example.com 550 5.1.1 'Nobody'",
    ),
    ("vacation", "auto_reply - | ann@example.com - - ''"),
    (
        "zoho",
        "failed c7.7@news.example.org | ann@example.com - 5.1.1 'Nobody'",
    ),
];

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// Returns the report in the form of the table. Of each text it shows only the expected words, if
/// the text contains them.
fn summary(report: &Report, expected: &str) -> String {
    let words: Vec<&str> = expected.split('\'').skip(1).step_by(2).collect();
    let recipient = |(number, one): (usize, &Recipient)| {
        let word = words.get(number).copied().unwrap_or_default();
        let text = if one.diagnostic.contains(word) {
            word
        } else {
            one.diagnostic.as_str()
        };
        format!(
            " | {} {} {} '{text}'",
            shown(one.address()),
            shown(one.reply.code),
            shown(one.reply.status)
        )
    };
    let recipients: String = report
        .recipients
        .iter()
        .enumerate()
        .map(recipient)
        .collect();
    format!(
        "{} {}{recipients}",
        report.kind.as_str(),
        shown(report.message_id.as_deref())
    )
}

#[test]
fn an_answer_that_quotes_a_report_names_no_recipient() {
    let forwarded = include_str!("fixtures/quoted.eml");
    let subject = "Subject: Fwd: Returned mail";
    let report = Report::read(forwarded.as_bytes());
    assert!(forwarded.contains(subject) && report.kind == Kind::Failed);
    assert_eq!(
        report.dated.map(|at| at.to_string()).as_deref(),
        Some("2026-11-02T08:00:00.000Z")
    );
    for answer in [
        forwarded.replacen(subject, "Subject: Re: Returned mail", 1),
        forwarded.replacen(subject, "Subject: It works again", 1),
        format!("In-Reply-To: <1@news.example.org>\n{forwarded}"),
        format!("Auto-Submitted: auto-replied\n{forwarded}"),
    ] {
        let report = Report::read(answer.as_bytes());
        assert!(
            report
                .recipients
                .iter()
                .all(|recipient| recipient.address().is_none()),
            "{answer}\n{report:?}"
        );
    }
}

#[test]
fn every_fixture_is_read_as_expected_with_either_line_end() {
    assert_eq!(FIXTURES.len(), EXPECTED.len());
    for ((name, message), (expected_name, expected)) in FIXTURES.iter().zip(EXPECTED) {
        assert_eq!(name, expected_name);
        assert_eq!(
            summary(&Report::read(message.as_bytes()), expected),
            *expected,
            "{name}"
        );
        let wire = message.replace('\n', "\r\n");
        assert_eq!(
            summary(&Report::read(wire.as_bytes()), expected),
            *expected,
            "{name} with CRLF"
        );
    }
}

#[test]
fn every_dialect_has_a_fixture_in_its_words() {
    for name in names() {
        let fixture = FIXTURES
            .iter()
            .find(|(fixture, _)| *fixture == name)
            .map(|(_, message)| *message);
        let message = fixture
            .unwrap_or_else(|| panic!("write fixtures/{name}.eml"))
            .to_lowercase();
        assert_eq!(crate::dialect::dialect_of(&message).name, name);
    }
}

#[test]
fn a_report_contains_the_envelope_id_and_the_host_that_refused() {
    let (_, message) = FIXTURES.iter().find(|(name, _)| *name == "dsn").unwrap();
    let report = Report::read(message.as_bytes());
    assert_eq!(report.envelope_id.as_deref(), Some("env+1"));
    let ann = &report.recipients[0];
    assert_eq!(
        (ann.remote_mta.as_deref(), ann.last.as_deref()),
        (Some("mx.example.com"), Some("ann@mail.example.com"))
    );
    assert!(ann.has_failed() && !report.recipients[1].has_failed());
}

#[test]
fn no_truncated_or_damaged_message_causes_a_panic() {
    for (name, message) in FIXTURES {
        let bytes = message.as_bytes();
        for end in (0..bytes.len()).step_by(5) {
            Report::read(&bytes[..end]);
        }
        for at in (0..bytes.len()).step_by(17) {
            for damage in [0, b'\n', b':', b'<', 0xff] {
                let mut damaged = bytes.to_vec();
                damaged[at] = damage;
                let kind = Report::read(&damaged).kind;
                assert!(!kind.as_str().is_empty(), "{name} {at}");
            }
        }
    }
}

#[test]
fn everything_that_is_kept_is_bounded() {
    let many: String = (0..20_000)
        .map(|n| format!("Final-Recipient: rfc822; u{n}@example.com\nStatus: 5.0.0\n\n"))
        .collect();
    let fields = format!("Content-Type: message/delivery-status\n\n{many}");
    assert!(Report::read(fields.as_bytes()).recipients.len() <= crate::bounds::MAX_RECIPIENTS);
    for line in [
        "<a@example.com>:\n",
        "a@example.com\n",
        ">",
        "550 ",
        "--",
        "a@",
        "\n",
        "\\x{",
        "{\"a\":",
        "5.1.1 ",
        "(",
        "a@b.c,",
        "=?utf-8?q?",
    ] {
        for head in [
            "From: mailer-daemon\n\n",
            "Subject: ",
            "Content-Type: multipart/mixed; boundary=\"",
            "X-Failed-Recipients: ",
        ] {
            let message = format!("{head}{}", line.repeat(2_000_000 / line.len()));
            let report = Report::read(message.as_bytes());
            let longest = report
                .recipients
                .iter()
                .map(|one| one.diagnostic.len())
                .max()
                .unwrap_or_default();
            assert!(
                longest <= crate::bounds::MAX_DIAGNOSTIC && report.kind != Kind::Delivered,
                "{head}{line}"
            );
        }
    }
}

#[test]
fn encoded_line_ends_in_a_subject_do_no_harm() {
    for before in 0..6 {
        let subject = format!(
            "=?utf-8?q?{}failure_notice_=C3=A9=0D=0A?=",
            "=0D=0A".repeat(before)
        );
        let mail =
            format!("From: mailer-daemon@example.net\nSubject: {subject}\n\n550 5.1.1 nobody\n");
        let report = Report::read(mail.as_bytes());
        assert_eq!(
            report.recipients[0].reply.to_string(),
            "550 5.1.1 nobody",
            "{before}"
        );
    }
}

#[test]
fn names_from_other_systems_are_on_one_line_and_bounded() {
    let long = "x".repeat(4_000);
    let status = format!(
        "Content-Type: message/delivery-status\n\nOriginal-Envelope-Id: +C2+85{long}\n\n\
         Original-Recipient: utf-8; j\\x{{0A}}o@example.com\n\
         Final-Recipient: rfc822; {long}@example.com\nRemote-MTA: dns; {long}\n"
    );
    let notice = format!(
        "Subject: Notification\n\n{{\"notificationType\":\"Delivery\",\"delivery\":{{\
         \"recipients\":[\"{long}@example.com\"],\"reportingMTA\":\"{long}\"}},\
         \"mail\":{{\"commonHeaders\":{{\"messageId\":\"{long}\"}}}}}}"
    );
    let feedback = format!(
        "Content-Type: message/feedback-report\n\nOriginal-Rcpt-To: {long}@example.com\n\
         Original-Envelope-Id: {long}\n"
    );
    for mail in [status, notice, feedback] {
        let report = Report::read(mail.as_bytes());
        assert_eq!(report.recipients.len(), 1, "{mail}");
        let one = &report.recipients[0];
        let names = [
            &report.envelope_id,
            &report.message_id,
            &one.original,
            &one.last,
            &one.remote_mta,
        ];
        for name in names.into_iter().flatten() {
            assert!(
                name.len() <= MAX_NAME && !name.contains(char::is_control),
                "{mail}"
            );
        }
    }
}

#[test]
fn repeated_fields_of_the_returned_mail_are_not_words_of_the_report() {
    let mail = "From: mailer-daemon@example.net\nSubject: Undeliverable\n\nYour message\n  \
                To: <jo@example.com>\n  Subject: no such user\n  Sent: Monday\n\
                did not reach the following recipient: jo@example.com\n";
    let report = Report::read(mail.as_bytes());
    let one = &report.recipients[0];
    assert!(
        !one.reply.text.contains("no such user") && !one.diagnostic.contains("Monday"),
        "{one:?}"
    );
}

#[test]
fn text_for_people_is_added_to_the_comment_of_a_vague_status() {
    let report = |status: &str| {
        let mail = format!(
            "Content-Type: multipart/report; boundary=b\n\n--b\n\nNobody of that name\n\n--b\n\
             Content-Type: message/delivery-status\n\nFinal-Recipient: rfc822; jo@example.com\n\
             Action: failed\n\
             Status: {status}\n\n--b--\n"
        );
        Report::read(mail.as_bytes()).recipients[0]
            .reply
            .to_string()
    };
    assert_eq!(
        report("5.0.0 (failed for good)"),
        "5.0.0 failed for good Nobody of that name"
    );
    assert_eq!(report("5.2.2 (over quota)"), "5.2.2 over quota");
}

#[test]
fn a_failure_never_has_a_reply_that_means_success() {
    for mail in [
        "From: mailer-daemon@example.net\nSubject: failure notice\n\n250 2.0.0 fine\n",
        "Subject: Notification\n\n{\"notificationType\":\"Bounce\",\"bounce\":{\
         \"bouncedRecipients\":[{\"emailAddress\":\"jo@example.com\",\
         \"diagnosticCode\":\"250 2.0.0 fine\"}]}}",
    ] {
        let report = Report::read(mail.as_bytes());
        assert_eq!(
            (report.kind, report.recipients[0].reply.class()),
            (Kind::Failed, None),
            "{mail}"
        );
    }
}

/// Returns `bytes` with each `from` in it replaced.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(from) {
            out.extend_from_slice(to);
            rest = after;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

#[test]
fn an_address_that_is_not_text_is_never_read_as_another_one() {
    let spellings: [&[u8]; 5] = [
        b"\xe4nn@example.com",
        b"a\xff\xfen@example.com",
        b"an\xc3@example.com",
        b"ann\x80@example.com",
        b"\xed\xa0\x80@example.com",
    ];
    for (name, fixture) in FIXTURES {
        for spelling in spellings {
            let message = replaced(fixture.as_bytes(), b"ann@example.com", spelling);
            for recipient in &Report::read(&message).recipients {
                let Some(Ok(address)) = recipient.address().map(Address::parse) else {
                    continue;
                };
                let others = ["bob", "jörg"];
                assert!(
                    others.contains(&address.local()),
                    "{name}: {}",
                    address.as_str()
                );
            }
        }
    }
}

#[test]
fn an_id_that_is_not_text_identifies_no_message() {
    let fields = "Original-Envelope-Id: c42\n\nFinal-Recipient: rfc822; jo@example.com\n\
                  Action: failed\nStatus: 4.2.2\n";
    let message = format!(
        "Content-Type: multipart/report; boundary=b\n\n--b\n\
         Content-Type: message/delivery-status\n\n{fields}\n--b\n\
         Content-Type: message/rfc822\n\nMessage-ID: <c42@example.org>\n\n--b--\n"
    );
    let read = |message: &[u8]| {
        let report = Report::read(message);
        (report.envelope_id, report.message_id)
    };
    let ids = (Some("c42".to_owned()), Some("c42@example.org".to_owned()));
    assert_eq!(read(message.as_bytes()), ids);
    assert_eq!(
        read(&replaced(message.as_bytes(), b"c42", b"c\xe42")),
        (None, None)
    );
}
