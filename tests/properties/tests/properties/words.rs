//! Checks the properties with the words that the parsers know, put together in any order.

use config::hooks::Service;
use properties::{address, dsn, ndjson, reply, webhook};
use proptest::prelude::{Just, Strategy};
use proptest::sample::select;

use super::nearly::{try_all, words};

const REPLY: &[&str] = &[
    "550",
    "450",
    "250",
    "354",
    "503",
    "599",
    "5.1.1",
    "4.2.2",
    "2.0.0",
    "4.7.650",
    "5.9.99",
    "1.2.3.4",
    " ",
    " ",
    " ",
    "  ",
    "-",
    ":",
    " : ",
    "::",
    ";",
    ",",
    "(",
    ")",
    "[",
    "]",
    "<",
    ">",
    "#",
    "'",
    "\"",
    "\n",
    "\r\n",
    "\\n",
    "\\r\\n",
    "\t",
    "smtp; ",
    "x-local;",
    "LMTP;",
    "host mx",
    " said: ",
    " talk to me:\n",
    " was: ",
    "]: ",
    ">: ",
    "<<< ",
    " reason: ",
    "version ",
    "jo@example.com",
    "192.0.2.1",
    "2001:db8::1",
    "try again in 300 seconds",
    "00:05:00",
    "greylisted",
    "user unknown",
    "a=b=",
    "https://example.com/?id=4XyzB71qZ2m",
    "10aa5da5-3f3b-4176-beb9-32875830f0aa",
    "c2FtcGxlIHRleHQ=",
    "2026-11-21T09:30:00Z",
    "P1DT2H",
    "3days",
    "é",
    "語",
    "\u{301}",
    "\u{85}",
    "\u{2028}",
    ".",
    "/",
    "@",
    "_",
];

const ADDRESS: &[&str] = &[
    "jo",
    "@",
    "@",
    "example",
    ".",
    ".",
    "com",
    "\"",
    "\"",
    "\\",
    "\\\\",
    " ",
    "<",
    ">",
    "[",
    "]",
    "[192.0.2.1]",
    "IPv6:",
    "2001:db8::1",
    "xn--",
    "xn--bcher-kva",
    "bücher",
    "例え",
    "。",
    "-",
    "+",
    "/",
    "\u{301}",
    "\u{37e}",
    "\u{212a}",
    "\u{1fef}",
    "\u{200d}",
    "\u{202e}",
    "\u{ad}",
    "ß",
    "ǆ",
    "İ",
    "\u{fdfa}",
    "١",
    "\t",
    "\u{85}",
    "a-b",
    "7",
    ":",
    ",",
    "(jo)",
];

