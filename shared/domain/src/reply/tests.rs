//! Tests of reading replies.

use super::*;

/// Parses `raw` and returns the result as `code status text`, with `-` for a missing code or
/// status.
fn read(raw: &str) -> String {
    let reply = Reply::parse(raw);
    let code = reply.code.map_or("-".to_owned(), |code| code.to_string());
    let status = reply
        .status
        .map_or("-".to_owned(), |status| status.to_string());
    format!("{code} {status} {}", reply.text)
}

#[test]
fn code_status_and_text_are_separated() {
    for (raw, expected) in [
        (
            "452 4.3.1 Insufficient system storage",
            "452 4.3.1 Insufficient system storage",
        ),
        ("250 2.0.0 Ok", "250 2.0.0 Ok"),
        ("550", "550 - "),
        ("550 5.1.1", "550 5.1.1 "),
        ("550-5.1.1 no such user", "550 5.1.1 no such user"),
        ("550 - no such user", "550 - no such user"),
        ("550 : no such user", "550 - : no such user"),
        ("421 4.1.0 ::1 is too fast", "421 4.1.0 ::1 is too fast"),
        ("550 5.1.1: no such user", "550 5.1.1 no such user"),
        ("550: 5.2.2 over quota", "550 5.2.2 over quota"),
        ("554 #4.3.2 later", "554 4.3.2 later"),
        ("550 (#5.1.1) no such user", "550 5.1.1 no such user"),
        ("550 [5.1.1]: no such user", "550 5.1.1 no such user"),
        ("4.3.1 system full", "- 4.3.1 system full"),
        ("451 later", "451 - later"),
        ("421 421 busy", "421 - busy"),
        ("Mailbox full", "- - Mailbox full"),
        (
            "mailbox is disabled (5.2.1).",
            "- 5.2.1 mailbox is disabled (5.2.1).",
        ),
        (
            "メールボックスがいっぱいです",
            "- - メールボックスがいっぱいです",
        ),
        ("宛先エラー5.1.1です", "- 5.1.1 宛先エラー5.1.1です"),
        (
            "452 4.2.2 La boîte aux lettres est pleine",
            "452 4.2.2 La boîte aux lettres est pleine",
        ),
        ("", "- - "),
    ] {
        assert_eq!(read(raw), expected, "{raw:?}");
    }
}

#[test]
fn a_status_is_found_behind_other_words() {
    for (raw, expected) in [
        (
            "550-Requested action not taken: 5.1.1 nobody here",
            "550 5.1.1 Requested action not taken: 5.1.1 nobody here",
        ),
        (
            "452 <jo@example.com>: 4.2.2 over quota",
            "452 4.2.2 <jo@example.com>: 4.2.2 over quota",
        ),
        (
            "550 no such user - 5.1.1.",
            "550 5.1.1 no such user - 5.1.1.",
        ),
        (
            "550 host mx said: 550 5.7.1 blocked",
            "550 5.7.1 host mx said: blocked",
        ),
    ] {
        assert_eq!(read(raw), expected, "{raw:?}");
    }
}

#[test]
fn a_reply_is_found_in_the_words_of_another_system() {
    for (raw, expected) in [
        ("smtp;550 5.1.1 nobody", "550 5.1.1 nobody"),
        ("SMTP; 421 busy", "421 - busy"),
        (
            "x-local; host mx.example.com[192.0.2.1] said: 450 4.2.1 later",
            "450 4.2.1 later",
        ),
        ("host mx.example.com [192.0.2.1]: 451 later", "451 - later"),
        (
            "error after RCPT TO:<jo@example.com>:\n 550 nobody",
            "550 - nobody (in reply to RCPT TO command)",
        ),
        (
            "host mx[192.0.2.1]: 451 later, its neighbour said: 550 nobody",
            "451 - later, its neighbour said: 550 nobody",
        ),
        ("<<< 552 5.2.2 full", "552 5.2.2 full"),
        ("the peer returned '550 5.1.1 nobody'", "550 5.1.1 nobody'"),
        ("they answered [450-4.2.1 later]", "450 4.2.1 later]"),
        (
            "connect to mx.example.com[192.0.2.1]:587: refused",
            "- - connect to mx.example.com[192.0.2.1]:587: refused",
        ),
    ] {
        assert_eq!(read(raw), expected, "{raw:?}");
    }
}

