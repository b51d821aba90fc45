//! The parts of an attempt that is made by HTTP or by a program, or that reaches no host.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::platform::{Action, Platform};

use super::*;

/// Starts a fleet that sends by this route, with one bounce, and returns the part of the first
/// attempt that has this name.
async fn part_of_an_attempt(collector: &Collector, route: &str, name: &str) -> Received {
    let fleet = Fleet::start(&telemetry(collector, "http")).await;
    let _worker = fleet.worker(route);
    fleet.post(RECIPIENT, SAMPLED).await;
    let part = collector.wait_for(name, 1).await.remove(0);
    assert_eq!(kind(&part), SpanKind::Client);
    let attempt = collector.wait_for("process", 1).await.remove(0);
    assert_eq!(part.span.parent_span_id, attempt.span.span_id);
    assert!(!collector.contains(LOCAL_PART), "no address is sent");
    part
}

fn seconds(part: &Received, key: &str) -> f64 {
    part.attribute(key).expect(key).parse().unwrap()
}

#[tokio::test]
async fn a_request_to_a_platform_is_a_span_with_its_server_url_status_and_times() {
    for (status, error) in [(200, None), (500, Some("unanswered"))] {
        let answer = move |_: &_| Action::Answer(status, None, String::new());
        let (collector, platform) = (Collector::http().await, Platform::start(answer).await);
        let folder = TempDir::new().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "whsec_c2VjcmV0LW9mLXRoZS10ZXN0LWRvLW5vdC11c2U=").unwrap();
        let base = format!("http://{}", platform.address);
        let route = format!(
            "sender = \"http\"\nurl = \"{base}/send?token=hidden\"\nsecret_file = \"{}\"",
            secret.display()
        );
        let http = part_of_an_attempt(&collector, &route, "http").await;
        let attribute = |key| http.attribute(key).unwrap_or_default();
        assert_eq!(
            attribute("server.address"),
            platform.address.ip().to_string()
        );
        assert_eq!(
            attribute("server.port"),
            platform.address.port().to_string()
        );
        assert_eq!(attribute("http.request.method"), "POST");
        assert_eq!(attribute("http.response.status_code"), status.to_string());
        assert_eq!(attribute("url.full"), format!("{base}/send"));
        assert!(seconds(&http, "http.phase.answer.duration") > 0.0);
        assert!(seconds(&http, "http.phase.body.duration") >= 0.0);
        assert_eq!(http.attribute("error.type").as_deref(), error);
        assert_eq!(is_error(&http), error.is_some());
        assert!(!collector.contains("hidden"), "no token is sent");
    }
}

#[tokio::test]
async fn a_program_that_sends_is_a_span_with_its_name_and_exit_code() {
    let (collector, folder) = (Collector::http().await, TempDir::new().unwrap());
    let program = folder.path().join("send-mail");
    fs::write(&program, "#!/bin/sh\ncat > /dev/null\nexit 75\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let route = format!(
        "sender = \"command\"\nprogram = \"{}\"\narguments = [\"{{recipient}}\"]",
        program.display()
    );
    let command = part_of_an_attempt(&collector, &route, "command").await;
    let attribute = |key| command.attribute(key).unwrap_or_default();
    assert_eq!(attribute("process.executable.name"), "send-mail");
    assert_eq!(attribute("process.exit.code"), "75");
    assert_eq!(attribute("error.type"), "deferred");
    assert!(is_error(&command));
}

#[tokio::test]
async fn a_conversation_that_no_connection_was_made_for_names_its_server() {
    let (collector, port) = (Collector::http().await, free_port());
    let route = format!("sender = \"smtp\"\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"");
    let smtp = part_of_an_attempt(&collector, &route, "smtp").await;
    let attribute = |key| smtp.attribute(key).unwrap_or_default();
    assert_eq!(attribute("server.address"), "127.0.0.1");
    assert_eq!(attribute("server.port"), port.to_string());
    assert_eq!(attribute("smtp.phase"), "connect");
    assert_eq!(attribute("error.type"), "connect");
    assert!(seconds(&smtp, "smtp.phase.connect.duration") >= 0.0);
}

#[tokio::test]
async fn the_wait_for_a_connection_is_a_figure_of_its_own() {
    let collector = Collector::http().await;
    // The first message keeps the only connection for more than half a second.
    let answer = Act::Drip("250 2.0.0 Ok", 50);
    let peer = SmtpPeer::agreeable_except(".", answer).await;
    let fleet = Fleet::start(&telemetry(&collector, "http")).await;
    for n in 1..=2 {
        fleet.post(&format!("user{n}@example.com"), SAMPLED).await;
    }
    // A relay alone would get one attempt at a time. Another route leads to more.
    let other = "[[route]]\nname = \"other\"\nsender = \"log\"";
    let _worker = fleet.worker(&format!("{}\nconnections = 1\n{other}", relay(&peer)));
    let conversations = collector.wait_for("smtp", 2).await;
    let mut waits: Vec<f64> = conversations
        .iter()
        .map(|smtp| seconds(smtp, "smtp.connection.wait.duration"))
        .collect();
    waits.sort_by(f64::total_cmp);
    assert!(waits[0] < 0.2 && waits[1] > 0.2, "{waits:?}");
    // The wait has a span too, which ends before the conversation begins.
    collector.wait_for("wait", 1).await;
    let conversations = conversations.iter();
    let connected = conversations
        .clone()
        .filter(|smtp| smtp.attribute("smtp.phase.connect.duration").is_some());
    assert_eq!(connected.count(), 1);
    let waited = conversations
        .filter(|smtp| smtp.attribute("smtp.phase.wait.duration").is_some())
        .count();
    assert_eq!(waited, 0, "it is no phase of the conversation");
}
