//! A delivery report becomes a bounce of exactly the message that it is about, once for each failed
//! recipient. A report to a signed return path cannot be forged. A report is acknowledged only when
//! it is stored.

use std::net::SocketAddr;

use domain::account::Account;
use domain::address::Address;
use domain::job::JobId;
use domain::standing::Standing;
use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::http::{Http, json, problem};
use harness::lmtp::LmtpClient;
use harness::port::free_port;
use harness::process;
use harness::report::{DOMAIN, DeliveryReport, MAIL, config, verp, verp_section};
use harness::world::{DAY, Deployment, Settings, World, id};
use private_servers::redis::PrivateRedis;
use reqwest::Response;
use serde_json::{Value, json};
use tempfile::TempDir;

const JO: &str = "jo@example.com";
const AL: &str = "al@example.com";

async fn post(http: &Http, query: &str, mail: impl Into<reqwest::Body>) -> Response {
    let request = http
        .post(&format!("/v1/dsn{query}"))
        .header("content-type", MAIL)
        .body(mail);
    request.send().await.unwrap()
}

/// Posts a report that must be accepted. Returns the answers by recipient.
async fn post_accepted(http: &Http, query: &str, mail: &str) -> Vec<String> {
    let response = post(http, query, mail.to_owned()).await;
    assert_eq!(response.status(), 202);
    answers(&json(response).await)
}

fn answers(answer: &Value) -> Vec<String> {
    let recipients = answer["recipients"].as_array().unwrap();
    recipients
        .iter()
        .map(|one| one["answer"].as_str().unwrap().to_owned())
        .collect()
}

fn return_path(world: &World, account: &str, message: &str) -> String {
    let job = JobId {
        account: Account::parse(account).unwrap(),
        recipient: id(JO).recipient,
    };
    verp()
        .encode(&job, message, world.now())
        .unwrap()
        .as_str()
        .to_owned()
}

#[tokio::test]
async fn a_recipient_with_unreadable_bytes_is_refused_and_never_mistaken_for_another_address() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let mail = DeliveryReport::failed("j@example.com", UNKNOWN)
        .with_recipient(AL, "failed", UNKNOWN)
        .mail();
    let (before, after) = mail.split_once("j@example.com").unwrap();
    let bytes = [before.as_bytes(), b"j\xf6@example.com", after.as_bytes()].concat();
    let answer = json(post(&http, "", bytes).await).await;
    assert_eq!(answers(&answer), ["refused", "retired"]);
    assert!(
        answer["recipients"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("could not be decoded"),
        "{answer}"
    );
}

#[tokio::test]
async fn only_the_failed_recipients_of_a_report_become_bounces() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let report = DeliveryReport::failed(JO, "452 4.3.1 Insufficient system storage")
        .with_recipient(AL, "failed", UNKNOWN)
        .with_recipient("delayed@example.com", "delayed", "452 4.2.2 Over quota")
        .with_recipient("fine@example.com", "delivered", "250 2.0.0 ok")
        .with_recipient("no mailbox", "failed", UNKNOWN);
    let answer = json(post(&http, "", report.mail()).await).await;
    assert_eq!(answer["kind"], "failed");
    assert_eq!(
        answers(&answer),
        ["scheduled", "retired", "delayed", "delivered", "refused"]
    );
    let first = &answer["recipients"][0];
    assert_eq!(
        (&first["recipient"], &first["status"], &first["code"]),
        (&json!(JO), &json!("4.3.1"), &json!(452))
    );
    assert_eq!(
        (&first["job"], &first["remote_mta"]),
        (&json!(format!("default/{JO}")), &json!("mx.example.com"))
    );
    assert_eq!(world.waiting(JO).await.len(), 1);
    assert_eq!(world.standing(AL).await, Standing::Inactive);
    for untouched in ["delayed@example.com", "fine@example.com"] {
        assert!(
            world.job_if_any(untouched).await.is_none()
                && world.standing_record(untouched).await.is_none()
        );
    }
    assert_eq!(
        post_accepted(&http, "", &report.mail()).await[0],
        "duplicate",
        "the same report comes again"
    );
}

#[tokio::test]
async fn a_report_with_a_date_that_cannot_be_read_counts_from_now_and_says_so() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let mail = format!("Date: soon\r\n{}", DeliveryReport::failed(JO, FULL).mail());
    let answer = json(post(&http, "", mail).await).await;
    assert_eq!(answers(&answer), ["scheduled"]);
    assert_eq!(answer["recipients"][0]["warnings"][0]["field"], "Date");
}

