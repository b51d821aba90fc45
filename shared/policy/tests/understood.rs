//! What replies mean for an address, from the words to the row of the policy.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use classify::reason::recognize;
use domain::reply::Reply;
use policy::row::{Class, Final};
use policy::table::Table;

/// Asserts the class of each reply, and what happens to the address in the end.
fn assert_all(expected: &[(&str, Class, Final)]) {
    let table = Table::embedded();
    let mut wrong = Vec::new();
    for (raw, class, end) in expected {
        let reply = Reply::parse(raw);
        let row = table.row(&reply, "", None, "");
        if (row.class(), row.end) != (*class, *end) {
            wrong.push((*raw, row.name.clone(), recognize(&reply)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_domain_that_takes_no_mail_is_dead_for_a_time() {
    assert_all(&[
        ("554 5.4.4 sorry", Class::Hard, Final::Unavailable),
        ("554 5.4.4 unable to route", Class::Hard, Final::Unavailable),
        ("550 5.4.4 host not found", Class::Hard, Final::Unavailable),
        ("550 no MX for this domain", Class::Hard, Final::Unavailable),
        (
            "550 example.com has no mail exchanger",
            Class::Hard,
            Final::Unavailable,
        ),
        (
            "MX record not found for example.com",
            Class::Hard,
            Final::Unavailable,
        ),
        // The text blames us.
        (
            "554 5.4.4 your IP is blacklisted",
            Class::Message,
            Final::Message,
        ),
        (
            "554 5.4.4 forbidden by policy",
            Class::Message,
            Final::Message,
        ),
        // As in the table.
        ("550 5.1.2 no such domain", Class::Hard, Final::Inactive),
        ("556 5.1.10 null MX", Class::Hard, Final::Inactive),
        ("450 4.4.4 unable to route", Class::Soft, Final::Unavailable),
    ]);
}

#[test]
fn an_unknown_mailbox_that_exists_is_dead_for_a_time() {
    assert_all(&[
        ("550 5.2.1 user unknown", Class::Hard, Final::Unavailable),
        (
            "550 5.2.1 user unknown (in reply to RCPT TO command)",
            Class::Hard,
            Final::Inactive,
        ),
    ]);
}

#[test]
fn the_text_of_521_551_and_556_decides_before_the_code() {
    assert_all(&[
        ("551 mailbox is full", Class::Message, Final::Unavailable),
        ("551 relaying denied", Class::Message, Final::Message),
        ("551 sender not permitted", Class::Message, Final::Message),
        (
            "521 your IP address is blacklisted",
            Class::Message,
            Final::Message,
        ),
        (
            "556 message refused as spam",
            Class::Message,
            Final::Message,
        ),
        ("521 too many connections", Class::Message, Final::Message),
        ("551 try jo@example.net", Class::Hard, Final::Inactive),
        ("551", Class::Hard, Final::Inactive),
        ("521", Class::Hard, Final::Unavailable),
        ("556", Class::Hard, Final::Unavailable),
    ]);
}

#[test]
fn user_unknown_is_a_filter_only_where_systems_speak_so() {
    assert_all(&[
        (
            "550 Unknown user jo@docomo.ne.jp",
            Class::Message,
            Final::Message,
        ),
        (
            "550 Unknown user jo@ezweb.ne.jp",
            Class::Message,
            Final::Message,
        ),
        (
            "550 <jo@example.com>... User unknown (in reply to end of DATA command)",
            Class::Message,
            Final::Message,
        ),
        (
            "550 <jo@example.com>... User unknown (in reply to RCPT TO command)",
            Class::Hard,
            Final::Inactive,
        ),
        (
            "550 <jo@example.com>... User unknown",
            Class::Hard,
            Final::Inactive,
        ),
        (
            "550 unknown user <jo@example.com>",
            Class::Hard,
            Final::Inactive,
        ),
        ("User unknown", Class::Hard, Final::Inactive),
    ]);
}

#[test]
fn english_words_count_in_any_order_and_written_as_one() {
    assert_all(&[
        ("550 user invalid", Class::Hard, Final::Inactive),
        ("550 #7 unavailable mail user", Class::Hard, Final::Inactive),
        ("550 RecipientNotFound", Class::Hard, Final::Inactive),
        ("550 ERR_USER_UNKNOWN", Class::Hard, Final::Inactive),
        (
            "550 account has not enough disk space",
            Class::Message,
            Final::Unavailable,
        ),
        // Weak words rank below.
        (
            "550 recipient address reserved by RFC 2606",
            Class::Hard,
            Final::Inactive,
        ),
        (
            "550 mailbox unavailable or access denied",
            Class::Hard,
            Final::Inactive,
        ),
        ("550 access denied", Class::Message, Final::Message),
    ]);
}

#[test]
fn a_refusal_of_the_sender_in_english_never_ends_an_address() {
    assert_all(&[
        (
            "553 sender's mailbox does not exist",
            Class::Message,
            Final::Message,
        ),
        (
            "550 envelope sender: no such user",
            Class::Message,
            Final::Message,
        ),
        ("552 mail from invalid", Class::Message, Final::Message),
        ("550 originator unknown", Class::Message, Final::Message),
        (
            "550 authentication failed: user unknown",
            Class::Message,
            Final::Message,
        ),
    ]);
}

#[test]
fn a_quoted_reply_counts_and_not_the_text_around_it() {
    assert_all(&[
        (
            "450 4.1.1 the address is unverified: host mx said: 550 5.1.1 user unknown",
            Class::Hard,
            Final::Inactive,
        ),
        (
            "We could not deliver and think that you are blocked. mx said: 550 5.1.1 user unknown",
            Class::Hard,
            Final::Inactive,
        ),
        (
            "450 busy, try later 550 5.1.1 user unknown",
            Class::Hard,
            Final::Inactive,
        ),
        (
            "550 5.1.1 user unknown 552 5.2.2 full",
            Class::Message,
            Final::Unavailable,
        ),
    ]);
}

#[test]
fn missing_rights_and_unclear_errors_in_other_languages_do_not_end_an_address() {
    for raw in [
        "550 Kein Zugriff auf das Postfach",
        "550 Unbekannter Fehler beim Zustellen an den Empfänger",
        "550 Aucun droit sur la boîte aux lettres",
        "550 No hay permiso para el buzón",
        "550 Geen toegang tot de mailbox",
        "550 Brak dostępu do skrzynki",
        "550 Нет доступа к ящику получателя",
        "550 このアドレスへの送信権限がありません",
        "550 이 주소로 보낼 권한이 없습니다",
        "550 对该邮箱没有权限",
        "550 Bu alıcıya gönderme izniniz yok",
        "550 Tidak ada izin untuk alamat ini",
        "550 Nincs jogosultsága a postafiókhoz",
        "451 Le destinataire est temporairement introuvable",
        "550 Anmeldung fehlgeschlagen: Benutzer unbekannt",
    ] {
        let class = Table::embedded()
            .row(&Reply::parse(raw), "", None, "")
            .class();
        assert_ne!(class, Class::Hard, "{raw}");
    }
}

#[test]
fn a_full_disk_is_not_a_full_mailbox_in_any_language() {
    for raw in [
        "452 Die Festplatte des Servers ist voll",
        "452 Espace disque insuffisant",
        "452 Недостаточно места на диске сервера",
        "452 服务器磁盘空间不足",
        "452 サーバーのディスク容量が不足しています",
        "452 서버 디스크 공간이 부족합니다",
    ] {
        let table = Table::embedded();
        let row = table.row(&Reply::parse(raw), "", None, "");
        assert_eq!(row.name, "system-full-by-text", "{raw}");
    }
}
