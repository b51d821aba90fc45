//! Addresses are personal data. No log ever contains a full address.

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::http;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::smtp::{Act, Received, SmtpPeer, agree};
use harness::wait::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;

mod campaign;

/// A local part that occurs nowhere else.
const SECRET: &str = "very.secret.person";

#[tokio::test]
async fn a_problem_on_our_side_is_logged_once_and_without_an_address() {
    let (redis, prefix) = (redis::url(), redis::unique_prefix());
    let unwilling = |_: &Received| {
        Act::ReplyAndClose("554 5.7.1 nothing for <very.secret.person@private.example>")
    };
    let peer = SmtpPeer::start(unwilling).await;
    let port = free_port();
    let config = format!(
        "[redis]\nurl = \"{redis}\"\nprefix = \"{prefix}\"\n[scheduler]\n\
         listen = \"127.0.0.1:{port}\"\n\
         [[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"{}\"\nport = {}\n",
        peer.address.ip(),
        peer.address.port()
    );
    let _scheduler = Redeliver::start("scheduler", &config);
    let worker = Redeliver::start("worker", &config);
    let waiting = |n: u32| {
        let mut waiting = bounce(&format!("{SECRET}{n}@private.example"), "m1", FULL);
        waiting["occurred_at"] = json!("2020-01-01T00:00:00Z");
        waiting["content"] = json!({"inline": "Subject: x\r\n\r\nx\r\n"});
        waiting
    };
    let bounces = Value::Array((1..=3).map(waiting).collect());
    let post = async || {
        let request = http::client()
            .post(format!("http://127.0.0.1:{port}/v1/bounces"))
            .json(&bounces);
        request
            .send()
            .await
            .ok()
            .filter(|response| response.status() == 202)
    };
    eventually("the scheduler to accept the bounces", post).await;
    peer.wait_for_command("", 3).await;
    let logged = "trouble of our own";
    eventually("the worker to log it", async || {
        worker.log().contains(logged).then_some(())
    })
    .await;
    assert!(worker.log().contains("554 5.7.1"), "{}", worker.log());
    assert!(!worker.log().contains(SECRET), "{}", worker.log());
    worker.signal("-TERM").await;
    eventually("its end", async || {
        worker.log().contains("worker stopped").then_some(())
    })
    .await;
    assert_eq!(worker.log().matches(logged).count(), 1, "{}", worker.log());
}

