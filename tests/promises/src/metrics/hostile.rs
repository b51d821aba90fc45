//! Whatever comes in, the labels of metrics have few values, and these are plain words.

use std::collections::{BTreeMap, BTreeSet};

use harness::bounce::{FULL, bounce};
use harness::http::client;
use harness::smtp::SmtpPeer;
use harness::wait::eventually;
use regex::Regex;
use serde_json::{Value, json};

use super::{Fleet, complaints, scrape};

/// How many bounces of each kind come in.
const COUNT: usize = 200;

/// How many values the label `destination` may have: the busiest, the configured providers, and
/// `other`.
const DESTINATIONS_MAX: usize = 50 + 40 + 1;

/// How many values any other label may have. The most has `script`.
const OTHERS_MAX: usize = 40;

/// Text that would end a label, begin another line, or be an address.
const HOSTILE: &str = "x\"} 1\n# TYPE y counter\ny{z=\"jo@example.com";

/// Returns bounces with many destinations, routes, accounts, statuses and names of all kinds.
fn bounces() -> Vec<Value> {
    let mut bounces = Vec::new();
    for n in 0..COUNT {
        let mail = |recipient: String| {
            let mut mail = bounce(&recipient, &format!("<m{n}@example.org>"), FULL);
            mail["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
            mail
        };
        bounces.push(mail(format!("jo@host{n}.example")));
        let mut routed = mail(format!("kim{n}@example.com"));
        routed["route"] = json!(format!("route-{n}"));
        bounces.push(routed);
        let mut named = mail(format!("lee{n}@{HOSTILE}{n}"));
        named["account"] = json!(format!("{HOSTILE}{n}"));
        bounces.push(named);
        let mut status = mail(format!("max{n}@example.com"));
        status["reply"] = json!(format!("{n} {n}.{n}.{n} {HOSTILE}"));
        bounces.push(status);
        let mut hostile = mail(format!("ann{n}@example.com"));
        hostile["route"] = json!(format!("{HOSTILE}{n}"));
        bounces.push(hostile);
        let long = "a".repeat(60);
        bounces.push(mail(format!("pat@{long}.{long}.{long}.h{n}.example")));
        bounces.push(mail(format!("pat@bücher{n}.example")));
        bounces.push(mail(format!("\"p at\"@[192.0.2.{n}]")));
    }
    bounces
}

/// Returns the values of each label.
fn values(classic: &str) -> BTreeMap<String, BTreeSet<String>> {
    let label = Regex::new(r#"([a-z_]+)="((?:[^"\\]|\\.)*)""#).unwrap();
    let mut values = BTreeMap::<String, BTreeSet<String>>::new();
    for line in classic.lines().filter(|line| !line.starts_with('#')) {
        for found in label.captures_iter(line) {
            let of_label = values.entry(found[1].to_owned()).or_default();
            of_label.insert(found[2].to_owned());
        }
    }
    values
}

#[tokio::test]
async fn hostile_bounces_make_few_series_and_no_strange_label() {
    let peer = SmtpPeer::agreeable().await;
    let fleet = Fleet::start(&peer, "[placement]\nmx = false\n").await;
    for batch in bounces().chunks(200) {
        let posted = client()
            .post(format!("{}/v1/bounces", fleet.scheduler))
            .bearer_auth(HOSTILE.replace('\n', ""))
            .json(batch);
        assert!(posted.send().await.unwrap().status().is_success());
    }
    // Routes that do not exist, and what is no address, are refused. The others are tried.
    eventually("the attempts", async || {
        let (text, _) = scrape(&fleet.worker, "").await;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("redeliver_attempts_total{"));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        (counts.sum::<f64>() >= 2.0 * COUNT as f64).then_some(())
    })
    .await;
    let word = Regex::new(r"^[A-Za-z0-9_.+-]+$").unwrap();
    for base in [&fleet.scheduler, &fleet.worker] {
        let (text, _) = scrape(base, "").await;
        assert_eq!(complaints(&text), "");
        for (label, values) in values(&text) {
            let most = match &*label {
                "destination" => DESTINATIONS_MAX,
                _ => OTHERS_MAX,
            };
            assert!(values.len() <= most, "{label}: {values:?}");
            for value in values {
                assert!(word.is_match(&value), "{label}: {value}");
            }
        }
    }
}
