//! Pictures of jobs, as exact text.

use anstream::adapter::strip_str;
use chrono::{DateTime, NaiveDateTime};
use domain::clock::Timestamp;
use serde_json::{Value, json};

use super::chain::Chain;
use super::draw::{Notice, View, draw};

const JOB: &str = "acme/jo@example.com";
const FULL: &str = "452 4.2.2 Mailbox full (in reply to RCPT TO command)";

/// Draws a job at noon on 24 November 2026 (UTC), one hour east of it. Returns the text without
/// colours.
fn drawn(address: &Value, events: &[Value], notice: Option<Notice>, width: usize) -> String {
    strip_str(&colored(address, events, notice, width)).to_string()
}

fn colored(address: &Value, events: &[Value], notice: Option<Notice>, width: usize) -> String {
    let view = View {
        width,
        now: Timestamp::parse("2026-11-24T12:00:00Z").unwrap(),
        to_local: an_hour_east,
    };
    let chain = Chain::read(JOB.to_owned(), address, events);
    format!("\n{}", draw(&chain, notice, &view))
}

fn an_hour_east(at: Timestamp) -> NaiveDateTime {
    DateTime::from_timestamp_millis(at.ms() + 3_600_000)
        .unwrap()
        .naive_utc()
}

/// Returns an event in the `n`-th entry of the journal.
fn event(n: u32, kind: &str, time: &str, fields: Value) -> Value {
    let mut event = json!({
        "type": kind, "id": format!("0:{n}-0:0"), "time": format!("2026-11-{time}:00Z"),
        "job": JOB, "destination": "google",
    });
    let Value::Object(fields) = fields else {
        panic!("the fields of an event are an object");
    };
    event.as_object_mut().unwrap().extend(fields);
    event
}

fn scheduled() -> Value {
    let fields = json!({
        "attempt": 0, "message": "m1", "reply": "452 4.2.2 Mailbox full",
        "policy": "mailbox-full", "occurred_at": "2026-11-21T09:30:00Z",
    });
    event(1, "JobScheduled", "21T09:31", fields)
}

fn deferred(attempt: u32, time: &str) -> Value {
    let fields = json!({
        "attempt": attempt, "message": "m1", "reply": FULL, "policy": "mailbox-full",
        "late_ms": 12,
        "transcript": {
            "phase": "rcpt", "host": "mx1.example.com", "address": "192.0.2.1:25",
            "tls": "TLSv1.3",
            "took_ms": [["connect", 12], ["greeting", 3], ["hello", 0], ["tls", 40],
                ["hello", 0], ["mail", 5], ["rcpt", 1180]],
        },
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "trace_url": "https://traces.example.org/0af7651916cd43dd8448eb211c80319c",
    });
    event(attempt + 1, "AttemptDeferred", time, fields)
}

fn no_job() -> Value {
    json!({"job": null})
}

fn waiting_job() -> Value {
    let tried = |attempt: u32, at: &str| {
        json!({"attempt": attempt, "at": format!("2026-11-{at}:00Z"), "reply": FULL,
            "trace_id": "0af7651916cd43dd8448eb211c80319c"})
    };
    json!({"job": {
        "destination": "google", "attempt": 3, "max_attempts": 4, "policy": "mailbox-full",
        "due": "2026-12-01T10:00:00Z", "leased_until": null, "quarantined_since": null,
        "waits_for": {"what": "due", "until": "2026-12-01T10:00:00Z"},
        "messages": [{}, {}],
        "history": [tried(0, "21T09:30"), tried(1, "21T10:00"), tried(2, "22T10:00"),
            tried(3, "24T10:00")],
    }})
}

