//! Replies and reports that sound as if the recipient did not exist, but are about us, the message
//! or the moment. Retiring a live address is worse than keeping a dead one. So none of them may
//! retire the address at once, even if the status means an unknown user.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use domain::reply::Reply;
use domain::reply::stage::Stage;
use policy::row::{Class, Final};
use policy::table::Table;
use reports::report::Report;

fn class(reply: &Reply) -> Class {
    Table::embedded().row(reply, "", None, "").class()
}

/// Returns those of `replies` that retire the address at once.
fn hard<'a>(replies: &[&'a str]) -> Vec<&'a str> {
    replies
        .iter()
        .copied()
        .filter(|raw| class(&Reply::parse(raw)) == Class::Hard)
        .collect()
}

#[test]
fn a_refused_sender_or_content_does_not_retire_the_recipient() {
    for raw in [
        "550 <news@example.org>: User unknown",
        "550 5.1.0 <news@example.org> does not exist",
        "550 5.1.1",
        "550 Account closed",
    ] {
        assert_ne!(
            class(&Reply::parse(raw).in_reply_to(Stage::Mail)),
            Class::Hard,
            "{raw}"
        );
    }
    for raw in [
        "550 5.7.1 user unknown",
        "550 no such user",
        "550 account closed",
        "554 account unknown",
        "554 the sending user does not have an account",
    ] {
        assert_ne!(
            class(&Reply::parse(raw).in_reply_to(Stage::Content)),
            Class::Hard,
            "{raw}"
        );
        assert_eq!(
            class(&Reply::parse(raw).in_reply_to(Stage::Rcpt)),
            Class::Hard,
            "{raw}"
        );
    }
}

#[test]
fn a_closed_account_of_ours_or_a_temporarily_closed_one_is_not_dead() {
    let live = [
        "550 5.7.1 Your account has been terminated",
        "554 5.7.0 Your account has been cancelled due to billing",
        "550 Your sending account is closed",
        "550 Relaying denied: account is closed",
        "550 This mailbox is temporarily closed",
        "550 5.2.1 Mailbox closed for maintenance",
        "550 account cancelled pending payment",
        "550 email address verification cancelled",
        "550 email address of sender is closed",
        "550 Sending account closed",
        "550 e-mail ticket is closed",
        "550 Posting to this e-mail list is closed",
        "550 email server has been retired",
        "550 Attachment in your e-mail has been replaced",
    ];
    assert_eq!(hard(&live), [""; 0]);
}

#[test]
fn words_next_to_an_address_need_not_be_about_it() {
    let live = [
        "554 <jo@example.com>... unknown mailer error 1",
        "550 <jo@example.com>: unknown error",
        "550 jo@example.com: reason unknown",
        "550 jo@example.com virus unknown",
        "550 jo@example.com unknown error code 17",
        "550 rejected: postmaster@example.org does not exist",
        "550 From:<news@example.org> not found",
        "550 mail address invalid",
        "550 From address is invalid",
        "550 Reply-To address is not valid",
        "550 your mail address is unknown",
        "550 <jo@example.com> rejected",
        "550 5.0.0 <jo@example.com> rejected",
    ];
    assert_eq!(hard(&live), [""; 0]);
}

#[test]
fn a_denied_sender_is_not_an_unknown_recipient() {
    let live = [
        "550 You are not a registered member of this list",
        "550 not an active member of this discussion list",
        "550 former member of list; posting denied",
        "550 [192.0.2.1] is not a registered customer",
        "550 You are not in my address book",
        "550 192.0.2.1 not in LDAP",
        "550 no matching entry in whitelist",
        "550 no matching policy entry",
        "550 no matching transport entry",
        "550 From domain must exist",
        "550 Domain mentioned in From is unknown",
        "550 account unavailable due to maintenance",
        "550 account not available, on vacation",
    ];
    assert_eq!(hard(&live), [""; 0]);
}

