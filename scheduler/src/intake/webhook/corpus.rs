//! Recorded requests of mail services, measured where they are there:
//! `shared/corpus/esp_events.jsonl` beside a folder above this one. They are others' and not part
//! of the project, so the test passes without them, and says so.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use axum::http::{HeaderMap, HeaderValue, header};
use config::hooks::{Hook, Service};
use domain::clock::Timestamp;
use domain::reply::Reply;
use domain::status::StatusClass;
use serde_json::Value;

use super::{Event, Said, read};

const SERVICES: [(&str, Service); 5] = [
    ("Amazon SES", Service::Ses),
    ("SendGrid", Service::SendGrid),
    ("Mailgun", Service::Mailgun),
    ("Postmark", Service::Postmark),
    ("SparkPost", Service::SparkPost),
];

#[test]
fn recorded_requests_mean_what_others_make_of_them() {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut files = above.map(|folder| folder.join("shared/corpus/esp_events.jsonl"));
    let Some(file) = files.find(|file| file.exists()) else {
        // Not by a macro: what those print is shown of tests that fail only.
        return io::stderr()
            .write_all(
                b"NOT MEASURED: there is no shared/corpus/esp_events.jsonl beside the repository\n",
            )
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
    println!("{right} of {all} recorded events mean the same; the others: {wrong:#?}");
    assert!(right * 100 >= all * 97, "{right} of {all}: {wrong:#?}");
}

fn compare(event: &Event, expected: &Value, service: Service) -> Result<(), String> {
    let (kind, item) = match &event.said {
        Said::Bounce(item) => ("bounce", item),
        Said::Fact(item) => (item["type"].as_str().unwrap(), item),
        Said::Ignored(_) => ("ignored", &Value::Null),
        Said::Unknown(_) => ("unknown", &Value::Null),
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
        return Err(format!("is {kind} and should be {wanted}"));
    }
    if item.is_null() {
        return Ok(());
    }
    if let Some(recipient) = expected["recipient"].as_str() {
        let told = item["recipient"].as_str().unwrap_or_default();
        if told.trim_matches(['<', '>']) != recipient {
            return Err(format!("is for {told}"));
        }
    }
    // SES tells when it happened; what others make of it is when SNS sent it.
    if let (Some(at), true) = (
        expected["timestamp"].as_str().and_then(Timestamp::parse),
        service != Service::Ses,
    ) && item["occurred_at"].as_str().and_then(Timestamp::parse) != Some(at)
    {
        return Err(format!("happened at {}", item["occurred_at"]));
    }
    if kind == "bounce" {
        let reply = item["reply"].as_str().unwrap_or_default();
        if let Some(said) = expected["mta_response"].as_str()
            && !reply.contains(said.trim())
        {
            return Err(format!("was answered {reply}"));
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