#[tokio::test]
async fn mail_that_reports_no_failure_changes_nothing_and_is_answered_with_its_kind() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let vacation = "From: jo@example.com\r\nSubject: Out of office\r\n\
        Auto-Submitted: auto-replied\r\n\r\nBack soon.\r\n";
    let complaint = "From: abuse@example.com\r\nContent-Type: message/feedback-report\r\n\r\n\
        Feedback-Type: abuse\r\n\
                     Original-Rcpt-To: jo@example.com\r\n";
    let letter = "From: jo@example.com\r\nSubject: Hello\r\n\r\nHow are you?\r\n";
    let delayed = DeliveryReport::default()
        .with_recipient(JO, "delayed", "452 4.2.2 Over quota")
        .mail();
    let relayed = DeliveryReport::default()
        .with_recipient(JO, "relayed", "250 2.1.5 ok, but there is no DSN beyond")
        .mail();
    for (mail, kind) in [
        (vacation, "auto_reply"),
        (complaint, "feedback"),
        (letter, "none"),
        (&delayed, "delayed"),
        (&relayed, "relayed"),
    ] {
        let response = post(&http, "", mail.to_owned()).await;
        assert_eq!(response.status(), 202, "{kind}");
        let answer = json(response).await;
        assert_eq!(answer["kind"], kind);
        assert!(
            answers(&answer).iter().all(|answer| answer == kind),
            "{answer}"
        );
        if kind == "feedback" {
            let reason = answer["recipients"][0]["reason"].as_str().unwrap();
            assert!(reason.contains("nothing proves the report"), "{reason}");
        }
    }
    assert!(world.job_if_any(JO).await.is_none() && world.standing_record(JO).await.is_none());
}

#[tokio::test]
async fn a_complaint_by_mail_suppresses_the_address_if_a_signed_return_path_proves_it() {
    let world = World::new().await;
    let http = Http::serve_with(&world, &config(&verp_section())).await;
    let complaint = |kind: &str, path: &str, recipient: &str| {
        format!(
            "From: fbl@example.com\r\nContent-Type: multipart/report; boundary=b\r\n\r\n\
             --b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: {kind}\r\n\
             Original-Rcpt-To: {recipient}\r\n\r\n\
             --b\r\nContent-Type: message/rfc822\r\n\r\nReturn-Path: <{path}>\r\n\
             Subject: hello\r\n\r\nhi\r\n--b--\r\n"
        )
    };
    let path = return_path(&world, "default", "<c42.9@news.example.org>");
    for (kind, path, recipient) in [
        ("not-spam", path.as_str(), JO),
        ("abuse", "news@example.org", JO),
        ("abuse", &path, AL),
    ] {
        let mail = complaint(kind, path, recipient);
        assert_eq!(
            post_accepted(&http, "", &mail).await,
            ["feedback"],
            "{kind}"
        );
        assert!(world.standing_record(recipient).await.is_none(), "{kind}");
    }
    let mail = complaint("abuse", &path, JO);
    assert_eq!(post_accepted(&http, "", &mail).await, ["suppressed"]);
    assert_eq!(world.standing(JO).await, Standing::Suppressed);
}

#[tokio::test]
async fn a_complaint_by_mail_suppresses_the_address_if_it_came_to_a_trusted_address() {
    let world = World::new().await;
    let mut config = config("");
    config.lmtp.complaints_to = vec![Address::parse("fbl@bounce.example.org").unwrap()];
    let http = Http::serve_with(&world, &config).await;
    let complaint = "From: fbl@example.com\r\nContent-Type: message/feedback-report\r\n\r\n\
                     Feedback-Type: abuse\r\nOriginal-Rcpt-To: jo@example.com\r\n";
    for (query, answer) in [
        ("?to=other@bounce.example.org", "feedback"),
        ("?to=FBL@bounce.example.org", "suppressed"),
    ] {
        assert_eq!(
            post_accepted(&http, query, complaint).await,
            [answer],
            "{query}"
        );
    }
    assert_eq!(world.standing(JO).await, Standing::Suppressed);
}