#[test]
fn lines_of_one_reply_become_one() {
    for (raw, expected) in [
        (
            "451-4.3.2 first\r\n451 4.3.2 second\r\n",
            "451 4.3.2 first second",
        ),
        (
            r"451-4.3.2 first\r\n451 4.3.2 second",
            "451 4.3.2 first second",
        ),
        (
            r"451-4.3.2 first\n451 4.3.2 second",
            "451 4.3.2 first second",
        ),
        (
            "451-first\n451-second\n\n451 third",
            "451 - first second third",
        ),
        ("451-first\n451 4.3.2 second", "451 4.3.2 first second"),
        ("451-4.3.2 first\n451 second", "451 4.3.2 first second"),
        (
            "451-4.3.2 first\n451 4.7.1 second",
            "451 4.3.2 first 451 4.7.1 second",
        ),
        (
            "550-5.1.1 first 550-5.1.1 second 550 5.1.1 third",
            "550 5.1.1 first second third",
        ),
        ("smtp; 550-first\n  550 second", "550 - first second"),
        (
            "220-mx.example.com ESMTP\r\n521 5.7.1 you are listed",
            "521 5.7.1 you are listed",
        ),
        ("250-2.1.5 jo\r\n552 5.2.2 full", "552 5.2.2 full"),
        ("250-2.1.5 jo 552 5.2.2 full", "552 5.2.2 full"),
        (
            "450-4.2.1 later\n550-5.1.1 nobody\n550 5.1.1 here",
            "550 5.1.1 here",
        ),
        ("220-mx.example.com\n554", "554 - "),
        (
            "550-5.1.1 nobody\n250 mails were sent",
            "550 5.1.1 nobody 250 mails were sent",
        ),
        (
            "550-see page 451 of the manual",
            "550 - see page 451 of the manual",
        ),
        (
            "host mx[192.0.2.1] said: 250-2.1.5 jo 552 5.2.2 full (in reply to RCPT TO command)",
            "552 5.2.2 full (in reply to RCPT TO command)",
        ),
        (
            "host mx[192.0.2.1] refused to talk to me: 220-mx ESMTP 521 no mail",
            "521 - no mail (in reply to the connection)",
        ),
        ("550 see\n the folded line", "550 - see the folded line"),
    ] {
        assert_eq!(read(raw), expected, "{raw:?}");
    }
}

#[test]
fn versions_dates_and_addresses_are_not_taken_for_codes_or_statuses() {
    for (raw, code, status) in [
        ("550 192.0.2.5.1 is listed", Some(550), None),
        ("550 client 5.1.1.2 is listed", Some(550), None),
        ("550 5.1.1.2 is listed", Some(550), None),
        ("450 v4.3.2.1 of 1.4.3.2", Some(450), None),
        (
            "450 Exim 4.94.2 and version 4.2.1 and mta/4.2.1 and mta-4.2.1",
            Some(450),
            None,
        ),
        (
            "450 since 04.05.2024 and 4.5.2024 and 4.5.24",
            Some(450),
            None,
        ),
        (
            "450 <4.2.1@example.com> and jo@4.2.1 and 4.2.1.example",
            Some(450),
            None,
        ),
        (
            "550 http://example.com/5.1.1 and a_5.1.1_b",
            Some(550),
            None,
        ),
        ("550 2.0.0 is not what it seems", Some(550), None),
        ("550 2.0.0 but 5.1.1", Some(550), Some("5.1.1")),
        ("Postfix 2.7.1 is tired", None, None),
        ("450 later 554 5.5.1 no valid recipients", Some(450), None),
        ("550 nobody 503 5.5.1 no recipients", Some(550), None),
        ("nobody 503-5.5.1 no recipients", None, None),
        ("5500 messages", None, None),
        ("500MB is all you get", None, None),
        ("203.0.113.9 is listed", None, None),
        ("512@example.com is gone", None, None),
        ("199 no", None, None),
        ("600 no", None, None),
        ("+55 no", None, None),
        ("４５０ no", None, None),
    ] {
        let reply = Reply::parse(raw);
        assert_eq!(
            (reply.code, reply.status),
            (code, status.map(|s| s.parse().unwrap())),
            "{raw:?}"
        );
    }
}

#[test]
fn the_status_gives_the_class_of_failure_and_the_code_whether_it_failed() {
    use StatusClass::{Permanent, Success, Transient};
    for (raw, class) in [
        ("250 ok", Some(Success)),
        ("354 go on", None),
        ("451 later", Some(Transient)),
        ("550 never", Some(Permanent)),
        ("550 4.2.1 later", Some(Transient)),
        ("452 5.3.1 full", Some(Permanent)),
        ("550 2.0.0 no", Some(Permanent)),
        ("250 4.7.1 taken all the same", Some(Success)),
        ("full", None),
    ] {
        assert_eq!(Reply::parse(raw).class(), class, "{raw:?}");
        assert_eq!(
            Reply::parse(raw).is_success(),
            class == Some(Success),
            "{raw:?}"
        );
    }
}

#[test]
fn text_is_one_clean_line_of_bounded_length() {
    assert_eq!(
        read("450\t4.2.1 \u{1b}[31mred\0 \u{3000} x\u{85}y "),
        "450 4.2.1 [31mred x y"
    );
    let long = Reply::parse(&format!("450 {}", "é".repeat(MAX_RAW)));
    assert_eq!(long.text, "é".repeat(MAX_TEXT / 2));
    assert_eq!(
        Reply::parse(&format!("450 a{}", "é".repeat(MAX_RAW)))
            .text
            .len(),
        MAX_TEXT - 1
    );
}

#[test]
fn a_printed_reply_is_read_back_unchanged() {
    for raw in [
        "452 4.3.1 full",
        "451 later",
        "4.3.1 full",
        "full",
        "550",
        "550 <jo@example.com>: 5.1.1 nobody",
    ] {
        let reply = Reply::parse(raw);
        assert_eq!(Reply::parse(&reply.to_string()), reply, "{raw:?}");
    }
}
