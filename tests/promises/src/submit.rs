//! `redeliver submit` reads a file of any size, with bounces and facts, and reports the number of
//! answers of each kind. It writes every refused line to a file, and continues after an
//! interruption.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, bounce};
use harness::http::Http;
use harness::process;
use harness::world::World;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

mod facts;

const JO: &str = "jo@example.com";

/// A folder with a file to submit.
struct Input {
    folder: TempDir,
    http: Http,
}

impl Input {
    async fn new(world: &World, content: &str) -> Self {
        let input = Self {
            folder: TempDir::new().unwrap(),
            http: Http::serve(world).await,
        };
        fs::write(input.file(), content).unwrap();
        input
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("bounces")
    }

    fn file_with(&self, end: &str) -> PathBuf {
        self.folder.path().join(format!("bounces.{end}"))
    }

    async fn submit(&self, options: &[&str]) -> Output {
        let file = self.file();
        let file = file.to_str().unwrap();
        process::run(
            &[
                &["submit", "--json", "--api", self.http.base(), file],
                options,
            ]
            .concat(),
        )
        .await
    }
}

fn answers(output: &Output) -> Value {
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["answers"].clone()
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers
        .map(|n| format!("{}\n", bounce(&format!("user{n}@example.com"), "m1", FULL)))
        .collect()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn each_line_is_answered_and_refused_lines_are_kept_unchanged() {
    let world = World::new().await;
    let refused = r#"{"recipient": "no address",  "reply": "452 4.3.1"}"#;
    let input = Input::new(
        &world,
        &format!("{}\n{refused}\nnot JSON\n{}", lines(0..3), lines(0..1)),
    )
    .await;
    let output = input.submit(&[]).await;
    assert_eq!(output.status.code(), Some(1), "something was refused");
    assert_eq!(
        answers(&output),
        json!({"scheduled": 3, "duplicate": 1, "refused": 2})
    );
    assert_eq!(
        text(&input.file_with("refused")),
        format!("{refused}\nnot JSON\n")
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("line 5: recipient:") && stderr.contains("line 6:"),
        "{stderr}"
    );
    assert!(
        !input.file_with("progress").exists(),
        "no progress file is left"
    );
}

#[tokio::test]
async fn an_interrupted_submission_continues_after_the_last_answer() {
    let world = World::new().await;
    let input = Input::new(&world, &lines(0..4_500)).await;
    // The scheduler answers the first batch, and after that it cannot be reached.
    let short_lived = Http::serve(&world).await;
    let proxy = cut_after_one_answer(short_lived.base()).await;
    let file = input.file();
    let file = file.to_str().unwrap();
    let output = process::run(&[
        "submit",
        "--patience",
        "1ms",
        "--parallel",
        "1",
        "--api",
        &proxy,
        file,
    ])
    .await;
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("--resume"), "{stderr}");
    let kept: Value = serde_json::from_str(&text(&input.file_with("progress"))).unwrap();
    let scheduled = kept["answers"]["scheduled"].as_u64().unwrap();
    assert!((1..4_500).contains(&scheduled), "{kept}");

    let again = input.submit(&[]).await;
    assert!(
        String::from_utf8(again.stderr)
            .unwrap()
            .contains("--resume"),
        "the submission does not start again by itself"
    );
    let rest = input.submit(&["--resume"]).await;
    assert_eq!(
        (rest.status.code(), answers(&rest)),
        (Some(0), json!({"scheduled": 4_500})),
        "no line is submitted twice or lost"
    );
    assert!(!input.file_with("progress").exists());
}

#[tokio::test]
async fn a_submission_interrupted_with_several_batches_in_progress_loses_no_line() {
    let world = World::new().await;
    let input = Input::new(&world, &lines(0..8_000)).await;
    let short_lived = Http::serve(&world).await;
    let proxy = cut_the_first_batch(short_lived.base()).await;
    let file = input.file();
    let file = file.to_str().unwrap();
    let output = process::run(&[
        "submit",
        "--patience",
        "1ms",
        "--parallel",
        "4",
        "--api",
        &proxy,
        file,
    ])
    .await;
    assert_eq!(output.status.code(), Some(1));
    let scheduled = async || world.events_of(EventKind::JobScheduled).await.len();
    let before = scheduled().await;
    assert!(
        (1..8_000).contains(&before),
        "later batches are accepted, and the first is not: {before}"
    );

    let rest = input.submit(&["--resume", "--parallel", "4"]).await;
    assert_eq!(
        rest.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&rest.stderr)
    );
    let counts = answers(&rest);
    let of = |name: &str| counts[name].as_u64().unwrap_or(0);
    assert_eq!(of("scheduled") + of("duplicate"), 8_000, "{counts}");
    assert_eq!(scheduled().await, 8_000, "one job per line");
}