#[test]
fn a_waiting_job_is_drawn_up_to_its_next_attempt() {
    let events = [
        scheduled(),
        deferred(1, "21T10:00"),
        deferred(2, "22T10:00"),
        deferred(3, "24T10:00"),
    ];
    assert_eq!(
        drawn(&waiting_job(), &events, None, 80),
        r#"
acme/jo@example.com at google
attempt 4 of 4 is due Tue 1 Dec 2026 11:00, in 6d22h
messages: 2 wait; policy row: mailbox-full

  #  not to scale      ├─────┼────────────┼───────────────┼────────────────────┤
  0  Sat 21 Nov 10:30  ●  the platform's own attempt
                       452 4.2.2 Mailbox full
  1  Sat 21 Nov 11:00  ╰─30m─●  1.24s  at mx1.example.com TLSv1.3
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       ░▒▀▄████████  ░ connect 12ms  ▒ greeting 3ms  ▀ tls 40ms
                                     ▄ mail 5ms  █ rcpt 1.18s
                       https://traces.example.org/0af7651916cd43dd8448eb211c80319c
  2  Sun 22 Nov 11:00        ╰────24h─────●  1.24s  at mx1.example.com TLSv1.3
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       ░▒▀▄████████  ░ connect 12ms  ▒ greeting 3ms  ▀ tls 40ms
                                     ▄ mail 5ms  █ rcpt 1.18s
                       https://traces.example.org/0af7651916cd43dd8448eb211c80319c
  3  Tue 24 Nov 11:00                     ╰──────48h──────●  1.24s
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       at mx1.example.com TLSv1.3
                       ░▒▀▄████████  ░ connect 12ms  ▒ greeting 3ms  ▀ tls 40ms
                                     ▄ mail 5ms  █ rcpt 1.18s
                       https://traces.example.org/0af7651916cd43dd8448eb211c80319c
  4  Tue  1 Dec 11:00                                     ╰╌╌╌╌╌╌╌╌╌7d╌╌╌╌╌╌╌╌╌○
                                                                    due in 6d22h
"#
    );
    let wide = drawn(&waiting_job(), &events, None, 140);
    assert!(
        wide.contains(
            "               ░▒▀▄████████  \
             ░ connect 12ms  ▒ greeting 3ms  ▀ tls 40ms  ▄ mail 5ms  █ rcpt 1.18s\n"
        ),
        "{wide}"
    );
    assert!(
        wide.contains("○  due in 6d22h\n"),
        "there is room beside the axis: {wide}"
    );
    let narrow = drawn(&waiting_job(), &events, None, 60);
    let is_narrow = |line: &str| line.contains("https:") || line.chars().count() <= 60;
    assert!(narrow.lines().all(is_narrow), "{narrow}");
}

#[test]
fn attempts_whose_events_are_deleted_are_drawn_from_the_history() {
    let events = [deferred(3, "24T10:00")];
    assert_eq!(
        drawn(&waiting_job(), &events, Some(Notice::PhasesAreGone), 80),
        r#"
acme/jo@example.com at google
attempt 4 of 4 is due Tue 1 Dec 2026 11:00, in 6d22h
messages: 2 wait; policy row: mailbox-full

  #  not to scale      ├─────┼────────────┼───────────────┼────────────────────┤
  0  Sat 21 Nov 10:30  ●  the platform's own attempt
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       trace 0af7651916cd43dd8448eb211c80319c
  1  Sat 21 Nov 11:00  ╰─30m─●
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       trace 0af7651916cd43dd8448eb211c80319c
  2  Sun 22 Nov 11:00        ╰────24h─────●
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       trace 0af7651916cd43dd8448eb211c80319c
  3  Tue 24 Nov 11:00                     ╰──────48h──────●  1.24s
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       at mx1.example.com TLSv1.3
                       ░▒▀▄████████  ░ connect 12ms  ▒ greeting 3ms  ▀ tls 40ms
                                     ▄ mail 5ms  █ rcpt 1.18s
                       https://traces.example.org/0af7651916cd43dd8448eb211c80319c
  4  Tue  1 Dec 11:00                                     ╰╌╌╌╌╌╌╌╌╌7d╌╌╌╌╌╌╌╌╌○
                                                                    due in 6d22h

the first attempts have no phases, because their events are deleted
(journal.keep)
"#
    );
}

