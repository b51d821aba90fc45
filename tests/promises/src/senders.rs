//! The `http` and `command` senders turn every reaction of a platform or a program into exactly one
//! outcome.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::address::Address;
use domain::clock::{ManualClock, Timestamp};
use domain::outcome::{FaultKind, Outcome, Side};
use harness::bounce::{FULL, bounce};
use harness::certificates::Certificates;
use harness::platform::{Action, Platform};
use harness::wait::eventually;
use harness::world::World;
use senders::attempt::Attempt;
use senders::command::CommandSender;
use senders::http::HttpSender;
use senders::in_doubt::InDoubt;
use senders::sender::Sender;
use senders::settings::command::CommandSettings;
use senders::settings::http::HttpSettings;
use signing::webhook_signature::Signer;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

mod platform;

pub(crate) const PATIENT: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);
const SECRET: &str = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY";
const NOW: Timestamp = Timestamp::from_ms(1_763_716_200_000);

pub(crate) fn http(platform: &Platform, timeout: Duration) -> HttpSender {
    http_by(Arc::new(ManualClock::new(NOW)), platform, timeout)
}

fn http_by(clock: Arc<ManualClock>, platform: &Platform, timeout: Duration) -> HttpSender {
    HttpSender::new(settings(platform, timeout), clock).unwrap()
}

fn settings(platform: &Platform, timeout: Duration) -> HttpSettings {
    HttpSettings {
        url: format!("http://{}/redeliver", platform.address)
            .parse()
            .unwrap(),
        signer: Signer::from_secrets(SECRET).unwrap(),
        ca: None,
        content: true,
        connect_timeout: timeout,
        timeout,
        request_max: 4 << 20,
        answer_max: 1_024,
    }
}

/// A program that is a few lines of shell.
pub(crate) struct Program {
    pub(crate) folder: TempDir,
    file: PathBuf,
}

impl Program {
    pub(crate) fn new(script: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("program");
        let script = script.replace("FOLDER", &folder.path().display().to_string());
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, file }
    }

    pub(crate) fn sender(&self, timeout: Duration) -> CommandSender {
        CommandSender::new(CommandSettings {
            program: self.file.clone(),
            crlf: true,
            arguments: ["-f", "{sender}", "--", "{recipient}"]
                .map(str::to_owned)
                .into(),
            path: "/usr/bin:/bin".to_owned(),
            timeout,
            output_max: 1_024,
        })
    }

    fn wrote(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join(name)).ok()
    }
}