const MAIL: &[&str] = &[
    "\n",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    " ",
    ": ",
    "; ",
    "<jo@example.com>",
    "<jo@example.com>:\n",
    "jo@example.com\n",
    "From: mailer-daemon@example.net\n",
    "From: ",
    "Subject: failure notice\n",
    "Subject: =?utf-8?q?=0D=0A=C3=A9?=\n",
    "=?utf-8?q?",
    "=?iso-8859-1?b?",
    "?=",
    "=0D=0A",
    "=C3=A9",
    "Date: Sat, 21 Nov 2026 09:30:00 +0000\n",
    "Message-ID: <c1@example.org>\n",
    "To: Jo <jo@example.com>, ann@example.com\n",
    "Auto-Submitted: auto-replied\n",
    "X-Failed-Recipients: jo@example.com, ann@example.com\n",
    "Content-Type: multipart/report; boundary=b\n",
    "Content-Type: multipart/mixed; boundary=\"b\"\n",
    "\n--b\n",
    "\n--b--\n",
    "Content-Type: message/delivery-status\n\n",
    "Content-Type: message/feedback-report\n\n",
    "Content-Type: message/rfc822\n\n",
    "Content-Type: text/html\n\n",
    "Content-Type: text/plain; charset=utf-16\n\n",
    "Content-Type: text/plain; charset=iso-2022-jp\n\n",
    "Content-Transfer-Encoding: base64\n",
    "Content-Transfer-Encoding: quoted-printable\n",
    "<p>",
    "&#13;&#10;",
    "&eacute;",
    "<!--",
    "R3LDvMOfZQ==",
    "Reporting-MTA: dns; mx.example.net\n",
    "Final-Recipient: rfc822; jo@example.com\n",
    "Original-Recipient: utf-8; j\\x{F6}\\x{0A}@example.com\n",
    "Action: failed\n",
    "Action: delayed\n",
    "Action: delivered\n",
    "Status: 5.1.1\n",
    "Status: 2.0.0\n",
    "Status: 4.2.2 (full)\n",
    "Diagnostic-Code: smtp; 550 5.1.1 nobody\n",
    "Diagnostic-Code: smtp; 250 fine\n",
    "Remote-MTA: dns; mx.example.com\n",
    "Original-Envelope-Id: a+2Bb+C2+85\n",
    "Original-Rcpt-To: <jo@example.com>\n",
    "Removal-Recipient: \n",
    "550 5.1.1 nobody\n",
    "250 2.0.0 fine\n",
    "Hi. This is the qmail-send program at example.net.\n",
    "----- The following addresses had permanent fatal errors -----\n",
    "This message was created automatically by mail delivery software.\n",
    "--- Below this line is a copy of the message.\n",
    "Received: from example.org\n",
    "Return-Path: <>\n",
    "é",
    "語",
    "\u{85}",
    "{\"notificationType\":\"Bounce\",\"bounce\":{\"bouncedRecipients\":[{\"emailAddress\":\"\",",
    "\"diagnosticCode\":\"smtp; 250 2.0.0 ok\",\"status\":\"2.0.0\"}]}}\n",
    "From jo Mon Nov  2 08:00:00 2026\n",
];

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\n",
    "null",
    "-1",
    "1e999",
    "1795262400.5",
    "253402300800",
    "\"\\u0000\"",
    "\"\\ud83d\"",
    "{\"recipient\":\"jo@example.com\",\"reply\":\"450 4.2.2 full\"}\n",
    "{\"recipient\":\"jo@example.com\",\"reply\":\"450 x\",",
    "\"status\":\"4.2.2\",",
    "\"message_id\":\"m\",",
    "\"occurred_at\":\"9999-12-31T23:59:59-23:59\",",
    "\"expires_at\":\"0000-01-01T00:00:00+23:59\",",
    "\"content\":{\"inline\":\"x\"},",
    "\"content\":{\"url\":\"s3://b/k\"},",
    "\"envelope_from\":\"<>\",",
    "\"metadata\":{\"a\":[1.1,2.5e-308]},",
    "\"traceparent\":\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}\n",
    "\"route\":\"\\u2028\"}\n",
    "{\"type\":\"Bounce\",\"recipient\":[\"jo@example.com\"],\"response\":{\"code\":550,\"content\":\"no\"},\"timestamp\":1e18}\n",
    "{\"type\":\"Bounce\",\"recipient\":\"jo@example.com\",\"id\":\"m\",\"event_time\":1e15,\"response\":{\"code\":250,\"enhanced_code\":{\"class\":4,\"subject\":99999,\"detail\":1}}}\n",
    "Jan  1 10:00:02 out1 postfix/smtp[312]: 4fXk2m1Qz7: to=<jo@example.com>, relay=mx[192.0.2.7]:25, dsn=4.3.1, status=deferred (",
    "Feb 29 23:59:60 out1 postfix/smtp[312]: 4fXk2m1Qz7: ",
    "said: 250 2.0.0 ok)\n",
    "said: 452 4.3.1 full (in reply to RCPT TO command))\n",
    "\"event-data\":{\"event\":\"failed\",\"severity\":\"permanent\",\"recipient\":\"jo@example.com\",\"delivery-status\":{\"code\":550,\"message\":\"no\"}}",
    "{\"event\":\"bounce\",\"email\":\"jo@example.com\",\"reason\":\"550 no\",\"sg_event_id\":\"e\",\"timestamp\":\"1e15\"}",
    "{\"RecordType\":\"Bounce\",\"Email\":\"jo@example.com\",\"Type\":\"SoftBounce\",\"ID\":7,\"Details\":\"smtp;450 x\"}",
    "{\"msys\":{\"message_event\":{\"type\":\"bounce\",\"rcpt_to\":\"jo@example.com\",\"bounce_class\":\"10\",\"raw_reason\":\"250 fine\",\"event_id\":\"1\"}}}",
    "{\"Type\":\"Notification\",\"Message\":\"{\\\"eventType\\\":\\\"Bounce\\\",\\\"bounce\\\":{\\\"bouncedRecipients\\\":[{\\\"emailAddress\\\":\\\"jo@example.com\\\"}]}}\"}",
    "--x\r\n",
    "--x--",
    "Content-Disposition: form-data; name=\"event\"\r\n\r\n",
    "event=bounced&recipient=jo%40example.com&code=250",
    "&",
    "%",
];

#[test]
fn the_properties_hold_for_nearly_correct_replies() {
    try_all(&words(REPLY, 24), reply::check);
}

#[test]
fn the_properties_hold_for_nearly_correct_addresses() {
    try_all(&words(ADDRESS, 12), address::check);
}

#[test]
fn the_properties_hold_for_nearly_correct_mails() {
    try_all(&words(MAIL, 40), dsn::check);
    let reports =
        words(MAIL, 30).prop_map(|rest| [b"Subject: failure notice\n".as_slice(), &rest].concat());
    try_all(&reports, dsn::check);
}

#[test]
fn the_properties_hold_for_nearly_correct_lines() {
    try_all(&words(JSON, 12), ndjson::check);
    try_all(&words(JSON, 12), ndjson::check_line);
}

#[test]
fn the_properties_hold_for_nearly_correct_webhooks() {
    for service in Service::ALL {
        for content_type in webhook::CONTENT_TYPES {
            let array = (words(JSON, 6), select(vec!["", "[", "{"]), Just("]"));
            let bodies = array.prop_map(|(body, opening, closing)| match opening {
                "[" => [opening.as_bytes(), &body, closing.as_bytes()].concat(),
                _ => body,
            });
            try_all(&bodies, |body| {
                webhook::check_body(service, content_type, body);
            });
        }
    }
}