#[test]
fn a_job_that_has_ended_is_drawn_from_its_events() {
    let joined = event(9, "MessageJoined", "22T11:00", json!({"message": "m2"}));
    let replaced = json!({"message": "m0", "reason": "replaced"});
    let replaced = event(9, "MessageDropped", "22T11:00", replaced);
    let delivered = |n: &str| {
        let fields = json!({
            "attempt": 2, "message": "m1", "reply": "250 2.0.0 Ok", "late_ms": 700_000,
            "id": format!("0:20-0:{n}"),
        });
        event(20, "MessageDelivered", "22T12:00", fields)
    };
    let closed = json!({"attempt": 2, "id": "0:20-0:2"});
    let events = [
        scheduled(),
        deferred(1, "21T10:00"),
        joined,
        replaced,
        delivered("0"),
        delivered("1"),
        event(20, "JobClosed", "22T12:00", closed),
    ];
    assert_eq!(
        drawn(&no_job(), &events, None, 80),
        r#"
acme/jo@example.com at google
ended Sun 22 Nov 2026 13:00, after 27h
messages: 2 delivered, 1 dropped (replaced); policy row: mailbox-full

  #  not to scale      ├───────┼───────────────────────────────────────────────┤
  0  Sat 21 Nov 10:30  ●  the platform's own attempt
                       452 4.2.2 Mailbox full
  1  Sat 21 Nov 11:00  ╰──30m──●  1.24s  at mx1.example.com TLSv1.3
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       ░▒▀▄████████  ░ connect 12ms  ▒ greeting 3ms  ▀ tls 40ms
                                     ▄ mail 5ms  █ rcpt 1.18s
                       https://traces.example.org/0af7651916cd43dd8448eb211c80319c
  2  Sun 22 Nov 13:00          ╰──────────────────────26h──────────────────────✓
                       250 2.0.0 Ok
                       messages: 2 delivered  claimed 12m late
"#
    );
}

#[test]
fn what_happened_between_attempts_is_drawn_without_a_number() {
    let retired = json!({
        "attempt": 1, "reply": FULL, "policy": "mailbox-full", "standing": "unavailable",
        "until": "2026-12-22T10:00:00.000Z", "id": "0:20-0:2",
    });
    let dropped = json!({"message": "m1", "reason": "retired", "id": "0:20-0:1"});
    let last = json!({"attempt": 1, "reply": FULL, "id": "0:20-0:0"});
    let events = [
        scheduled(),
        event(7, "JobLapsed", "21T10:01", json!({})),
        event(8, "JobQuarantined", "21T10:02", json!({})),
        event(9, "JobReinstated", "22T09:58", json!({})),
        event(20, "AttemptDeferred", "22T10:00", last),
        event(20, "MessageDropped", "22T10:00", dropped),
        event(20, "AddressRetired", "22T10:00", retired),
    ];
    assert_eq!(
        drawn(&no_job(), &events, None, 80),
        r#"
acme/jo@example.com at google
ended Sun 22 Nov 2026 11:00, after 25h; the address is unavailable until
2026-12-22
messages: 1 dropped (retired); policy row: mailbox-full

  #  not to scale      ├───────────┼─────┼──────────────────────────────┼──────┤
  0  Sat 21 Nov 10:30  ●  the platform's own attempt
                       452 4.2.2 Mailbox full
     Sat 21 Nov 11:01  ╰────31m────◇  a worker was lost with the job
     Sat 21 Nov 11:02              ╰─1m──◇  the job is in quarantine
     Sun 22 Nov 10:58                    ╰─────────────24h──────────────◇
                       released from quarantine
  1  Sun 22 Nov 11:00                                                   ╰──2m──✗
                       452 4.2.2 Mailbox full (in reply to RCPT TO command)
                       the address is unavailable until 2026-12-22
                       messages: 1 dropped (retired)
"#
    );
}

#[test]
fn a_change_of_the_policy_row_is_shown_at_the_attempt_that_it_came_with() {
    let mut second = deferred(2, "22T10:00");
    second["policy"] = json!("mailbox-disabled");
    second["transcript"] = json!(null);
    let events = [scheduled(), deferred(1, "21T10:00"), second];
    let text = drawn(&waiting_job(), &events, None, 100);
    let has_row: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("policy row"))
        .collect();
    assert_eq!(has_row.len(), 2, "one in the head: {text}");
    assert!(
        has_row[1].ends_with("●  policy row: mailbox-disabled"),
        "{text}"
    );
}

