//! Reports in prose: those that name an address and no reason, and answers of persons that look
//! like reports.

use classify::reason::{Reason, recognize};
use reports::report::{Kind, Report};

fn read(header: &str, body: &str) -> Report {
    let head = "To: news@example.org\nContent-Type: text/plain; charset=utf-8\n";
    Report::read(format!("{header}\n{head}\n{body}\n").as_bytes())
}

#[test]
fn a_report_that_names_an_address_and_no_reason_is_unexplained_in_every_dialect() {
    for (dialect, body) in [
        (
            "qmail",
            "Hi. This is the qmail-send program at mx.example.net.\nI gave up on this one.\n\n\
             <jo@example.com>:\n",
        ),
        (
            "postfix",
            "This is the mail system at host mx.example.net.\n\nFor further assistance, please \
             send mail to postmaster.\n\n<jo@example.com>:\n",
        ),
        (
            "exim",
            "This message was created automatically by mail delivery software.\n\nA message that \
             you sent could not be delivered to one or more of its recipients. This is a \
             permanent error. The following address(es) failed:\n\n  jo@example.com\n",
        ),
        (
            "google",
            "Delivery to the following recipient failed permanently:\n\n     jo@example.com\n",
        ),
        (
            "exchange",
            "Your message did not reach the following recipient(s):\n\njo@example.com\n",
        ),
        (
            "mdaemon",
            "The following addresses had permanent fatal delivery errors:\n\njo@example.com\n",
        ),
        (
            "domino",
            "Your document was not delivered to:\n\njo@example.com\n",
        ),
    ] {
        let report = read(
            "From: MAILER-DAEMON@mx.example.net\nSubject: Undelivered mail",
            body,
        );
        assert_eq!(report.kind, Kind::Failed, "{dialect}");
        let one = &report.recipients[0];
        assert_eq!(one.address(), Some("jo@example.com"), "{dialect}");
        let reason = recognize(&one.reply);
        assert_eq!(
            reason,
            Some(Reason::Unexplained),
            "{dialect}: {}",
            one.reply
        );
    }
}

#[test]
fn a_report_that_gives_a_reason_in_its_words_keeps_it() {
    let report = read(
        "From: MAILER-DAEMON@mx.example.net\nSubject: Undelivered mail",
        "This is the mail system at host mx.example.net.\n\nThe mailbox is full.\n\n<jo@example.com>:\n",
    );
    let reason = recognize(&report.recipients[0].reply);
    assert_eq!(reason, Some(Reason::MailboxFull));
}

#[test]
fn an_answer_of_a_person_with_a_null_return_path_is_not_a_report() {
    for header in [
        "Subject: Out of office: no mail until Monday",
        "Subject: Automatische Antwort: Ihre Mail",
        "Subject: Réponse automatique : mail",
        "Subject: Your mail\nX-Autoreply: yes",
        "Subject: Your mail\nPrecedence: auto_reply",
    ] {
        let header = format!("Return-Path: <>\nFrom: Jo <jo@example.com>\n{header}");
        let report = read(&header, "I am away. Write to ann@example.com.");
        assert_eq!(report.kind, Kind::AutoReply, "{header}");
        assert!(!report.recipients[0].has_failed(), "{header}");
    }
    let report = read(
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example.net\nSubject: Vacation mail not delivered",
        "<jo@example.com>: user unknown",
    );
    assert_eq!(report.kind, Kind::Failed);
}
