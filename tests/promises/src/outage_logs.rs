//! During an outage, a process logs one line of each kind per minute. A server that is no Redis is
//! called so.

use domain::clock::Clock;
use harness::bounce::{FULL, bounce};
use harness::http::client;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::smtp::SmtpPeer;
use harness::wait::eventually;
use private_servers::redis::PrivateRedis;
use serde_json::Value;
use system::clock::SystemClock;

/// How many requests fail during the outage.
const REQUESTS: usize = 100;

/// Returns the lines of the log at level WARN or ERROR, in short.
fn troubles(process: &Redeliver) -> Vec<String> {
    let log = process.log();
    let lines = log.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let is_trouble = ["WARN", "ERROR"].contains(&line["level"].as_str()?);
        is_trouble.then(|| line.to_string())
    });
    lines.collect()
}

fn config(redis: &str, port: u16) -> String {
    format!(
        "[redis]\nurl = \"{redis}\"\nconnect_timeout = \"200ms\"\nresponse_timeout = \"200ms\"\n\
         [scheduler]\nlisten = \"127.0.0.1:{port}\"\n[worker]\npoll_max = \"10ms\"\n\
         [log]\nformat = \"json\"\n"
    )
}

#[tokio::test]
async fn requests_that_fail_during_an_outage_are_one_line_and_a_count() {
    let redis = PrivateRedis::volatile().await.unwrap();
    let port = free_port();
    let config = config(&redis.url(), port);
    let scheduler = Redeliver::start("scheduler", &config);
    let worker = Redeliver::start_with(&["worker", "--allow-log"], &config);
    let url = format!("http://127.0.0.1:{port}");
    let http = client();
    let ready = format!("{url}/readyz");
    eventually("a worker", async || {
        let answer = http.get(&ready).send().await.ok()?;
        (answer.status() == 200 && worker.log().contains("worker started")).then_some(())
    })
    .await;
    redis.stop().await;
    let streams: Vec<_> = (0..10)
        .map(|_| tokio::spawn(http.get(format!("{url}/v1/events")).send()))
        .collect();
    let item = bounce("jo@example.com", "m1", FULL);
    for _ in 0..REQUESTS {
        let post = http.post(format!("{url}/v1/bounces")).json(&item);
        assert_eq!(post.send().await.unwrap().status(), 503);
    }
    eventually("the worker to notice", async || {
        worker
            .log()
            .contains("jobs cannot be claimed")
            .then_some(())
    })
    .await;
    let began = SystemClock.now();
    eventually("some more tries", async || {
        (SystemClock.now().since(began).as_secs() >= 2).then_some(())
    })
    .await;
    for (process, kinds_max) in [(&scheduler, 8), (&worker, 4)] {
        let lines = troubles(process);
        assert!(
            (1..=kinds_max).contains(&lines.len()),
            "{} lines: {lines:#?}",
            lines.len()
        );
    }
    let requests = |line: &String| line.contains("a request could not be processed for now");
    let lines = troubles(&scheduler);
    assert_eq!(lines.into_iter().filter(requests).count(), 1);
    streams.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_server_that_is_no_redis_is_called_so() {
    let mail_server = SmtpPeer::agreeable().await;
    let redis = format!("redis://{}", mail_server.address);
    let worker = Redeliver::start_with(&["worker", "--allow-log"], &config(&redis, free_port()));
    let line = eventually("a line of the log", async || {
        troubles(&worker)
            .into_iter()
            .find(|line| line.contains("waiting for redis"))
    })
    .await;
    assert!(
        line.contains("does not answer as Redis does") && !line.contains("parse error"),
        "{line}"
    );
}
