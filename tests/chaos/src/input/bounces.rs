//! Sends bounces in each of the ways in which Redeliver accepts them.

use domain::clock::Timestamp;
use harness::http::NDJSON;
use harness::report::DeliveryReport;
use reqwest::{Method, RequestBuilder};
use ring::hmac;
use serde_json::{Value, json};

use super::{Tries, lmtp, record_answers, request};
use crate::config::HOOK_KEY;
use crate::plan::{ACCOUNT, Bounce};
use crate::record::{Ms, Way, now_ms};
use crate::world::World;

/// The answer that is recorded if a way only confirms that it accepted the bounce.
pub(crate) const TAKEN: &str = "taken";

/// Sends bounces until they are answered.
pub(super) async fn send(world: &World, scheduler: usize, way: Way, bounces: &[Bounce]) {
    let first_at = now_ms();
    let (answers, tries) = match way {
        Way::Object | Way::Array | Way::Lines => {
            by_http(world, scheduler, way, bounces, first_at).await
        }
        Way::Hook => {
            // This service sends each event in a separate webhook.
            for bounce in bounces {
                let (answer, tries) = by_hook(world, scheduler, bounce, first_at).await;
                record(
                    world,
                    way,
                    std::slice::from_ref(bounce),
                    &[answer],
                    tries,
                    first_at,
                );
            }
            return;
        }
        Way::Report => by_report(world, scheduler, &bounces[0]).await,
        Way::Stream => by_stream(world, scheduler, bounces, first_at).await,
    };
    record(world, way, bounces, &answers, tries, first_at);
}

fn record(
    world: &World,
    way: Way,
    bounces: &[Bounce],
    answers: &[String],
    tries: u32,
    first_at: Ms,
) {
    if let Err(error) = record_answers(world, way, bounces, answers, tries, first_at) {
        world.recorder.wrong.push(error.to_string());
    }
}

fn wire(bounce: &Bounce, at: Ms) -> Value {
    let Bounce {
        message,
        recipient,
        reply,
        route,
    } = bounce;
    let content = format!(
        "Message-ID: {message}\r\nFrom: a@chaos.test\r\nSubject: x\r\n\r\n.a dot first\r\n"
    );
    json!({
        "recipient": recipient, "reply": reply, "message_id": message, "account": ACCOUNT,
        "route": route,
        "envelope_from": "a@chaos.test", "occurred_at": Timestamp::from_ms(at).to_string(),
        "content": {"inline": content},
    })
}

async fn by_http(
    world: &World,
    scheduler: usize,
    way: Way,
    bounces: &[Bounce],
    at: Ms,
) -> (Vec<String>, u32) {
    let items: Vec<Value> = bounces.iter().map(|bounce| wire(bounce, at)).collect();
    let (body, kind) = match way {
        Way::Object => (items[0].to_string(), "application/json"),
        Way::Array => (Value::from(items).to_string(), "application/json"),
        _ => (
            items.iter().map(|item| format!("{item}\n")).collect(),
            NDJSON,
        ),
    };
    let build = |request: RequestBuilder| request.header("content-type", kind).body(body.clone());
    let mut tries = Tries::from(scheduler);
    loop {
        let answered = request(
            world,
            tries.next().await,
            Method::POST,
            "/v1/bounces",
            build,
            &[202],
        )
        .await;
        if let Some(answers) = answered.and_then(|(_, text)| read_answers(way, &text)) {
            return (answers, tries.made);
        }
    }
}

/// The answers of one response. `None` if the response is incomplete.
fn read_answers(way: Way, text: &str) -> Option<Vec<String>> {
    let items: Vec<Value> = match way {
        Way::Object => vec![serde_json::from_str(text).ok()?],
        Way::Array => serde_json::from_str(text).ok()?,
        _ => text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .ok()?,
    };
    Some(
        items
            .iter()
            .map(|item| item["answer"].as_str().unwrap_or("nothing").to_owned())
            .collect(),
    )
}

async fn by_hook(world: &World, scheduler: usize, bounce: &Bounce, at: Ms) -> (String, u32) {
    let (timestamp, token) = (
        (at / 1_000).to_string(),
        format!("token of {}", bounce.message),
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, HOOK_KEY.as_bytes());
    let tag = hmac::sign(&key, format!("{timestamp}{token}").as_bytes());
    let signature: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (code, said) = bounce.reply.split_once(' ').unwrap_or((bounce.reply, ""));
    let severity = if bounce.is_permanent() {
        "permanent"
    } else {
        "temporary"
    };
    let event = json!({
        "event": "failed", "severity": severity, "recipient": bounce.recipient,
        "timestamp": at as f64 / 1_000.0,
        "message": {"headers": {"message-id": bounce.message.trim_matches(['<', '>'])}},
        "delivery-status": {"code": code.parse::<u16>().unwrap_or_default(), "message": said},
    });
    let signed = json!({"timestamp": timestamp, "token": token, "signature": signature});
    let body = json!({"signature": signed, "event-data": event});
    let build = |request: RequestBuilder| request.json(&body);
    let mut tries = Tries::from(scheduler);
    loop {
        let answered = request(
            world,
            tries.next().await,
            Method::POST,
            "/v1/hooks/mailgun",
            build,
            &[200],
        )
        .await;
        if let Some(answer) = answered.and_then(|(_, text)| read_hook_answer(&text)) {
            return (answer, tries.made);
        }
    }
}

/// The answer to the only event of a webhook. `None` if the response is incomplete.
fn read_hook_answer(text: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(text).ok()?;
    // A token is valid once. `replayed` means that an earlier try was accepted and its answer was
    // lost.
    let replayed = || (answer["replayed"] == 1).then(|| TAKEN.to_owned());
    answer["answers"][0]["answer"]
        .as_str()
        .map(str::to_owned)
        .or_else(replayed)
}

async fn by_report(world: &World, scheduler: usize, bounce: &Bounce) -> (Vec<String>, u32) {
    let report = DeliveryReport::failed(&bounce.recipient, bounce.reply);
    let mail = report
        .with_original_field(&format!("Message-ID: {}", bounce.message))
        .mail();
    let mut tries = Tries::from(scheduler);
    loop {
        let address = world.schedulers[tries.next().await % world.schedulers.len()].lmtp;
        match lmtp::deliver(address, "bounces@return.chaos.test", &mail).await {
            Ok(reply) if reply.starts_with('2') => return (vec![TAKEN.to_owned()], tries.made),
            Ok(reply) if reply.starts_with('5') => {
                world
                    .recorder
                    .wrong
                    .push(format!("a report by LMTP was answered {reply}"));
            }
            _ => {}
        }
    }
}

async fn by_stream(
    world: &World,
    scheduler: usize,
    bounces: &[Bounce],
    at: Ms,
) -> (Vec<String>, u32) {
    let mut tries_max = 0;
    for bounce in bounces {
        let entry = wire(bounce, at).to_string();
        let mut tries = Tries::from(scheduler);
        loop {
            tries.next().await;
            if world
                .store
                .add_durably(&["XADD", "rd:intake", "*", "bounce", &entry])
                .await
                .is_ok()
            {
                break;
            }
        }
        tries_max = tries_max.max(tries.made);
    }
    (vec![TAKEN.to_owned(); bounces.len()], tries_max)
}