#[test]
fn a_message_that_a_relay_accepted_waits_for_a_bounce() {
    let accepted = json!({"attempt": 1, "message": "m1", "reply": "250 2.0.0 Ok"});
    let events = [
        scheduled(),
        event(2, "MessageAccepted", "24T10:00", accepted),
    ];
    let mut address = waiting_job();
    address["job"]["waits_for"] = json!({"what": "silence", "until": "2026-11-25T10:00:00Z"});
    address["job"]["due"] = json!("2026-11-25T10:00:00Z");
    address["job"]["history"] = json!([]);
    assert_eq!(
        drawn(&address, &events, None, 80),
        r#"
acme/jo@example.com at google
waits for a bounce of what a relay accepted; without one it counts as delivered
Wed 25 Nov 2026 11:00
messages: 2 wait; policy row: mailbox-full

  #  to scale          ├─────────────────────────────────────────┼─────────────┤
  0  Sat 21 Nov 10:30  ●  the platform's own attempt
                       452 4.2.2 Mailbox full
  1  Tue 24 Nov 11:00  ╰──────────────────3d1h───────────────────◐
                       250 2.0.0 Ok
                       accepted by a relay: a bounce may come
     Wed 25 Nov 11:00                                            ╰╌╌╌╌╌24h╌╌╌╌╌○
                                                   delivered, if no bounce comes
"#
    );
}

#[test]
fn the_middle_of_a_very_long_chain_is_left_out() {
    let mut events = vec![scheduled()];
    events.extend((0..99).map(|n| {
        let time = format!("2{}T{:02}:{:02}", 2 + n / 60, 10, n % 60);
        event(100 + n, "JobLapsed", &time, json!({}))
    }));
    let text = drawn(&no_job(), &events, None, 80);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.iter().filter(|line| line.contains('◇')).count(), 39);
    assert!(text.contains("… 60 more, which --json prints"), "{text}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}

#[test]
fn a_reply_cannot_control_the_terminal() {
    let mut scheduled = scheduled();
    scheduled["reply"] = json!("452 \u{1b}]0;owned\u{7}\u{1b}[2J full\r\nfor now");
    let text = colored(&no_job(), &[scheduled], None, 80);
    assert!(
        text.contains("452  ]0;owned  [2J full  for now"),
        "{text:?}"
    );
}

#[test]
fn a_long_reply_is_wrapped_and_never_cut_off() {
    let reply = "451 4.7.1 Try again later; the reason is explained in full at \
                 https://help.example.com/a/very/long/path/to/a/page/about/rates \
                 (in reply to RCPT TO command)";
    let mut scheduled = scheduled();
    scheduled["reply"] = json!(reply);
    let text = drawn(&no_job(), &[scheduled], None, 80);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(!text.contains('…'), "{text}");
    let letters = |text: &str| text.split_whitespace().collect::<String>();
    assert!(letters(&text).contains(&letters(reply)), "{text}");
}

#[test]
fn the_first_step_has_the_trace_of_the_platform() {
    let url = "https://traces.example.org/4bf92f3577b34da6a3ce929d0e0e4736";
    let mut address = waiting_job();
    address["job"]["messages"][0] = json!({"trace_id": "4bf9", "trace_url": url});
    address["job"]["history"][0]["trace_id"] = json!(null);
    let text = drawn(&address, &[], None, 80);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|line| line.starts_with("  0 "))
        .unwrap();
    assert_eq!(lines[first + 2].trim(), url, "{text}");
    let mut scheduled = scheduled();
    scheduled["trace_id"] = json!("4bf92f3577b34da6a3ce929d0e0e4736");
    let text = drawn(&no_job(), &[scheduled], None, 80);
    assert!(
        text.contains("trace 4bf92f3577b34da6a3ce929d0e0e4736\n"),
        "also after the job: {text}"
    );
}

#[test]
fn the_head_has_the_conversation_id_that_traces_are_searched_for() {
    let mut address = waiting_job();
    address["conversation_id"] = json!("0123456789abcdef");
    let text = drawn(&address, &[scheduled()], None, 80);
    let line = "\nconversation id in traces: 0123456789abcdef\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn failures_and_deliveries_differ_in_color() {
    let text = colored(&waiting_job(), &[scheduled()], None, 80);
    assert!(text.contains("\u{1b}[1m\u{1b}[33m●\u{1b}[0m"), "{text:?}");
}