/// Forwards one request with its answer, and then nothing more. Returns the URL that it listens on.
async fn cut_after_one_answer(to: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let to = to.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        drop(listener);
        pass_one_answer(client, Vec::new(), &to).await;
    });
    format!("http://{address}")
}

/// Forwards one request per connection with its answer, except the request with the first line.
/// That one is cut off when another has been answered. Returns the URL that it listens on.
async fn cut_the_first_batch(to: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let to = to.trim_start_matches("http://").to_owned();
    let answered = CancellationToken::new();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (to, answered) = (to.clone(), answered.clone());
            tokio::spawn(async move {
                let mut received = Vec::new();
                while !String::from_utf8_lossy(&received).contains("@example.com") {
                    if client.read_buf(&mut received).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                if String::from_utf8_lossy(&received).contains("\"user0@example.com") {
                    return answered.cancelled().await;
                }
                pass_one_answer(client, received, &to).await;
                answered.cancel();
            });
        }
    });
    format!("http://{address}")
}

/// Forwards a request and its answer. `received` is the part of the request that was already read.
async fn pass_one_answer(mut client: TcpStream, received: Vec<u8>, to: &str) {
    let mut server = TcpStream::connect(to).await.unwrap();
    server.write_all(&received).await.unwrap();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let forth = tokio::io::copy(&mut from_client, &mut to_server);
    let mut answer = [0; 64 << 10];
    let back = async {
        // The answer to one batch, up to its last chunk. A read may end anywhere in it.
        let mut passed_on = Vec::new();
        while !passed_on.ends_with(b"\n0\r\n\r\n") {
            let size = from_server.read(&mut answer).await.unwrap();
            if size == 0 {
                break;
            }
            to_client.write_all(&answer[..size]).await.unwrap();
            passed_on.extend_from_slice(&answer[..size]);
        }
    };
    tokio::select! {
        _ = forth => {}
        () = back => {}
    }
}

#[tokio::test]
async fn the_bounces_in_the_log_of_a_mail_system_are_submitted() {
    let world = World::new().await;
    let log = "2025-11-21T09:30:00+00:00 out1 postfix/qmgr[9]: 4fXk2m1Qz7: \
               from=<news@shop.example>, size=9, nrcpt=1 (queue active)\n\
               2025-11-21T09:30:01+00:00 out1 postfix/smtp[7]: 4fXk2m1Qz7: to=<jo@example.com>, \
               relay=mx.example.com[192.0.2.7]:25, \
               delay=1, delays=0/0/0/1, dsn=4.3.1, status=deferred \
               (host mx.example.com[192.0.2.7] said: 452 4.3.1 full (in reply \
               to RCPT TO command))\n";
    let input = Input::new(&world, log).await;
    let output = input.submit(&["--format", "postfix"]).await;
    assert_eq!(
        (output.status.code(), answers(&output)),
        (Some(0), json!({"scheduled": 1}))
    );
    let job = world.job(JO).await.job;
    assert_eq!(
        job.messages[0]
            .envelope_from
            .as_ref()
            .map(domain::address::Address::as_str),
        Some("news@shop.example")
    );
    assert_eq!(job.head.policy, "system-full");

    let record = |kind: &str, recipient: &str| {
        let response = json!({"code": 452, "enhanced_code": {"class": 4, "subject": 3, "detail": 1},
            "content": "full"});
        json!({"type": kind, "id": "9f1c2a", "sender": "news@shop.example", "recipient": recipient,
            "response": response})
    };
    let sam = "sam@example.com";
    let log = format!(
        "{}\n{}\n",
        record("TransientFailure", sam),
        record("Delivery", "al@example.com")
    );
    let input = Input::new(&world, &log).await;
    let output = input.submit(&["--format", "kumomta"]).await;
    assert_eq!(
        (output.status.code(), answers(&output)),
        (Some(0), json!({"scheduled": 1}))
    );
    assert_eq!(world.waiting(sam).await, ["9f1c2a"]);
}

