//! The whole life of an address's latest job can be read, and drawn in a terminal, also when the
//! job has ended. Reading it never takes longer than its bounds allow.

use std::collections::HashSet;

use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::http::{Http, client, problem};
use harness::port::free_port;
use harness::process::{self, Redeliver};
use harness::redis;
use harness::smtp::{Act, SmtpPeer};
use harness::wait::eventually;
use harness::world::{World, id};
use serde_json::{Value, json};
use store::job_events::ReadBounds;
use tempfile::TempDir;

const JO: &str = "jo@example.com";

/// Attempts after a second and then after a day; in the account `short`, only after a second.
const POLICY: &str = "[[row]]\nname = \"slow-down\"\nstatus = \"4.3.1\"\nscope = \"host\"\n\
    delays = [\"1s\", \"24h\"]\njitter = \"0%\"\nhint = \"ignore\"\nfinal = \"unavailable\"\n\
    [[row]]\nname = \"once\"\nstatus = \"4.3.1\"\naccount = \"short\"\nscope = \"host\"\n\
    delays = [\"1s\"]\njitter = \"0%\"\nhint = \"ignore\"\nfinal = \"unavailable\"\n";

fn kinds(answer: &Value) -> Vec<&str> {
    let events = answer["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn the_events_of_the_latest_job_are_returned_oldest_first_even_if_it_has_ended() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let mut first = bounce(JO, "m1", FULL);
    first["occurred_at"] = json!(world.now());
    world.post_and_wait_until_due(first).await;
    world.mail.reply_in_turn(&[FULL]);
    world.work().await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    world.clock.set(world.job(JO).await.due.unwrap());
    world.work().await;
    assert!(world.job_if_any(JO).await.is_none());

    let path = format!("/v1/addresses/{JO}/events");
    let ended = http.get_json(&path).await;
    let wanted = [
        "JobScheduled",
        "AttemptDeferred",
        "MessageJoined",
        "MessageDelivered",
        "MessageDelivered",
        "JobClosed",
    ];
    assert_eq!(kinds(&ended), wanted);
    assert_eq!(ended["complete"], true);
    assert!(ended["events"][0]["occurred_at"].is_string(), "{ended}");
    let ids: HashSet<String> = ended["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].to_string())
        .collect();
    assert_eq!(ids.len(), wanted.len());

    // A new job hides the one before, which `next` leads to.
    world.post_bounce(bounce(JO, "m3", FULL)).await;
    let latest = http.get_json(&path).await;
    assert_eq!(
        (kinds(&latest), &latest["complete"]),
        (vec!["JobScheduled"], &json!(true))
    );
    let next = latest["next"].as_str().unwrap();
    let before = http.get_json(&format!("{path}?before={next}")).await;
    assert_eq!(before["events"], ended["events"]);
}

#[tokio::test]
async fn the_events_of_an_address_are_those_of_its_account_only() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    // Its name contains the other address.
    world
        .post_bounce(bounce(&format!("a.{JO}"), "m1", FULL))
        .await;
    let path = format!("/v1/addresses/{JO}/events");
    assert_eq!(
        http.get_json(&format!("{path}?account=acme")).await,
        json!({"job": format!("acme/{JO}"), "events": [], "complete": false, "next": null})
    );
    assert_eq!(http.get_json(&path).await["events"][0]["message"], "m1");
    for (query, field) in [
        ("?account=a%2Fb", "account"),
        ("?before=noon", "before"),
        ("?before=1-", "before"),
    ] {
        let answer = http.get(&format!("{path}{query}")).send().await.unwrap();
        assert_eq!(problem(answer, 400).await["field"], field, "{query}");
    }
    let unknown = http.get(&format!("{path}?after=1-0")).send().await.unwrap();
    problem(unknown, 400).await;
}

#[tokio::test]
async fn an_address_with_characters_that_json_escapes_has_its_events() {
    let world = World::new().await;
    for address in [
        "a/b@example.com",
        "\"a\\\\b\"@example.com",
        "jö@example.com",
    ] {
        world.post_bounce(bounce(address, "m1", FULL)).await;
        world
            .report_fact(json!({"type": "complaint", "recipient": address}))
            .await;
        let bounds = ReadBounds {
            entries: 1_000,
            bytes: 1 << 20,
        };
        let found = world.store.job_events(&id(address), None, bounds).await;
        let found = found.unwrap();
        assert!(found.is_from_start, "{address}");
        assert_eq!(found.events.len(), 3, "{address}: {:?}", found.events);
    }
}

#[tokio::test]
async fn a_bounded_search_continues_where_it_stopped_and_misses_nothing() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m0", FULL)).await;
    for n in 1..30 {
        for other in ["other", "another"] {
            let other = bounce(&format!("{other}{n}@example.com"), "m1", UNKNOWN);
            world.post_bounce(other).await;
        }
        world.post_bounce(bounce(JO, &format!("m{n}"), FULL)).await;
    }
    for bounds in [
        ReadBounds {
            entries: 8,
            bytes: usize::MAX,
        },
        ReadBounds {
            entries: usize::MAX,
            bytes: 1,
        },
    ] {
        let (mut messages, mut next, mut calls) = (Vec::new(), None, 0);
        loop {
            let found = world.store.job_events(&id(JO), next, bounds).await.unwrap();
            assert!(found.events.len() < 10, "one call reads little");
            calls += 1;
            let older = found.events.into_iter().rev();
            messages.extend(older.filter_map(|one| one.event.message));
            if found.is_from_start {
                break;
            }
            next = Some(found.next.expect("the start is in the journal"));
        }
        assert!(calls >= 10, "{calls} calls");
        let wanted: Vec<String> = (0..30).rev().map(|n| format!("m{n}")).collect();
        assert_eq!(messages, wanted);
    }
}