fn mail() -> Attempt {
    Attempt {
        envelope_from: Address::parse("bounce@news.example.org").ok(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        content: Some("Subject: hello\r\n\r\nbye\r\n".into()),
        ..Attempt::first(Address::parse("jo@example.com").unwrap(), "m1")
    }
}

#[tokio::test]
async fn a_program_that_is_stopped_has_a_moment_to_finish_and_otherwise_may_have_sent_the_mail() {
    for (script, accepted) in [
        ("cat > FOLDER/began; sleep 0.2; exit 0", true),
        ("cat > FOLDER/began; sleep 60", false),
    ] {
        let (program, stop) = (Program::new(script), CancellationToken::new());
        let attempt = Attempt {
            in_doubt: InDoubt::cancelled_by(stop.clone()),
            ..mail()
        };
        let sender = program.sender(PATIENT);
        let stopping = async {
            eventually("the program to run", async || program.wrote("began")).await;
            assert!(attempt.in_doubt.is_in_doubt());
            stop.cancel();
        };
        match tokio::join!(sender.send(&attempt), stopping).0 {
            Outcome::Accepted(_) if accepted => {}
            Outcome::Unreachable(fault) if !accepted => {
                assert_eq!(fault.kind, FaultKind::Unanswered, "{fault}");
            }
            other => panic!("{script}: {other:?}"),
        }
        assert!(!attempt.in_doubt.is_in_doubt(), "{script}");
    }
}

fn answer(status: u16, body: &str) -> Action {
    Action::Answer(status, None, body.to_owned())
}

fn redirect(status: u16, location: &'static str) -> Action {
    Action::Answer(status, Some(("location", location)), String::new())
}

#[tokio::test]
async fn the_platform_gets_each_attempt_signed_and_with_an_idempotency_key() {
    let platform = Platform::start(|_| {
        answer(
            200,
            r#"{"outcome":"delivered","reply":"250 2.0.0 rendered"}"#,
        )
    })
    .await;
    let Outcome::Delivered(reply) = http(&platform, PATIENT).send(&mail()).await else {
        panic!("the attempt was sent")
    };
    assert_eq!(reply.to_string(), "250 2.0.0 rendered");
    let posted = platform.posted().remove(0);
    let header = |name: &str| posted.headers[name].to_str().unwrap();
    assert_eq!(header("idempotency-key"), header("webhook-id"));
    assert_eq!(header("webhook-timestamp"), "1763716200");
    let signer = Signer::from_secrets(SECRET).unwrap();
    assert_eq!(
        header("webhook-signature"),
        signer.sign(header("webhook-id"), NOW, &posted.body)
    );
    assert_eq!(header("traceparent"), mail().traceparent.unwrap());
    for (field, value) in [
        ("job", "default/jo@example.com"),
        ("account", "default"),
        ("recipient", "jo@example.com"),
        ("envelope_from", "bounce@news.example.org"),
        ("message_id", "m1"),
        ("content", "Subject: hello\r\n\r\nbye\r\n"),
    ] {
        assert_eq!(posted.json[field], value, "{field}");
    }
    assert_eq!(posted.json["attempt"], 1);
}

#[tokio::test]
async fn a_problem_of_the_platform_is_a_fault_on_our_side_and_never_of_the_address() {
    let platform = Platform::start(|posted| match posted.json["message_id"].as_str().unwrap() {
        "busy" => Action::Answer(503, Some(("retry-after", "7200")), String::new()),
        "elsewhere" => redirect(302, "http://127.0.0.1:1/"),
        "page" => answer(200, "<html>Welcome</html>"),
        "endless" => answer(200, &" ".repeat(5_000)),
        "gateway" => answer(502, "<html>Bad Gateway</html>"),
        "overloaded" => Action::BreakOff(503),
        "taken" => Action::BreakOff(200),
        _ => Action::NeverAnswer,
    })
    .await;
    let sender = http(&platform, 5 * SHORT);
    for (message, kind, text) in [
        ("busy", FaultKind::Local, "retry-after: 7200s"),
        ("elsewhere", FaultKind::Local, "302"),
        ("page", FaultKind::Unanswered, "Welcome"),
        ("endless", FaultKind::Unanswered, "answer_max"),
        ("gateway", FaultKind::Unanswered, "502"),
        ("overloaded", FaultKind::Local, "503"),
        ("taken", FaultKind::Unanswered, "200"),
        ("silent", FaultKind::Unanswered, ""),
    ] {
        let attempt = Attempt {
            message_id: message.to_owned(),
            ..mail()
        };
        let Outcome::Unreachable(fault) = sender.send(&attempt).await else {
            panic!("{message} is a fault")
        };
        assert_eq!(
            (fault.kind, fault.side),
            (kind, Side::Ours),
            "{message}: {fault}"
        );
        assert!(fault.text.contains(text), "{message}: {fault}");
    }
    assert_eq!(platform.posted().len(), 8, "no redirect was followed");
    drop(platform);
    let gone = Platform::start(|_| Action::NeverAnswer).await;
    let (address, sender) = (gone.address, http(&gone, PATIENT));
    drop(gone);
    eventually("the port to be closed", async || {
        std::net::TcpStream::connect(address).err()
    })
    .await;
    let Outcome::Unreachable(fault) = sender.send(&mail()).await else {
        panic!("no server listens there")
    };
    assert_eq!((fault.kind, fault.side), (FaultKind::Connect, Side::Ours));
}

#[tokio::test]
async fn a_platform_gets_nothing_before_its_certificate_is_verified() {
    let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let [files, stranger] = [&folder, &other].map(|folder| Certificates::make(folder.path()));
    let platform = Platform::start_with_tls(&files, |_| answer(200, "")).await;
    let sender_to = |host: &str, ca: Option<&Certificates>| {
        let mut settings = settings(&platform, PATIENT);
        settings.url = format!("https://{host}:{}/redeliver", platform.address.port())
            .parse()
            .unwrap();
        settings.ca = ca.map(|files| std::fs::read(&files.authority).unwrap());
        HttpSender::new(settings, Arc::new(ManualClock::new(NOW))).unwrap()
    };
    for (name, host, ca) in [
        ("no trusted authority", "127.0.0.1", None),
        ("another authority", "127.0.0.1", Some(&stranger)),
        ("a certificate for another name", "localhost", Some(&files)),
    ] {
        let Outcome::Unreachable(fault) = sender_to(host, ca).send(&mail()).await else {
            panic!("{name}")
        };
        assert_eq!(
            (fault.kind, fault.side),
            (FaultKind::Connect, Side::Ours),
            "{name}: {fault}"
        );
    }
    assert!(platform.posted().is_empty(), "nothing was sent");
    assert!(matches!(
        sender_to("127.0.0.1", Some(&files)).send(&mail()).await,
        Outcome::Delivered(_)
    ));
    assert_eq!(platform.posted().len(), 1);
}

#[tokio::test]
async fn a_redirect_of_the_platform_is_never_followed() {
    let elsewhere = Platform::start(|_| answer(200, "")).await;
    let location: &'static str = format!("http://{}/", elsewhere.address).leak();
    for status in [301, 302, 303, 307, 308] {
        let platform = Platform::start(move |_| redirect(status, location)).await;
        let Outcome::Unreachable(fault) = http(&platform, PATIENT).send(&mail()).await else {
            panic!("{status}")
        };
        assert_eq!(
            (fault.kind, fault.side),
            (FaultKind::Local, Side::Ours),
            "{status}: {fault}"
        );
        assert_eq!(platform.posted().len(), 1, "{status}");
    }
    assert!(elsewhere.posted().is_empty());
}

#[tokio::test]
async fn a_repeated_attempt_has_the_same_key_and_the_next_attempt_has_another() {
    let world = World::new().await;
    world
        .post_and_wait_until_due(bounce("jo@example.com", "m1", FULL))
        .await;
    let keys = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = keys.clone();
    world.mail.set_script(move |attempt| {
        seen.lock().unwrap().push(attempt.key());
        harness::mail::outcome(FULL)
    });
    // A worker makes the attempt, and crashes before it can settle it.
    let lost = world.claim_one().await;
    world.attempt(lost).await;
    world.clock.advance(2 * harness::world::LEASE);
    for _ in 0..2 {
        assert_eq!(world.work().await, 1);
        world
            .clock
            .set(world.job("jo@example.com").await.due.unwrap());
    }
    let keys = keys.lock().unwrap().clone();
    assert_eq!(keys[0], keys[1], "the same attempt");
    assert_ne!(keys[1], keys[2], "the next attempt");
    assert!(!keys[0].contains("jo"), "the key contains no address");
}

#[tokio::test]
async fn a_program_gets_the_envelope_and_the_content_and_nothing_else() {
    let program = Program::new(
        "printf '%s\\n' \"$@\" >FOLDER/arguments\nenv | sort >FOLDER/environment\n\
         cat >FOLDER/content\npwd >FOLDER/where\necho '250 2.0.0 queued as 4711'",
    );
    let Outcome::Accepted(reply) = program.sender(PATIENT).send(&mail()).await else {
        panic!("the program accepted the mail")
    };
    assert_eq!(reply.to_string(), "250 2.0.0 queued as 4711");
    assert_eq!(
        program.wrote("arguments").unwrap(),
        "-f\nbounce@news.example.org\n--\njo@example.com\n"
    );
    assert_eq!(
        program.wrote("content").unwrap(),
        "Subject: hello\r\n\r\nbye\r\n"
    );
    assert_eq!(program.wrote("where").unwrap(), "/\n");
    let environment = program.wrote("environment").unwrap();
    // A shell adds some variables of its own.
    let inherited = environment.lines().find(|line| {
        !["PATH=", "PWD=", "_=", "SHLVL="]
            .iter()
            .any(|own| line.starts_with(own))
    });
    assert_eq!(inherited, None);
}

#[tokio::test]
async fn the_exit_code_and_output_of_a_program_are_its_outcome() {
    for (script, expected) in [
        (
            "cat >/dev/null; exit 75",
            "Deferred 450 4.0.0 temporary failure",
        ),
        (
            "echo '4.2.2 mailbox full'; exit 75",
            "Deferred 4.2.2 mailbox full",
        ),
        ("exit 67", "Refused 550 5.1.1 no such user"),
        ("exit 78", "Local"),
        ("cat >FOLDER/sent; false", "Unanswered"),
        ("kill -9 $$", "Unanswered"),
        ("yes", "Unanswered"),
    ] {
        let program = Program::new(script);
        let shown = match program.sender(5 * SHORT).send(&mail()).await {
            Outcome::Deferred(reply) => format!("Deferred {reply}"),
            Outcome::Refused(reply) => format!("Refused {reply}"),
            Outcome::Unreachable(fault) if fault.side == Side::Ours => format!("{:?}", fault.kind),
            other => format!("{other:?}"),
        };
        assert_eq!(shown, expected, "{script}");
    }
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_stopped_with_all_processes_that_it_started() {
    let program = Program::new("sleep 300 & echo $! >FOLDER/child\nwait");
    let Outcome::Unreachable(fault) = program.sender(5 * SHORT).send(&mail()).await else {
        panic!("the program was stopped")
    };
    assert_eq!(
        (fault.kind, fault.side),
        (FaultKind::Unanswered, Side::Ours)
    );
    let child = program.wrote("child").unwrap().trim().to_owned();
    eventually("the end of the process that it started", async || {
        // A killed process may still exist until it has been waited for.
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
}