#[tokio::test]
async fn a_report_finds_its_message_by_return_path_or_envelope_id_or_message_id() {
    let world = World::new().await;
    let http = Http::serve_with(&world, &config(&verp_section())).await;
    let mut waiting = bounce(JO, "<c42.9@news.example.org>", FULL);
    waiting["account"] = "acme".into();
    world.post_bounce(waiting).await;
    let path = return_path(&world, "acme", "<c42.9@news.example.org>");
    let (token, _) = path.split_once('@').unwrap();
    let report = || DeliveryReport::failed(JO, FULL);
    let forwarded = || {
        DeliveryReport::failed("elsewhere@example.net", FULL)
            .with_original_field(&format!("To: Jo <{JO}>"))
    };
    for (why, query, report, job) in [
        (
            "a return path from the envelope of the report",
            format!("?to={}", path.to_uppercase()),
            report(),
            "acme",
        ),
        (
            "a return path in the header",
            String::new(),
            report().delivered_to(&path),
            "acme",
        ),
        (
            "a forwarded address",
            format!("?to={path}"),
            forwarded(),
            "acme",
        ),
        (
            "a signed envelope id",
            String::new(),
            report().with_envelope_id(token),
            "acme",
        ),
        (
            "an envelope id",
            "?account=acme".to_owned(),
            report().with_envelope_id("c42.9@news.example.org"),
            "acme",
        ),
        (
            "a message id",
            "?account=acme".to_owned(),
            report().with_original_field("Message-ID: <c42.9@news.example.org>"),
            "acme",
        ),
    ] {
        let answer = json(post(&http, &query, report.mail()).await).await;
        let answer = &answer["recipients"][0];
        assert_eq!(answer["answer"], "duplicate", "{why}: {answer}");
        assert_eq!(answer["job"], format!("{job}/{JO}"), "{why}");
    }
    // Two reports about a message that no longer waits use the same message id.
    let gone = format!("?to={}", return_path(&world, "acme", "m7"));
    assert_eq!(
        post_accepted(&http, &gone, &report().mail()).await,
        ["joined"]
    );
    assert_eq!(
        post_accepted(&http, &gone, &report().mail()).await,
        ["duplicate"]
    );
}

#[tokio::test]
async fn if_signed_return_paths_are_required_a_report_without_a_valid_one_changes_nothing() {
    let world = World::new().await;
    let required = config(&format!("{}required = true\n", verp_section()));
    let http = Http::serve_with(&world, &required).await;
    let signed = return_path(&world, "default", "m1");
    let (local, _) = signed.split_once('@').unwrap();
    let mut forged = local.as_bytes().to_vec();
    forged[20] = if forged[20] == b'a' { b'b' } else { b'a' };
    let forged = format!("{}@{DOMAIN}", String::from_utf8(forged).unwrap());
    for (why, query, recipient) in [
        ("no return path", String::new(), JO),
        ("a forged return path", format!("?to={forged}"), JO),
        (
            "a return path of another domain",
            format!("?to={local}@example.org"),
            JO,
        ),
        (
            "a return path for another recipient",
            format!("?to={signed}"),
            AL,
        ),
    ] {
        let response = post(
            &http,
            &query,
            DeliveryReport::failed(recipient, UNKNOWN).mail(),
        )
        .await;
        assert_eq!(response.status(), 422, "{why}");
        assert_eq!(answers(&json(response).await), ["refused"], "{why}");
    }
    world.clock.advance(32 * DAY);
    let late = post(
        &http,
        &format!("?to={signed}"),
        DeliveryReport::failed(JO, UNKNOWN).mail(),
    )
    .await;
    assert_eq!(late.status(), 422, "too old");
    assert!(world.standing_record(JO).await.is_none() && world.standing_record(AL).await.is_none());
    let now = format!("?to={}", return_path(&world, "default", "m1"));
    assert_eq!(
        post_accepted(&http, &now, &DeliveryReport::failed(JO, UNKNOWN).mail()).await,
        ["retired"]
    );
}

#[tokio::test]
async fn a_request_that_is_not_a_report_is_refused_with_what_to_do() {
    let world = World::new().await;
    let http = Http::serve_with(&world, &config("[scheduler]\nbody_max = \"1KiB\"\n")).await;
    let json_body = http.post("/v1/dsn").json(&json!({})).send().await.unwrap();
    assert!(
        problem(json_body, 415).await["detail"]
            .as_str()
            .unwrap()
            .contains(MAIL)
    );
    problem(post(&http, "", "").await, 400).await;
    problem(post(&http, "", "x".repeat(1_025)).await, 413).await;
    assert_eq!(
        problem(post(&http, "?account=a%2Fb", "x").await, 400).await["field"],
        "account"
    );
    problem(post(&http, "?from=jo", "x").await, 400).await;
}

/// A scheduler with an LMTP listener.
async fn serve_lmtp(world: &World, sections: &str) -> (Http, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = config(&format!(
        "[intake.lmtp]\nlisten = \"{address}\"\n{sections}"
    ));
    (Http::serve_with(world, &config).await, address)
}

#[tokio::test]
async fn over_lmtp_each_recipient_gets_its_own_answer() {
    let world = World::new().await;
    let (_http, address) = serve_lmtp(&world, &verp_section()).await;
    let mut client = LmtpClient::connect(address).await;
    let (first, second) = (
        return_path(&world, "default", "m1"),
        return_path(&world, "acme", "m2"),
    );
    let other = verp().encode(&id(AL), "m3", world.now()).unwrap();
    let report = DeliveryReport::failed(JO, FULL).mail();
    let replies = client
        .deliver(
            &[&first, "jo@example.com", &second, other.as_str()],
            &report,
        )
        .await;
    let codes: Vec<&str> = replies.iter().map(|reply| &reply[..3]).collect();
    assert_eq!(codes, ["250", "250", "550"], "{replies:?}");
    assert_eq!(world.waiting(JO).await.len(), 1);
    let acme = JobId {
        account: Account::parse("acme").unwrap(),
        ..id(JO)
    };
    assert!(world.store.address(&acme).await.unwrap().job.is_some());
    assert!(client.say("QUIT").await.starts_with("221 "));
}