#[tokio::test]
async fn a_job_is_drawn_while_it_waits_and_after_it_has_ended() {
    let fleet = Fleet::start().await;
    for account in ["short", "default"] {
        assert_eq!(fleet.post(account).await.status(), 202);
    }
    let waiting = eventually("the first attempt", async || {
        let text = fleet.trace(&[JO]).await?;
        text.contains("attempt 2 of 2 is due").then_some(text)
    })
    .await;
    assert!(!waiting.contains('\u{1b}'), "no colours outside a terminal");
    let lines: Vec<&str> = waiting.lines().collect();
    assert_eq!(lines[0], format!("default/{JO} at example.com"));
    assert_eq!(lines[2], "messages: 1 waits; policy row: slow-down");
    let line = |start: &str| {
        lines
            .iter()
            .find(|line| line.starts_with(start))
            .copied()
            .unwrap_or_default()
    };
    assert!(
        line("  0  ").ends_with("●  the platform's own attempt"),
        "{waiting}"
    );
    assert!(line("  1  ").contains("─●"), "{waiting}");
    assert!(line("  2  ").contains("24h"), "{waiting}");
    assert!(line("  2  ").ends_with('○'), "{waiting}");
    assert!(waiting.contains("at 127.0.0.1"), "{waiting}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{waiting}"
    );

    let text = eventually("the end of the other job", async || {
        let text = fleet.trace(&["--account", "short", JO]).await?;
        text.contains("the address is unavailable until")
            .then_some(text)
    })
    .await;
    assert!(text.contains("messages: 1 dropped (retired)"), "{text}");
    assert!(text.contains('✗'), "{text}");
    let json = fleet.trace(&[&format!("short/{JO}"), "--json"]).await;
    let data: Value = serde_json::from_str(&json.unwrap()).unwrap();
    assert_eq!(data["address"]["job"], json!(null));
    assert_eq!(data["complete"], true);
    let last = kinds(&data).last().copied();
    assert_eq!(last, Some("AddressRetired"));
}

#[tokio::test]
async fn the_error_for_a_job_that_cannot_be_traced_explains_what_to_do() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    for (arguments, wanted) in [
        (&[JO, "--api", http.base()] as &[&str], "check the address"),
        (
            &[JO, "--api", &nowhere],
            "give its URL with --api or REDELIVER_API",
        ),
        (
            &["nobody", "--api", http.base()],
            "neither a job (like default/jo@example.com) nor an address",
        ),
        (
            &["nobody", "--account", "acme", "--api", http.base()],
            "\"nobody\" is not an address",
        ),
        (
            &[JO, "--account", "a/b", "--api", http.base()],
            "--account: ",
        ),
    ] {
        let output = process::run(&[&["jobs", "trace"], arguments].concat()).await;
        let report = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && report.contains(wanted),
            "{arguments:?}: {report}"
        );
    }
}

/// A scheduler and a worker, whose relay has no room for any recipient.
struct Fleet {
    api: String,
    _scheduler: Redeliver,
    _worker: Redeliver,
    _relay: SmtpPeer,
    _folder: TempDir,
}

impl Fleet {
    async fn start() -> Self {
        let relay = SmtpPeer::agreeable_except("RCPT", Act::Say(FULL)).await;
        let folder = TempDir::with_prefix("redeliver-policy-").unwrap();
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, POLICY).unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let config = format!(
            "[redis]\nurl = \"{}\"\nprefix = \"{}\"\nshards = 4\n\
             [policy]\nfile = \"{}\"\n[placement]\nmx = false\n\
             [scheduler]\nlisten = \"{listen}\"\n[worker]\npoll_max = \"20ms\"\n\
             [[route]]\nname = \"default\"\nsender = \"smtp\"\nhost = \"{}\"\nport = {}\n\
             tls = \"none\"\n",
            redis::url(),
            redis::unique_prefix(),
            policy.display(),
            relay.address.ip(),
            relay.address.port(),
        );
        let scheduler = Redeliver::start("scheduler", &config);
        let api = format!("http://{listen}");
        eventually("the scheduler", async || {
            let ready = client().get(format!("{api}/readyz")).send().await.ok()?;
            ready.status().is_success().then_some(())
        })
        .await;
        Self {
            api,
            _scheduler: scheduler,
            _worker: Redeliver::start("worker", &config),
            _relay: relay,
            _folder: folder,
        }
    }

    async fn post(&self, account: &str) -> reqwest::Response {
        let mut mail = bounce(JO, "m1", FULL);
        mail["account"] = json!(account);
        mail["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        let request = client().post(format!("{}/v1/bounces", self.api));
        request.json(&mail).send().await.unwrap()
    }

    /// Returns what `redeliver jobs trace` prints. `None` if it fails.
    async fn trace(&self, arguments: &[&str]) -> Option<String> {
        let command = ["jobs", "trace", "--api", &self.api];
        let output = process::run(&[&command, arguments].concat()).await;
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then_some(text)
    }
}
