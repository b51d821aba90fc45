//! Postfix's log: reads the lines of its delivery agents that end in `status=deferred (…)` or
//! `status=bounced (…)`. Sender and Message-ID are on other lines of the same queue id, so they
//! are remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::LazyLock;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDateTime, TimeDelta};
use domain::clock::Timestamp;
use regex::Regex;
use serde_json::{Value, json};

use super::{LogReader, instant};

/// How many queued messages are remembered. Beyond that the oldest are forgotten, and their bounces
/// have no sender.
const QUEUED_MAX: usize = 200_000;

/// A line: the time, the queue id of the message, and the rest.
static LINE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"^(?:<\d+>)?",
        r"(?P<when>\d{4}-\d\d-\d\dT\S+|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) ",
        r"\S+ [\w./-]+/[\w-]+\[\d+\]: (?P<queue>[0-9A-Za-z]{5,32}): (?P<rest>.*)$",
    ))
});

static DELIVERY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"^to=<(?P<to>[^>]+)>, .*?relay=(?P<relay>[^,]*), ",
        r".*?dsn=(?P<dsn>[245]\.\d{1,3}\.\d{1,3}), ",
        r"status=(?:deferred|bounced) \((?P<reply>.*)\)$",
    ))
});

static SENDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^from=<(?P<from>[^>]*)>, size="));
static MESSAGE_ID: LazyLock<Regex> = LazyLock::new(|| pattern(r"^message-id=(?P<id>\S+)$"));

/// The text that Postfix adds to a reply that it quotes.
static COMMAND: LazyLock<Regex> =
    LazyLock::new(|| pattern(r" \(in reply to [A-Z ]+(?:command)?\)$"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant that the tests compile")
}

/// Reads Postfix's log.
#[derive(Debug)]
pub struct Postfix {
    now: Timestamp,
    offset: FixedOffset,
    queued: HashMap<String, Queued>,
    order: VecDeque<String>,
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
            queued: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn queued(&mut self, queue: &str) -> &mut Queued {
        if !self.queued.contains_key(queue) {
            if self.order.len() == QUEUED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.queued.remove(&oldest);
            }
            self.order.push_back(queue.to_owned());
        }
        self.queued.entry(queue.to_owned()).or_default()
    }

    fn bounce(&self, when: &str, queue: &str, delivery: &regex::Captures<'_>) -> Value {
        let known = self.queued.get(queue);
        let id = known
            .and_then(|queued| queued.message_id.as_deref())
            .unwrap_or(queue);
        let mut bounce = json!({
            "recipient": &delivery["to"],
            "reply": COMMAND.replace(&delivery["reply"], ""),
            "status": &delivery["dsn"],
            "message_id": id,
        });
        if let Some(sender) = known.and_then(|queued| queued.sender.as_deref()) {
            bounce["envelope_from"] = sender.into();
        }
        if let Some(at) = self.instant(when) {
            bounce["occurred_at"] = at.into();
        }
        let host = delivery["relay"].split('[').next().unwrap_or_default();
        if !matches!(host, "" | "none" | "local" | "virtual") {
            bounce["remote_mta"] = host.into();
        }
        bounce
    }

    fn instant(&self, when: &str) -> Option<String> {
        if let Ok(at) = DateTime::parse_from_rfc3339(when) {
            return instant(at.timestamp_millis());
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
        instant(at.timestamp_millis())
    }
}

impl LogReader for Postfix {
    fn bounces(&mut self, line: &str) -> Result<Vec<Value>, String> {
        // Other programs write to the same log, and Postfix also writes lines about no message.
        let Some(found) = LINE.captures(line) else {
            return Ok(Vec::new());
        };
        let (when, queue, rest) = (&found["when"], &found["queue"], &found["rest"]);
        if let Some(delivery) = DELIVERY.captures(rest) {
            return Ok(vec![self.bounce(when, queue, &delivery)]);
        }
        if let Some(sender) = SENDER.captures(rest) {
            self.queued(queue).sender = Some(sender["from"].to_owned());
        } else if let Some(id) = MESSAGE_ID.captures(rest) {
            // An id that was not valid UTF-8 is no use: after the replacement of its bytes, other
            // messages could have the same id.
            let id = Some(&id["id"]).filter(|id| !id.contains(char::REPLACEMENT_CHARACTER));
            self.queued(queue).message_id = id.map(str::to_owned);
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> Postfix {
        // 2026-01-02T00:00:00Z
        Postfix::new(
            Timestamp::from_ms(1_767_312_000_000),
            FixedOffset::east_opt(3_600).unwrap(),
        )
    }

    fn read(log: &str) -> Vec<Value> {
        let mut reader = reader();
        log.lines()
            .flat_map(|line| reader.bounces(line).unwrap())
            .collect()
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
                    "host mx1.example.com[192.0.2.7] said: 452 4.3.1 Insufficient system storage",
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
        for other in ["sent", "expired", "deliverable"] {
            assert_eq!(read(&line(other)), Vec::<Value>::new(), "{other}");
        }
        assert_eq!(
            read("Jan  1 10:00:01 out1 sshd[4]: to=<x@y>, status=bounced (no)\n\nnonsense"),
            Vec::<Value>::new()
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
    fn the_number_of_remembered_messages_is_bounded() {
        let mut reader = reader();
        for n in 0..QUEUED_MAX + 10 {
            reader.queued(&format!("{n:010}"));
        }
        assert_eq!(
            (reader.queued.len(), reader.order.len()),
            (QUEUED_MAX, QUEUED_MAX)
        );
    }
}
