//! If it is configured, the whole mail that a report returns is the content of the retries, but
//! only if the report came to a return path that was signed for its recipient. A bounce that lacks
//! its content gets a warning in its answer. A signed return path decides the account.

use std::net::SocketAddr;

use domain::account::Account;
use domain::job::{ContentRef, JobId};
use harness::bounce::{FULL, bounce};
use harness::http::{Http, NDJSON, json, json_lines};
use harness::port::free_port;
use harness::postfix::{self, Postfix};
use harness::report::{DOMAIN, DeliveryReport, MAIL, config, verp, verp_section};
use harness::smtp::{Act, SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{World, id};
use serde_json::Value;

const JO: &str = "jo@example.com";

const RELAY: &str = "[[route]]\nname = \"relay\"\nsender = \"smtp\"\nhost = \"127.0.0.1\"\n\
    [[route]]\nname = \"platform\"\nsender = \"log\"\n";

/// A configuration with a relay as its default route.
fn settings(more: &str) -> config::model::Config {
    config(&format!(
        "worker.route = \"relay\"\n{}{more}\n{RELAY}",
        verp_section()
    ))
}

/// A job of the account `acme`.
fn of_acme(address: &str) -> JobId {
    JobId {
        account: Account::parse("acme").unwrap(),
        ..id(address)
    }
}

/// Returns the return path of a message of `acme` to Jo.
fn return_path(world: &World) -> String {
    let path = verp().encode(&of_acme(JO), "<m1@news.example.org>", world.now());
    path.unwrap().as_str().to_owned()
}

/// A report that returns the mail with this text as it is.
fn report(text: &str) -> String {
    let report = DeliveryReport::failed(JO, FULL).with_original_field(
        "Return-Path: <x@bounce.example.org>\r\nMessage-ID: <m1@news.example.org>\r\n\
         Subject: Hello",
    );
    let mail = report.mail();
    let (before, after) = mail.rsplit_once("\r\n--=_r--").unwrap();
    format!("{before}\r\n{text}\r\n--=_r--{after}").replace("text/rfc822-headers", "message/rfc822")
}

/// Posts a report, and returns the answer about its recipient.
async fn post(http: &Http, to: &str, mail: String) -> Value {
    let request = http
        .post(&format!("/v1/dsn?to={to}"))
        .header("content-type", MAIL)
        .body(mail);
    json(request.send().await.unwrap()).await["recipients"][0].take()
}

/// Returns the content of the only message of a job.
async fn content(world: &World, job: &JobId) -> Option<ContentRef> {
    let mut found = world.store.address(job).await.unwrap().job.unwrap();
    assert_eq!(found.job.messages.len(), 1);
    found.job.messages.remove(0).content
}

#[tokio::test]
async fn returned_mail_is_the_content_only_if_its_report_came_to_a_signed_return_path() {
    let inline = |text: &str| Some(ContentRef::Inline(text.to_owned()));
    let whole = "Message-ID: <m1@news.example.org>\r\nSubject: Hello\r\n\r\nHow are you?";
    let on = "[intake]\ncontent_from_dsn = true";
    let long = "How are you? ".repeat(10_000);
    for (more, signed, text, expected, warned) in [
        (on, true, "How are you?", inline(whole), false),
        (on, false, "How are you?", None, true),
        ("", true, "How are you?", None, true),
        (on, true, long.as_str(), None, true),
    ] {
        let world = World::new().await;
        let http = Http::serve_with(&world, &settings(more)).await;
        let (to, job) = if signed {
            (return_path(&world), of_acme(JO))
        } else {
            (format!("anybody@{DOMAIN}"), id(JO))
        };
        let answer = post(&http, &to, report(text)).await;
        assert_eq!(answer["answer"], "scheduled", "{answer}");
        assert_eq!(content(&world, &job).await, expected, "{more} {signed}");
        let warns = |field: &Value| field["field"] == "content";
        let warnings = answer["warnings"].as_array().cloned().unwrap_or_default();
        assert_eq!(warnings.iter().any(warns), warned, "{answer}");
    }
}

#[tokio::test]
async fn the_mail_that_a_real_postfix_returns_is_the_content() {
    let (world, address) = (
        World::new().await,
        SocketAddr::from(([127, 0, 0, 1], free_port())),
    );
    let lmtp = format!("[intake]\ncontent_from_dsn = true\nlmtp.listen = \"{address}\"");
    let _http = Http::serve_with(&world, &settings(&lmtp)).await;
    let peer = SmtpPeer::start(|received| match received.command.as_str() {
        command if command.starts_with("RCPT") => Act::Say("452 4.2.2 Over quota"),
        command => agree(command),
    })
    .await;
    let postfix = Postfix::start(postfix::Settings {
        transports: vec![
            (
                "example.com".to_owned(),
                format!("smtp:[{}]:{}", peer.address.ip(), peer.address.port()),
            ),
            (DOMAIN.to_owned(), format!("lmtp:inet:{address}")),
        ],
        // The first failure is the last.
        main: vec!["maximal_queue_lifetime = 0".to_owned()],
        ..postfix::Settings::default()
    })
    .await;
    let message = "Message-ID: <m1@news.example.org>\r\nSubject: Hello\r\n\r\nHello.";
    postfix.send(&return_path(&world), &[JO], message).await;
    let found = eventually("the bounce", async || {
        world.store.address(&of_acme(JO)).await.ok()?.job
    })
    .await;
    let Some(ContentRef::Inline(mail)) = &found.job.messages[0].content else {
        panic!("the message has content")
    };
    assert!(
        mail.contains("\r\nSubject: Hello\r\n") && mail.trim_end().ends_with("\r\n\r\nHello."),
        "{mail}"
    );
    assert!(
        !mail.to_ascii_lowercase().contains("return-path:"),
        "{mail}"
    );
}

#[tokio::test]
async fn a_bounce_without_content_on_a_route_that_needs_it_gets_a_warning() {
    let world = World::new().await;
    let http = Http::serve_with(&world, &settings("")).await;
    let mut lines = String::new();
    for (n, (route, has_content)) in [
        (None, false),
        (Some("relay"), false),
        (Some("platform"), false),
        (None, true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut item = bounce(JO, &format!("m{n}"), FULL);
        item["route"] = route.into();
        item["content"] = Value::Null;
        if has_content {
            item["content"] = serde_json::json!({"inline": "Subject: hi\r\n\r\nhi\r\n"});
        }
        lines.push_str(&format!("{item}\n"));
    }
    let posted = http
        .post("/v1/bounces")
        .header("content-type", NDJSON)
        .body(lines);
    let answers = json_lines(posted.send().await.unwrap()).await;
    let warned: Vec<bool> = answers
        .iter()
        .map(|answer| answer["warnings"][0]["field"] == "content")
        .collect();
    assert_eq!(warned, [true, true, false, false], "{answers:?}");
}

#[tokio::test]
async fn a_bounce_of_mail_from_a_signed_return_path_belongs_to_the_account_that_it_carries() {
    let world = World::new().await;
    let http = Http::serve_with(&world, &settings("")).await;
    let mut item = bounce(JO, "m1", FULL);
    item["envelope_from"] = return_path(&world).into();
    let answer = json(http.post_json(&item).await).await;
    assert_eq!(answer["job"], format!("acme/{JO}"), "{answer}");
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn a_fact_about_mail_from_a_signed_return_path_belongs_to_the_account_that_it_carries() {
    let world = World::new().await;
    let http = Http::serve_with(&world, &settings("")).await;
    let mut item = bounce(JO, "m1", FULL);
    item["account"] = "acme".into();
    assert_eq!(
        json(http.post_json(&item).await).await["answer"],
        "scheduled"
    );
    let fact = serde_json::json!({
        "type": "delivered", "recipient": JO, "message_id": "m1",
        "envelope_from": return_path(&world),
    });
    let posted = http.post("/v1/facts").json(&fact).send().await.unwrap();
    let answer = json(posted).await;
    let job = world.store.address(&of_acme(JO)).await.unwrap().job;
    assert!(job.is_none(), "{answer}");
}