#[tokio::test]
async fn over_lmtp_a_report_is_accepted_only_when_it_is_stored() {
    let folder = TempDir::new().unwrap();
    let server = PrivateRedis::durable(folder.path())
        .await
        .expect("redis-server is installed");
    let world = World::with(Settings {
        redis: Deployment::Server(server.url()),
        ..Settings::default()
    })
    .await;
    let (_http, address) = serve_lmtp(&world, "").await;
    let mut client = LmtpClient::connect(address).await;
    let report = DeliveryReport::failed(JO, FULL).mail();
    server.stop().await;
    let replies = client.deliver(&["returned@example.org"], &report).await;
    assert!(replies[0].starts_with("451 4.3.0 "), "{replies:?}");
    let _server = PrivateRedis::durable(folder.path())
        .await
        .expect("redis-server is installed");
    assert!(client.deliver(&["returned@example.org"], &report).await[0].starts_with("250 "));
    assert_eq!(world.waiting(JO).await.len(), 1);
}

#[tokio::test]
async fn every_resource_of_an_lmtp_client_is_bounded() {
    let world = World::new().await;
    let bounds = "message_max = \"1KiB\"\nrecipients_max = 2\nconnections = 1\nidle_max = \"1s\"\n";
    let (_http, address) = serve_lmtp(&world, bounds).await;
    let mut client = LmtpClient::connect(address).await;
    for (line, code) in [
        ("MAIL FROM:<>", "503"),
        ("EHLO client.example", "500"),
        ("LHLO client.example", "250"),
        ("RCPT TO:<a@example.org>", "503"),
        ("DATA", "503"),
        ("MAIL FROM:<> SIZE=2000", "552"),
        ("MAIL FROM:<>", "250"),
        ("MAIL FROM:<>", "503"),
        ("RCPT TO:<a@example.org>", "250"),
        ("RCPT TO:<b@example.org>", "250"),
        ("RCPT TO:<c@example.org>", "452"),
        ("STARTTLS", "502"),
        (&"x".repeat(1 << 20), "500"),
        ("RSET", "250"),
        ("DATA", "503"),
    ] {
        let reply = client.say(line).await;
        assert!(
            reply.starts_with(code),
            "{}: {reply}",
            &line[..line.len().min(40)]
        );
    }
    let replies = client
        .deliver(
            &["a@example.org", "b@example.org"],
            &"x\r\n".repeat(1 << 18),
        )
        .await;
    assert!(
        replies.len() == 2 && replies.iter().all(|reply| reply.starts_with("552 5.3.4 ")),
        "{replies:?}"
    );
    // A client that sends nothing is disconnected. Then another client can have the only
    // connection.
    assert!(client.read_reply().await.starts_with("421 4.4.2 "));
    let mut next = LmtpClient::connect(address).await;
    for _ in 0..20 {
        assert!(next.say("NONSENSE").await.starts_with("500 "));
    }
    assert!(next.say("NONSENSE").await.starts_with("421 4.5.0 "));
    assert_eq!(next.read_reply().await, "", "the connection is closed");
}

#[tokio::test]
async fn the_command_prints_the_content_of_reports_and_submits_them() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("report.eml");
    std::fs::write(&file, DeliveryReport::failed(JO, FULL).mail()).unwrap();
    let file = file.to_str().unwrap();
    let printed = process::run(&["dsn", file]).await;
    let line: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(
        (&line["recipient"], &line["class"], &line["status"]),
        (&json!(JO), &json!("soft"), &json!("4.3.1"))
    );

    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let letter = folder.path().join("letter.eml");
    std::fs::write(&letter, DeliveryReport::failed("nobody", UNKNOWN).mail()).unwrap();
    for (arguments, code) in [
        (vec!["dsn", "--submit", "--api", &nowhere, file], 75),
        (
            vec![
                "dsn",
                "--submit",
                "--api",
                http.base(),
                letter.to_str().unwrap(),
            ],
            65,
        ),
        (
            vec![
                "dsn",
                "--submit",
                "--api",
                http.base(),
                "--account",
                "acme",
                file,
            ],
            0,
        ),
    ] {
        let done = process::run(&arguments).await;
        assert_eq!(
            done.status.code(),
            Some(code),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    let acme = JobId {
        account: Account::parse("acme").unwrap(),
        ..id(JO)
    };
    assert!(world.store.address(&acme).await.unwrap().job.is_some());
}