#[tokio::test]
async fn no_log_contains_a_full_address() {
    let redis = redis::url();
    let prefix = redis::unique_prefix();
    let port = free_port();
    // The reply contains the address, as many replies do.
    let peer = SmtpPeer::start(
        |received| match (received.command.as_str(), received.connection) {
            (command, 1) if command.starts_with("RCPT") => {
                Act::Say("452 4.3.1 no room for <very.secret.person@private.example>")
            }
            (command, _) => agree(command),
        },
    )
    .await;
    let config = format!(
        "[redis]\nurl = \"{redis}\"\nprefix = \"{prefix}\"\n[scheduler]\n\
         listen = \"127.0.0.1:{port}\"\n\
         [log]\nfilter = \"debug\"\n[[route]]\nname = \"default\"\nsender = \"smtp\"\n\
         host = \"{}\"\nport = {}\n",
        peer.address.ip(),
        peer.address.port()
    );
    let more_routes = format!("{config}[[route]]\nname = \"nowhere\"\nsender = \"log\"\n");
    let more_routes =
        format!("{more_routes}[intake.hooks.postmark]\nuser = \"pm\"\npassword = \"pm\"\n");
    let scheduler = Redeliver::start("scheduler", &more_routes);
    let worker = Redeliver::start("worker", &config);
    let address = |n: u32| format!("{SECRET}{n}@private.example");
    let mut waiting = bounce(&address(1), "m1", FULL);
    waiting["occurred_at"] = json!("2020-01-01T00:00:00Z");
    waiting["content"] = json!({"inline": "Subject: x\r\n\r\nx\r\n"});
    let mut nowhere = waiting.clone();
    (nowhere["recipient"], nowhere["route"]) = (json!(address(2)), json!("nowhere"));
    let wrong = bounce(&format!("{SECRET}@@private.example"), "m1", FULL);
    let bounces = Value::Array(vec![
        waiting,
        nowhere,
        wrong,
        bounce(&address(3), "m1", UNKNOWN),
    ]);
    let post = async || {
        let request = http::client()
            .post(format!("http://127.0.0.1:{port}/v1/bounces"))
            .json(&bounces);
        request
            .send()
            .await
            .ok()
            .filter(|response| response.status() == 202)
    };
    eventually("the scheduler to accept the bounces", post).await;
    let complaint = json!({"type": "complaint", "recipient": address(3)});
    let record = json!({"RecordType": "SpamComplaint", "Email": address(4)});
    let misspelt = json!({"RecordType": "Delivery", "Email": format!("{SECRET}@@private.example")});
    let strange = json!({"RecordType": "Teleport", "Email": address(5)});
    for (path, body, status) in [
        ("facts", &complaint, 202),
        ("hooks/postmark", &record, 200),
        ("hooks/postmark", &misspelt, 200),
        ("hooks/postmark", &strange, 202),
        ("hooks/mailgun", &record, 404),
    ] {
        let request = http::client()
            .post(format!("http://127.0.0.1:{port}/v1/{path}"))
            .json(body);
        assert_eq!(
            request
                .basic_auth("pm", Some("pm"))
                .send()
                .await
                .unwrap()
                .status(),
            status,
            "{path}"
        );
    }
    peer.wait_for_command("RCPT", 1).await;
    eventually("the log to name the missing route", async || {
        worker.log().contains("route").then_some(())
    })
    .await;

    for log in [scheduler.log(), worker.log()] {
        assert!(!log.is_empty(), "the log is not empty");
        let shown = log.lines().find(|line| line.contains(SECRET));
        assert_eq!(shown, None);
    }
}

#[tokio::test]
async fn a_changed_standing_is_logged_once_a_minute_with_the_hash_of_its_job() {
    let (redis, prefix, port) = (redis::url(), redis::unique_prefix(), free_port());
    let config = format!(
        "[redis]\nurl = \"{redis}\"\nprefix = \"{prefix}\"\n[scheduler]\n\
         listen = \"127.0.0.1:{port}\"\n[log]\nformat = \"json\"\n"
    );
    let scheduler = Redeliver::start("scheduler", &config);
    let unknown = |n: u32| bounce(&format!("{SECRET}{n}@private.example"), "m1", UNKNOWN);
    let bounces = Value::Array((1..=3).map(unknown).collect());
    hand_in(port, &bounces).await;
    let log = scheduler.log();
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| line.contains("the standing of an address has changed"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1, "the two others are only counted: {log}");
    assert_eq!(lines[0]["standing"], "inactive");
    assert_eq!(lines[0]["destination"], "private.example");
    let job = lines[0]["job"].as_str().unwrap();
    assert!(
        job.len() == 16 && job.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{job}"
    );
    assert!(!log.contains(SECRET), "{log}");
}

/// Returns the lines of a log, as JSON, that have this field.
fn lines_with(log: &str, field: &str) -> Vec<Value> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line.get(field).is_some())
        .collect()
}

/// Posts bounces to the scheduler at this port, as soon as it accepts them.
async fn hand_in(port: u16, bounces: &Value) {
    eventually("the scheduler to accept the bounces", async || {
        let request = http::client()
            .post(format!("http://127.0.0.1:{port}/v1/bounces"))
            .json(bounces);
        let response = request.send().await.ok()?;
        (response.status() == 202).then_some(())
    })
    .await;
}

/// Starts a scheduler, and posts bounces of these recipients, which are due at once. `lines` are
/// added to the configuration, which is returned.
async fn fleet(recipients: &[&str], lines: &str) -> (Redeliver, String) {
    let (redis, prefix, port) = (redis::url(), redis::unique_prefix(), free_port());
    let config = format!(
        "[redis]\nurl = \"{redis}\"\nprefix = \"{prefix}\"\nshards = 4\n[scheduler]\n\
         listen = \"127.0.0.1:{port}\"\n[placement]\nmx = false\n\
         [log]\nformat = \"json\"\n{lines}"
    );
    let scheduler = Redeliver::start("scheduler", &config);
    let bounces = recipients.iter().map(|recipient| {
        let mut waiting = bounce(recipient, "m1", FULL);
        waiting["occurred_at"] = json!("2020-01-01T00:00:00Z");
        waiting["content"] = json!({"inline": "Subject: x\r\n\r\nx\r\n"});
        waiting
    });
    let bounces = Value::Array(bounces.collect());
    hand_in(port, &bounces).await;
    (scheduler, config)
}

