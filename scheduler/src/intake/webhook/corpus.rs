//! Recorded requests of mail services: compares what we read with what another library reads. They
//! are in `shared/corpus/esp_events.jsonl`, next to the repository or further up. They belong to
//! others and are not part of the project, so the test also passes without them, with a notice.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use axum::http::{HeaderMap, HeaderValue, header};
use config::hooks::{Hook, Service};
use domain::clock::Timestamp;
use domain::reply::Reply;
use domain::status::StatusClass;
use serde_json::Value;

use super::event::{Event, EventMeaning};
use super::read;

const SERVICES: [(&str, Service); 5] = [
    ("Amazon SES", Service::Ses),
    ("SendGrid", Service::SendGrid),
    ("Mailgun", Service::Mailgun),
    ("Postmark", Service::Postmark),
    ("SparkPost", Service::SparkPost),
];

#[test]
fn recorded_requests_are_read_as_another_library_reads_them() {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut files = above.map(|folder| folder.join("shared/corpus/esp_events.jsonl"));
    let Some(file) = files.find(|file| file.exists()) else {
        // Written directly, because the output of print macros is shown only if a test fails.
        return io::stderr()
            .write_all(b"NOT MEASURED: no shared/corpus/esp_events.jsonl next to the repository\n")
            .unwrap();
    };
    let text = fs::read_to_string(file).unwrap();
    let (mut right, mut all, mut wrong) = (0, 0, Vec::new());
    for case in text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
    {
        let Some((_, service)) = SERVICES.iter().find(|(name, _)| case["esp"] == *name) else {
            continue;
        };
        let request = &case["request"];
        let content_type =
            HeaderValue::from_str(request["content_type"].as_str().unwrap()).unwrap();
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
        let events = read(
            *service,
            &Hook::default(),
            &headers,
            request["body"].as_str().unwrap().as_bytes(),
        );
        let events = events.unwrap_or_default();
        let expected = case["expected"].as_array().unwrap();
        all += expected.len();
        for (n, expected) in expected.iter().enumerate() {
            match events
                .get(n)
                .map_or(Err("no such event".to_owned()), |event| {
                    compare(event, expected, *service)
                }) {
                Ok(()) => right += 1,
                Err(why) => wrong.push(format!("{}: {why}", case["id"])),
            }
        }
    }
    println!("{right} of {all} recorded events are read the same; the others: {wrong:#?}");
    assert!(right * 100 >= all * 97, "{right} of {all}: {wrong:#?}");
}

fn compare(event: &Event, expected: &Value, service: Service) -> Result<(), String> {
    let (kind, item) = match &event.meaning {
        EventMeaning::Bounce(item) => ("bounce", item),
        EventMeaning::Fact(item) => (item["type"].as_str().unwrap(), item),
        EventMeaning::Ignored(_) => ("ignored", &Value::Null),
        EventMeaning::Unknown(_) | EventMeaning::Unreadable(_) => ("unknown", &Value::Null),
    };
    let wanted = match (
        expected["event_type"].as_str().unwrap(),
        expected["reject_reason"].as_str(),
    ) {
        ("delivered", _) => "delivered",
        ("opened" | "clicked", _) => "engaged",
        ("complained", _) | ("rejected", Some("spam")) => "complaint",
        ("unsubscribed", _) | ("rejected", Some("unsubscribed")) => "unsubscribe",
        ("bounced" | "deferred" | "rejected", _) => "bounce",
        ("queued" | "sent" | "subscribed", _) => "ignored",
        (other, _) => other,
    };
    if kind != wanted {
        return Err(format!("is {kind} instead of {wanted}"));
    }
    if item.is_null() {
        return Ok(());
    }
    if let Some(recipient) = expected["recipient"].as_str() {
        let found = item["recipient"].as_str().unwrap_or_default();
        if found.trim_matches(['<', '>']) != recipient {
            return Err(format!("is for {found}"));
        }
    }
    // Of SES events we read the time of the event. The other library reads when SNS sent them.
    if let (Some(at), true) = (
        expected["timestamp"].as_str().and_then(Timestamp::parse),
        service != Service::Ses,
    ) && item["occurred_at"].as_str().and_then(Timestamp::parse) != Some(at)
    {
        return Err(format!("happened at {}", item["occurred_at"]));
    }
    if kind == "bounce" {
        let reply = item["reply"].as_str().unwrap_or_default();
        if let Some(response) = expected["mta_response"].as_str()
            && !reply.contains(response.trim())
        {
            return Err(format!("has the reply {reply}"));
        }
        let status = item["status"]
            .as_str()
            .and_then(|status| status.parse().ok());
        let reply = Reply {
            status,
            ..Reply::parse(reply)
        };
        if expected["event_type"] == "deferred" && reply.class() != Some(StatusClass::Transient) {
            return Err(format!("is not soft: {reply}"));
        }
    }
    Ok(())
}