#[tokio::test]
async fn a_refusal_of_the_sender_in_a_log_retires_no_recipient() {
    let world = World::new().await;
    let line = |to: &str, dsn: &str, reply: &str| {
        format!(
            "2025-11-21T09:30:01Z out1 postfix/smtp[7]: 4fXk2m1Qz7: to=<{to}>, \
             relay=mx.example.com[192.0.2.7]:25, delay=1, dsn={dsn}, status=bounced (host \
             mx.example.com[192.0.2.7] said: {reply} (in reply to MAIL FROM command))\n"
        )
    };
    let log = line(
        "jo@example.com",
        "5.0.0",
        "553 out1.shop.example does not exist",
    ) + &line("sam@example.com", "5.1.1", "550 5.1.1 User unknown");
    let input = Input::new(&world, &log).await;
    let output = input.submit(&["--format", "postfix"]).await;
    assert_eq!(answers(&output), json!({"dropped": 2}));

    let record = |to: &str, kind: &str, code: u16, command: &str| {
        let response = json!({"code": code, "content": "User unknown", "command": command});
        json!({"type": kind, "id": to, "recipient": to, "response": response})
    };
    let log = [
        record(
            "jo@example.com",
            "Bounce",
            550,
            "MAIL FROM:<news@shop.example>\r\n",
        ),
        record(
            "sam@example.com",
            "Bounce",
            550,
            "EHLO out1.shop.example\r\n",
        ),
        record(
            "al@example.com",
            "TransientFailure",
            550,
            "RCPT TO:<al@example.com>\r\n",
        ),
    ]
    .map(|record| format!("{record}\n"));
    let input = Input::new(&world, &log.concat()).await;
    let output = input.submit(&["--format", "kumomta"]).await;
    assert_eq!(answers(&output), json!({"dropped": 2, "scheduled": 1}));
    for address in ["jo@example.com", "sam@example.com", "al@example.com"] {
        assert!(world.standing_record(address).await.is_none(), "{address}");
    }
}

#[tokio::test]
async fn a_log_line_about_a_delivery_is_read_or_kept_as_refused() {
    let world = World::new().await;
    let delivery = |to: &str, status: &str| {
        format!(
            "4fXk2m1Qz7: to=<{to}@example.com>, relay=none, delay=1, dsn=4.3.1, \
             status={status} (452 4.3.1 full)"
        )
    };
    let refused = [
        format!(
            "Feb 31 09:30:01 out1 postfix/smtp[7]: {}",
            delivery("a", "deferred")
        ),
        format!(
            "Nov 21 09:30:01 out1 postfix/smtp[7]: {}",
            delivery("b", "lost")
        ),
        format!("out1 mailer {}", delivery("c", "deferred")),
        "Nov 21 09:30:01 out1 postfix/smtp[7]: 4fXk2m1Qz7: to=<d@exam".to_owned(),
    ];
    let read = [
        format!(
            "2025-11-21T09:30:01+0100 out1 postfix/smtp[7]: {}",
            delivery("e", "deferred")
        ),
        format!(
            "<22>1 2025-11-21T09:30:01Z out1 postfix/smtp 7 - - {}",
            delivery("f", "SOFTBOUNCE")
        ),
        format!(
            "smtp-1  | Nov 21 09:30:01 out1 postfix/smtp[7]: {}",
            delivery("g", "deferred")
        ),
    ];
    let others = "Nov 21 09:30:01 out1 postfix/qmgr[9]: 4fXk2m1Qz7: removed\n\
                  Nov 21 09:30:01 out1 sshd[4]: Accepted publickey for jo\n";
    let log = format!("{}\n{others}{}\n", refused.join("\n"), read.join("\n"));
    let input = Input::new(&world, &log).await;
    let output = input.submit(&["--format", "postfix"]).await;
    assert_eq!(
        (output.status.code(), answers(&output)),
        (Some(1), json!({"refused": 4, "scheduled": 3}))
    );
    assert_eq!(
        text(&input.file_with("refused")),
        format!("{}\n", refused.join("\n"))
    );
}

#[tokio::test]
async fn a_side_field_that_cannot_be_used_is_reported_by_submit() {
    let world = World::new().await;
    let long = "x".repeat(300);
    let log = format!(
        "2025-11-21T09:30:00Z out1 postfix/qmgr[9]: 4fXk2m1Qz7: \
         from=<bounces+80123456-9f1a-jo.longname=a-company-with-a-long-name.example@em.example>, \
         size=9, nrcpt=1\n\
         2025-11-21T09:30:01Z out1 postfix/smtp[7]: 4fXk2m1Qz7: to=<jo@example.com>, relay=none, \
         delay=1, dsn=4.3.1, status=deferred (no)\n\
         2025-11-21T09:30:00Z out1 postfix/qmgr[9]: 4fXk2m1Qz8: from=<{long}@example.org>, size=9\n\
         2025-11-21T09:30:01Z out1 postfix/smtp[7]: 4fXk2m1Qz8: to=<sam@example.com>, relay=none, \
         delay=1, dsn=4.3.1, status=deferred (no)\n"
    );
    let input = Input::new(&world, &log).await;
    let output = input.submit(&["--format", "postfix"]).await;
    assert_eq!(
        (output.status.code(), answers(&output)),
        (Some(0), json!({"scheduled": 2}))
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("line 4: warning: envelope_from: ") && !stderr.contains("line 2:"),
        "{stderr}"
    );
    let job = world.job("jo@example.com").await.job;
    let sender = job.messages[0].envelope_from.as_ref().unwrap();
    assert!(sender.as_str().starts_with("bounces+80123456-9f1a-jo."));
}