#[test]
fn a_rejected_message_does_not_retire_the_recipient() {
    let live = [
        "550 Malformed message header for recipient",
        "550 invalid message content for recipient",
        "550 illegal attachment type for user",
        "550 Undeliverable spam for this recipient",
        "550 incorrect password for mail account",
        "550 Invalid number of the recipients",
        "550 5.5.3 RESOLVER.ADR.RecipLimit; too many recipients",
        "550 RESOLVER.ADR.RecipLimit; too many recipients",
    ];
    assert_eq!(hard(&live), [""; 0]);
}

#[test]
fn the_same_holds_in_other_scripts_and_languages() {
    let live = [
        "550 스팸 메일은 받을 수 없습니다",
        "550 이 메일을 전송할 수 없습니다",
        "550 このアドレスへの送信権限がありません",
        "550 发件人地址无效",
        "550 送信者アドレスが存在しません",
        "550 발신자 주소가 존재하지 않습니다",
        "550 IP地址错误",
        "550 IP地址无效",
        "550 Ihre IP-Adresse ist unbekannt",
        "550 Votre adresse IP est introuvable dans le DNS",
    ];
    assert_eq!(hard(&live), [""; 0]);
}

#[test]
fn a_bare_failure_notice_retires_the_address_only_for_a_time() {
    let dead = [
        "5.0.0 Your message did not reach the following recipients: jo@example.com",
        "Delivery to the following recipients failed permanently: jo@example.com",
        "Sorry, we weren't able to deliver your message to one or more recipients. \
         Failed address(es): jo@example.com",
        "The mail was undeliverable to the following: jo@example.com",
    ];
    assert_eq!(
        hard(&dead),
        dead,
        "a bare notice means that the address is dead"
    );
    let ends = dead.map(|raw| Table::embedded().row(&Reply::parse(raw), "", None, "").end);
    assert_eq!(ends, [Final::Unavailable; 4]);
}

#[test]
fn a_notice_with_a_cause_or_in_unknown_words_does_not_retire_the_address() {
    let live = [
        "The relay is set up wrong: delivery to the following recipients failed: jo@example.com",
        "Delivery to the following recipients failed, the server is down: jo@example.com",
        "Delivery to one or more recipients is delayed: jo@example.com",
        "Your message was sent to the following recipients: jo@example.com",
        "Delivery to the following recipients failed: 原因不明",
        "Delivery failed",
        "Delivery to jo@example.com failed",
        "554 Delivery to the following recipients failed: jo@example.com",
        "Your message was not opened within 40 days",
        "Your message was not collected within 14 days",
    ];
    assert_eq!(hard(&live), [""; 0]);
}

#[test]
fn the_quoted_subject_of_the_returned_mail_is_not_a_reason() {
    for subject in [
        "Undeliverable: Your account was closed",
        "Undelivered mail: User unknown - a story",
        "Non remis : Your account was closed",
        "Undeliverable mail \"Your account was closed\"",
    ] {
        let mail = format!(
            "From: mailer-daemon@example.net\nSubject: {subject}\n\n\
             It did not work.\njo@example.com\n"
        );
        for mail in [mail.clone(), mail.replace("jo@example.com\n", "")] {
            let report = Report::read(mail.as_bytes());
            assert_ne!(
                class(&report.recipients[0].reply),
                Class::Hard,
                "{mail}\n{report:?}"
            );
        }
    }
}

#[test]
fn a_recipient_that_clearly_does_not_exist_is_retired() {
    let dead = [
        "554 the account of jo@example.com was closed",
        "550 this account has been permanently closed",
        "550 jo@example.com was not found",
        "550 <jo@example.com> does not exist",
        "550 jo@example.com unknown",
        "554 this user doesn't have an example.com account (in reply to end of DATA command)",
        "542 5.0.0 jo@example.com Rejected",
        "550 Invalid or unknown recipient",
        "501 Bad destination mailbox",
        "550 5.7.1 RESOLVER.ADR.RecipNotFound; not found",
        "550 ユーザーが存在しません",
        "550 该用户不存在",
        "550 사용자가 존재하지 않습니다",
    ];
    assert_eq!(hard(&dead), dead);
}
