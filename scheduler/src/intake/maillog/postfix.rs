//! Postfix's log: reads the lines of its delivery agents that end in `status=deferred (…)`,
//! `status=bounced (…)` or `status=SOFTBOUNCE (…)`, and those that end in `status=sent (…)` if the
//! same message to the same recipient failed before. Sender and Message-ID are on other lines of
//! the same queue id, so they are remembered for a while. A line about a delivery that is not
//! understood is refused; lines about anything else are passed over.

use std::sync::LazyLock;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDateTime, TimeDelta};
use domain::clock::Timestamp;
use domain::fact::FactKind;
use regex::{Captures, Regex};
use serde_json::json;

use super::recent::Recent;
use super::{LogItem, LogReader, WAITING_MAX, waiting_key};
use crate::intake::instants::read_instant;

/// How many queued messages are remembered. Beyond that the oldest are forgotten, and their bounces
/// have no sender.
const QUEUED_MAX: usize = 200_000;

/// A line: what is before the program, the queue id of the message, and the rest. The process id
/// stands in brackets, or as in RFC 5424, followed by the id of the message and its data.
static LINE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"^(?P<before>.*?)\b[\w.-]+(?:/[\w.-]+)*/[\w-]+",
        r"(?:\[\d+\]:| \d+ \S+ (?:-|\[.*?\]))? ",
        r"\u{feff}?(?P<queue>[0-9A-Za-z]{5,32}): (?P<rest>.*)$",
    ))
});

/// The time of a line. Before it there can be a priority, or the name of a container.
static TIME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?:^|[\s>|])(?P<when>\d{4}-\d\d-\d\d[T ]\d\S*(?: [+-]\d{4}\b)?",
        r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d)(?:\s|$)",
    ))
});

/// How the rest of a line begins that is about a delivery.
const ABOUT_DELIVERY: &str = "to=<";

/// A line of any form that is about a delivery.
static LIKE_DELIVERY: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\bto=<.*\b(?:status|relay|dsn)="));

/// A delivery. The reply has no end if the line was cut.
static DELIVERY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"^to=<(?P<to>.+?)>, .*?relay=(?P<relay>[^,]*), ",
        r"(?:.*?dsn=(?P<dsn>[245]\.\d{1,3}\.\d{1,3}), |.*?)",
        r"status=(?P<status>[\w-]+)(?: \((?P<reply>.*))?",
    ))
});

/// The results of deliveries and of tests of addresses that are neither bounces nor facts.
const WITHOUT_ITEM: [&str; 4] = ["deliverable", "undeliverable", "expired", "filtered"];

static SENDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^from=<(?P<from>[^>]*)>, size="));
static MESSAGE_ID: LazyLock<Regex> = LazyLock::new(|| pattern(r"^message-id=(?P<id>\S+)$"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant that the tests compile")
}

/// Reads Postfix's log.
#[derive(Debug)]
pub struct Postfix {
    now: Timestamp,
    offset: FixedOffset,
    /// By queue id.
    queued: Recent<Queued>,
    /// The message ids of the bounces that were read, by queue id and recipient.
    waiting: Recent<String>,
}

#[derive(Debug, Default)]
struct Queued {
    sender: Option<String>,
    message_id: Option<String>,
}

impl Postfix {
    /// A reader at the time `now`. Traditional time stamps have neither year nor zone. They are
    /// read as of the last twelve months, and with this offset from UTC.
    pub fn new(now: Timestamp, offset: FixedOffset) -> Self {
        Self {
            now,
            offset,
            queued: Recent::new(QUEUED_MAX),
            waiting: Recent::new(WAITING_MAX),
        }
    }

    /// Reads a line about a delivery. Returns `None` if it is neither a bounce nor a fact.
    fn delivery(
        &mut self,
        before: &str,
        queue: &str,
        rest: &str,
    ) -> Result<Option<LogItem>, String> {
        let delivery = DELIVERY.captures(rest).ok_or(
            "the line is about a delivery, but was cut, or has another form than Postfix's",
        )?;
        match &delivery["status"] {
            "deferred" | "bounced" | "SOFTBOUNCE" => {
                self.bounce(before, queue, &delivery).map(Some)
            }
            "sent" => self.sent(before, queue, &delivery["to"]),
            status if WITHOUT_ITEM.contains(&status) => Ok(None),
            _ => Err("the status of the delivery is not known".to_owned()),
        }
    }

    fn bounce(
        &mut self,
        before: &str,
        queue: &str,
        delivery: &Captures<'_>,
    ) -> Result<LogItem, String> {
        let part = |name: &str| delivery.name(name).map(|part| part.as_str());
        let reply = part("reply").ok_or("the line was cut before the reply")?;
        let at = self.time(before)?;
        let known = self.queued.get(queue);
        let key = waiting_key(queue, &delivery["to"]);
        // A message that fails again keeps its id, also when its other lines are forgotten.
        let id = known
            .and_then(|queued| queued.message_id.as_ref())
            .or_else(|| self.waiting.get(&key))
            .map_or(queue, String::as_str)
            .to_owned();
        let mut bounce = json!({
            "recipient": &delivery["to"],
            "reply": reply.strip_suffix(')').unwrap_or(reply),
            "message_id": id,
            "occurred_at": at,
        });
        if let Some(status) = part("dsn") {
            bounce["status"] = status.into();
        }
        if let Some(sender) = known.and_then(|queued| queued.sender.as_deref()) {
            bounce["envelope_from"] = sender.into();
        }
        let host = delivery["relay"].split('[').next().unwrap_or_default();
        if !matches!(host, "" | "none" | "local" | "virtual") {
            bounce["remote_mta"] = host.into();
        }
        *self.waiting.entry(&key) = id;
        Ok(LogItem::Bounce(bounce))
    }

    /// Reads a delivery. It is a fact if an earlier line reported that the same message failed at
    /// the same recipient.
    fn sent(&self, before: &str, queue: &str, recipient: &str) -> Result<Option<LogItem>, String> {
        let Some(id) = self.waiting.get(&waiting_key(queue, recipient)) else {
            return Ok(None);
        };
        let known = self.queued.get(queue);
        let known_id = known.and_then(|queued| queued.message_id.as_ref());
        if known_id.is_some_and(|known| known != id) {
            // Short queue ids are used again: this is another message.
            return Ok(None);
        }
        let mut fact = json!({
            "type": FactKind::Delivered.as_str(),
            "recipient": recipient,
            "message_id": id,
            "occurred_at": self.time(before)?,
        });
        if let Some(sender) = known.and_then(|queued| queued.sender.as_deref()) {
            fact["envelope_from"] = sender.into();
        }
        Ok(Some(LogItem::Fact(fact)))
    }

    /// Returns the time of a line, from what is before the program.
    fn time(&self, before: &str) -> Result<String, String> {
        let time = TIME.captures(before);
        time.and_then(|time| self.instant(&time["when"]))
            .ok_or_else(|| "the time of the line cannot be read".to_owned())
    }

    fn instant(&self, when: &str) -> Option<String> {
        if let Some(at) = read_instant(when, self.offset) {
            return Some(at.to_string());
        }
        // A stamp that would be in the future is of the year before. One day is allowed for clocks
        // that differ.
        let latest = DateTime::from_timestamp_millis(self.now.ms())? + TimeDelta::days(1);
        let of_year = |year: i32| {
            let naive =
                NaiveDateTime::parse_from_str(&format!("{year} {when}"), "%Y %b %e %H:%M:%S")
                    .ok()?;
            naive.and_local_timezone(self.offset).single()
        };
        let at = of_year(latest.year())
            .filter(|at| *at <= latest)
            .or_else(|| of_year(latest.year() - 1))?;
        Some(Timestamp::from_ms(at.timestamp_millis()).to_string())
    }
}

impl LogReader for Postfix {
    fn items(&mut self, line: &str) -> Result<Vec<LogItem>, String> {
        // Other programs write to the same log, and Postfix also writes lines about no message.
        let Some(found) = LINE.captures(line) else {
            return if LIKE_DELIVERY.is_match(line) {
                Err("the line is about a delivery, but its beginning is not known".to_owned())
            } else {
                Ok(Vec::new())
            };
        };
        let (before, queue, rest) = (&found["before"], &found["queue"], &found["rest"]);
        if rest.starts_with(ABOUT_DELIVERY) {
            let item = self.delivery(before, queue, rest)?;
            return Ok(item.into_iter().collect());
        }
        if let Some(sender) = SENDER.captures(rest) {
            self.queued.entry(queue).sender = Some(sender["from"].to_owned());
        } else if let Some(id) = MESSAGE_ID.captures(rest) {
            // An id that was not valid UTF-8 is no use: after the replacement of its bytes, other
            // messages could have the same id. All messages without an id are logged as `<>`.
            let id = Some(&id["id"])
                .filter(|id| *id != "<>" && !id.contains(char::REPLACEMENT_CHARACTER));
            self.queued.entry(queue).message_id = id.map(str::to_owned);
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use domain::reply::Reply;
    use domain::reply::stage::Stage;
    use serde_json::Value;

    use super::*;

    fn reader() -> Postfix {
        // 2026-01-02T00:00:00Z
        Postfix::new(
            Timestamp::from_ms(1_767_312_000_000),
            FixedOffset::east_opt(3_600).unwrap(),
        )
    }

    fn read_items(log: &str) -> Vec<LogItem> {
        let mut reader = reader();
        log.lines()
            .flat_map(|line| reader.items(line).unwrap())
            .collect()
    }

    /// Reads a log that reports bounces only.
    fn read(log: &str) -> Vec<Value> {
        let bounce = |item| match item {
            LogItem::Bounce(bounce) => bounce,
            LogItem::Fact(fact) => panic!("it is a fact: {fact}"),
        };
        read_items(log).into_iter().map(bounce).collect()
    }

    #[test]
    fn a_deferred_recipient_is_a_bounce_with_sender_and_message_id() {
        let log = "\
Jan  1 10:00:01 out1 postfix/cleanup[311]: 4fXk2m1Qz7: message-id=<c42.9@news.example.org>
Jan  1 10:00:01 out1 postfix/qmgr[90]: 4fXk2m1Qz7: from=<bounce@news.example.org>, \
size=1201, nrcpt=1 (queue active)
Jan  1 10:00:02 out1 postfix/smtp[312]: 4fXk2m1Qz7: to=<jo@example.com>, \
relay=mx1.example.com[192.0.2.7]:25, delay=1.1, delays=0.1/0/0.5/0.5, dsn=4.3.1, \
status=deferred (host mx1.example.com[192.0.2.7] said: \
452 4.3.1 Insufficient system storage (in reply to RCPT TO command))
Jan  1 10:00:03 out1 postfix/qmgr[90]: 4fXk2m1Qz7: removed";
        assert_eq!(
            read(log),
            [json!({
                "recipient": "jo@example.com",
                "reply":
                    "host mx1.example.com[192.0.2.7] said: 452 4.3.1 Insufficient system storage \
                     (in reply to RCPT TO command)",
                "status": "4.3.1",
                "message_id": "<c42.9@news.example.org>",
                "envelope_from": "bounce@news.example.org",
                "occurred_at": "2026-01-01T09:00:02.000Z",
                "remote_mta": "mx1.example.com",
            })]
        );
    }

    #[test]
    fn time_stamps_without_a_year_are_of_the_last_twelve_months() {
        let stamp = |when: &str| reader().instant(when).unwrap();
        assert_eq!(stamp("Dec 31 10:00:00"), "2025-12-31T09:00:00.000Z");
        assert_eq!(stamp("Jan  2 00:59:00"), "2026-01-01T23:59:00.000Z");
        assert_eq!(
            stamp("2026-01-01T10:00:00.5+02:00"),
            "2026-01-01T08:00:00.500Z"
        );
        assert_eq!(reader().instant("Feb 31 10:00:00"), None);
    }

    #[test]
    fn only_deferred_and_bounced_recipients_are_bounces() {
        let line = |status: &str| {
            format!(
                "2026-01-01T10:00:02+01:00 out1 postfix-bulk/smtp[3]: ABCDEF1234: \
                 to=<jo@example.com>, relay=none, delay=9, delays=0/0/9/0, dsn=4.4.1, \
                 status={status} \
                 (connect to mx.example.com[192.0.2.7]:25: Connection timed out)"
            )
        };
        let bounce = &read(&line("deferred"))[0];
        assert_eq!(
            bounce["reply"],
            "connect to mx.example.com[192.0.2.7]:25: Connection timed out"
        );
        assert_eq!(
            (&bounce["message_id"], bounce.get("remote_mta")),
            (&json!("ABCDEF1234"), None)
        );
        assert_eq!(read(&line("bounced")).len(), 1);
        assert_eq!(read(&line("SOFTBOUNCE")).len(), 1);
        for other in ["sent", "expired", "deliverable", "undeliverable"] {
            assert_eq!(read(&line(other)), Vec::<Value>::new(), "{other}");
        }
        for other in [
            "Jan  1 10:00:01 out1 postfix/qmgr[4]: ABCDEF1234: removed",
            "Jan  1 10:00:01 out1 postfix/qmgr[4]: ABCDEF1234: from=<jo@example.com>, \
             status=expired, returned to sender",
            "Jan  1 10:00:01 out1 postfix/smtpd[4]: NOQUEUE: reject: RCPT from a[192.0.2.1]: \
             450 4.1.1 <x@y>: unknown; from=<a@b> to=<x@y> proto=ESMTP helo=<a>",
            "Jan  1 10:00:01 out1 postfix/smtp[4]: connect to mx[192.0.2.1]:25: timed out",
            "Jan  1 10:00:01 out1 sshd[4]: Accepted publickey for jo",
            "nonsense",
        ] {
            assert_eq!(read(other), Vec::<Value>::new(), "{other}");
        }
    }

    #[test]
    fn a_line_is_read_however_the_log_begins_its_lines() {
        for (before, at) in [
            ("2026-01-01T10:00:02+0100 out1 postfix/smtp[3]:", "09:00:02"),
            ("2026-01-01T10:00:02 out1 postfix/smtp[3]:", "09:00:02"),
            ("2026-01-01 10:00:02.5 out1 postfix/smtp[3]:", "09:00:02"),
            ("<22>Jan  1 10:00:02 out1 postfix/smtp[3]:", "09:00:02"),
            (
                "<22>1 2026-01-01T10:00:02.123Z out1 postfix/smtp 3 - -",
                "10:00:02",
            ),
            (
                "<22>1 2026-01-01T10:00:02Z out1 postfix/out/smtp 3 ID7 [a b=\"c\"] \u{feff}",
                "10:00:02",
            ),
            (
                "smtp_1  | Jan  1 10:00:02 out1 postfix/smtp[3]:",
                "09:00:02",
            ),
            (
                "mail-0 smtp Jan  1 10:00:02 out1 postfix/smtp[3]:",
                "09:00:02",
            ),
            ("Jan  1 10:00:02 out1 mta-2/lmtp[3]:", "09:00:02"),
        ] {
            let space = if before.ends_with('\u{feff}') {
                ""
            } else {
                " "
            };
            let line = format!(
                "{before}{space}ABCDEF1234: to=<jo@example.com>, relay=none, delay=9, dsn=4.4.1, \
                 status=deferred (timed out)"
            );
            let bounces = read(&line);
            let time = bounces[0]["occurred_at"].as_str().unwrap();
            assert!(
                time.starts_with(&format!("2026-01-01T{at}")),
                "{before}: {time}"
            );
        }
    }

    #[test]
    fn a_line_about_a_delivery_that_is_not_understood_is_refused() {
        let end = "ABCDEF1234: to=<jo@example.com>, relay=none, delay=9, dsn=4.4.1, \
                   status=deferred (timed out)";
        let begin = "Jan  1 10:00:02 out1 postfix/smtp[3]: ABCDEF1234:";
        for line in [
            format!("Feb 31 10:00:02 out1 postfix/smtp[3]: {end}"),
            format!("1767258002 out1 postfix/smtp[3]: {end}"),
            format!("postfix/smtp[3]: {end}"),
            format!("Jan  1 10:00:02 out1 sshd[4]: {end}"),
            format!("{{\"message\": \"{end}\"}}"),
            format!("{begin} to=<jo@exam"),
            format!("{begin} to=<jo@example.com>, relay=mx.exam"),
            format!("{begin} to=<jo@example.com>, relay=none, delay=9, dsn=4.4.1, status=def"),
            format!("{begin} to=<jo@example.com>, relay=none, dsn=4.4.1, status=deferred"),
            format!("{begin} to=<jo@example.com>, relay=none, dsn=4.4.1, status=lost (what)"),
        ] {
            assert!(reader().items(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_line_that_was_cut_within_the_reply_is_read_as_far_as_it_goes() {
        let line = "Jan  1 10:00:02 out1 postfix/smtp[3]: ABCDEF1234: to=<jo@example.com>, \
                    relay=mx[192.0.2.7]:25, delay=1, dsn=4.7.26, status=deferred (host mx said: \
                    421-4.7.26 Your mail is rate limited. See https://exam";
        let bounce = &read(line)[0];
        assert_eq!(bounce["status"], "4.7.26");
        assert!(bounce["reply"].as_str().unwrap().ends_with("https://exam"));
    }

    #[test]
    fn the_stage_that_a_reply_answered_is_kept() {
        let line = "Jan  1 10:00:02 out1 postfix/smtp[3]: ABCDEF1234: to=<jo@example.com>, \
                    relay=mx[192.0.2.7]:25, delay=1, dsn=5.0.0, status=bounced (host mx said: \
                    553 out1.example.org does not exist (in reply to MAIL FROM command))";
        let bounce = &read(line)[0];
        let reply = Reply::parse(bounce["reply"].as_str().unwrap());
        assert_eq!(reply.stage(), Some(Stage::Mail));
    }

    #[test]
    fn an_old_postfix_without_the_field_dsn_is_read() {
        let line = "Jan  1 10:00:02 out1 postfix/smtp[3]: ABCDEF1234: to=<\"a>b\"@example.com>, \
                    orig_to=<jo>, relay=none, delay=1, status=bounced (unknown user)";
        let bounce = &read(line)[0];
        assert_eq!(
            (&bounce["recipient"], bounce.get("status")),
            (&json!("\"a>b\"@example.com"), None)
        );
    }

    #[test]
    fn an_id_that_is_not_utf8_is_ignored() {
        let log = "\
Jan  1 10:00:01 out1 postfix/cleanup[311]: 4fXk2m1Qz7: message-id=<c\u{fffd}@news.example.org>
Jan  1 10:00:02 out1 postfix/smtp[312]: 4fXk2m1Qz7: to=<jo@example.com>, \
relay=none, delay=1, dsn=4.3.1, status=deferred (no)";
        assert_eq!(read(log)[0]["message_id"], "4fXk2m1Qz7");
    }

    #[test]
    fn a_message_without_an_id_is_named_by_its_queue_id() {
        let log = "\
Jan  1 10:00:01 out1 postfix/cleanup[311]: 4fXk2m1Qz7: message-id=<>
Jan  1 10:00:02 out1 postfix/smtp[312]: 4fXk2m1Qz7: to=<jo@example.com>, \
relay=none, delay=1, dsn=4.3.1, status=deferred (no)";
        assert_eq!(read(log)[0]["message_id"], "4fXk2m1Qz7");
    }

    #[test]
    fn a_delivery_is_a_fact_if_the_same_message_to_the_same_recipient_failed_before() {
        let id = |queue: &str, id: &str| {
            format!("Jan  1 10:00:01 out1 postfix/cleanup[3]: {queue}: message-id={id}\n")
        };
        let line = |queue: &str, to: &str, status: &str| {
            format!(
                "Jan  1 10:30:00 out1 postfix/smtp[3]: {queue}: to=<{to}>, \
                 relay=mx[192.0.2.7]:25, delay=9, dsn=2.0.0, status={status} (250 2.0.0 ok)\n"
            )
        };
        let (jo, sam) = ("jo@example.com", "sam@example.com");
        let failed = id("ABCDEF", "<m1@example.org>") + &line("ABCDEF", jo, "deferred");
        let fact = |message: &str| {
            LogItem::Fact(json!({
                "type": "delivered", "recipient": jo, "message_id": message,
                "occurred_at": "2026-01-01T09:30:00.000Z",
            }))
        };
        let log = failed.clone() + &line("ABCDEF", jo, "sent");
        assert_eq!(read_items(&log)[1..], [fact("<m1@example.org>")]);
        let without_id = line("ABCDEF", jo, "deferred") + &line("ABCDEF", jo, "sent");
        assert_eq!(read_items(&without_id)[1..], [fact("ABCDEF")]);
        for other in [
            line("ABCDEF", sam, "sent"),
            line("ABCDE0", jo, "sent"),
            id("ABCDEF", "<m2@example.org>") + &line("ABCDEF", jo, "sent"),
        ] {
            assert_eq!(read_items(&(failed.clone() + &other)).len(), 1, "{other}");
        }
    }
}