/// Returns the settings of a route that sends to this peer.
fn route(peer: &SmtpPeer) -> String {
    let (host, port) = (peer.address.ip(), peer.address.port());
    format!("[[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"{host}\"\nport = {port}\n")
}

#[tokio::test]
async fn each_change_of_a_breaker_is_logged_once_a_minute_with_its_destination() {
    let recipients = AtomicUsize::new(0);
    let peer = SmtpPeer::start(move |received| {
        let is_down = received.is("RCPT") && recipients.fetch_add(1, Ordering::Relaxed) < 2;
        if is_down {
            return Act::Say(FULL);
        }
        agree(&received.command)
    })
    .await;
    let folder = TempDir::new().unwrap();
    let policy = folder.path().join("policy.toml");
    let row = "[[row]]\nname = \"host\"\nstatus = \"4.3.1\"\nscope = \"host\"\n\
        delays = [\"1s\", \"1s\"]\njitter = \"0%\"\nhint = \"ignore\"\nfinal = \"unavailable\"\n";
    std::fs::write(&policy, row).unwrap();
    let lines = format!(
        "[breaker]\nfailures = 1\nopen = \"1s\"\n[policy]\nfile = \"{}\"\n\
         [worker]\npoll_max = \"20ms\"\n",
        policy.display()
    );
    let at = ["one", "two"].map(|domain| format!("{SECRET}@{domain}.example"));
    let (_scheduler, config) = fleet(&[&at[0], &at[1]], &lines).await;
    let worker = Redeliver::start("worker", &(config + &route(&peer)));
    peer.wait_for_command("RCPT", 4).await;
    let closed = |line: &Value| line["breaker"] == "closed";
    let lines = eventually("the breakers to close", async || {
        let lines = lines_with(&worker.log(), "breaker");
        lines.iter().any(closed).then_some(lines)
    })
    .await;
    let words: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["breaker"].as_str())
        .collect();
    assert_eq!(words, ["opened", "probed", "closed"], "{}", worker.log());
    for line in &lines {
        assert_eq!(line["level"], "INFO");
        let destination = line["destination"].as_str().unwrap();
        assert!(
            ["one.example", "two.example"].contains(&destination),
            "{line}"
        );
    }
    assert!(!worker.log().contains(SECRET), "{}", worker.log());
}

#[tokio::test]
async fn a_quarantine_is_logged_once_a_minute_with_the_hash_of_its_job() {
    let peer = SmtpPeer::agreeable_except("RCPT", Act::Hang).await;
    let lines = "[job]\nmax_lapses = 1\n[worker]\npoll_max = \"20ms\"\nlease = \"1s\"\n";
    let at = [1, 2].map(|n| format!("{SECRET}{n}@private.example"));
    let (_scheduler, config) = fleet(&[&at[0], &at[1]], lines).await;
    let config = config + &route(&peer);
    let first = Redeliver::start("worker", &config);
    peer.wait_for_command("RCPT", 2).await;
    first.kill().await;
    let second = Redeliver::start("worker", &config);
    let lines = eventually("a line about the quarantine", async || {
        let lines = lines_with(&second.log(), "job");
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(lines.len(), 1, "the other one is only counted: {lines:?}");
    let (line, log) = (&lines[0], second.log());
    assert!(
        line["message"].as_str().unwrap().contains("quarantine"),
        "{line}"
    );
    assert_eq!(
        (&line["level"], &line["destination"]),
        (&json!("INFO"), &json!("private.example"))
    );
    let job = line["job"].as_str().unwrap();
    assert!(
        job.len() == 16 && job.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{job}"
    );
    assert!(!log.contains(SECRET), "{log}");
}
