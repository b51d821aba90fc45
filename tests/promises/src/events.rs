//! A client that reads the event stream and reconnects with the last id that it saw misses no event
//! and gets none twice.

use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::PaceLimits;
use harness::bounce::{FULL, MAINTENANCE, UNKNOWN, bounce};
use harness::forgetful::SnapshotRedis;
use harness::http::{Http, problem};
use harness::servers::programs;
use harness::wait::{eventually, in_time};
use harness::world::{HOUR, Settings, World};
use reqwest::Response;
use serde_json::{Value, json};

use crate::deployments::connections;

/// One server-sent event.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    cursor: String,
    kind: String,
    event: Value,
}

/// An open event stream.
struct Reading {
    response: Response,
    text: String,
}

impl Reading {
    /// Opens a stream at the position that `query` and `last_seen` give.
    async fn open(http: &Http, query: &str, last_seen: Option<&str>) -> Self {
        let mut request = http.get(&format!("/v1/events{query}"));
        if let Some(last_seen) = last_seen {
            request = request.header("last-event-id", last_seen);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next `count` events.
    async fn next(&mut self, count: usize) -> Vec<Sent> {
        let mut sent = Vec::new();
        while sent.len() < count {
            match self.text.split_once("\n\n") {
                Some((frame, rest)) => {
                    sent.extend(parse(frame));
                    self.text = rest.to_owned();
                }
                None => {
                    let chunk = in_time("an event", self.response.chunk())
                        .await
                        .unwrap()
                        .expect("a stream of events does not end");
                    self.text.push_str(std::str::from_utf8(&chunk).unwrap());
                }
            }
        }
        sent
    }
}

/// Reads `count` events from the position that `query` and `last_seen` give, and disconnects.
async fn read(http: &Http, query: &str, last_seen: Option<&str>, count: usize) -> Vec<Sent> {
    Reading::open(http, query, last_seen)
        .await
        .next(count)
        .await
}

/// Parses one frame. `None` for a comment that keeps the connection alive.
fn parse(frame: &str) -> Option<Sent> {
    let field = |name: &str| {
        frame
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim().to_owned())
    };
    let event = serde_json::from_str(&field("data:")?).unwrap();
    Some(Sent {
        cursor: field("id:").unwrap(),
        kind: field("event:").unwrap(),
        event,
    })
}

/// A world whose journal contains 40 events on all shards, in entries of several events.
async fn world_with_forty_events() -> (World, Http) {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    for batch in 0..4 {
        let bounces: Vec<Value> = (0..10)
            .map(|n| bounce(&format!("user{batch}{n}@host{}.example", n % 3), "m1", FULL))
            .collect();
        assert_eq!(http.post_json(&bounces.into()).await.status(), 202);
    }
    (world, http)
}

#[tokio::test]
async fn a_stream_resumed_after_any_event_continues_with_the_next_event() {
    let (world, http) = world_with_forty_events().await;
    let all = read(&http, "?after=start", None, 40).await;
    let mut jobs: Vec<&Value> = all.iter().map(|sent| &sent.event["job"]).collect();
    jobs.sort_by_key(ToString::to_string);
    jobs.dedup();
    assert_eq!(jobs.len(), 40, "no event twice and none missed");
    assert_eq!(world.events().await.len(), 40);

    for seen in 1..40 {
        let last_seen = Some(all[seen - 1].cursor.as_str());
        assert_eq!(
            read(&http, "", last_seen, 40 - seen).await,
            all[seen..],
            "after {seen} events"
        );
    }
    let by_query = format!("?after={}", all[20].cursor);
    assert_eq!(read(&http, &by_query, None, 19).await, all[21..]);
}

#[tokio::test]
async fn events_during_a_disconnection_are_sent_after_the_client_reconnects() {
    let (world, http) = world_with_forty_events().await;
    let last_seen = read(&http, "?after=start", None, 40)
        .await
        .pop()
        .unwrap()
        .cursor;
    world
        .post_bounce(bounce("user00@host0.example", "m2", MAINTENANCE))
        .await;
    let news = read(&http, "", Some(&last_seen), 1).await;
    assert_eq!(
        (news[0].kind.as_str(), &news[0].event["message"]),
        ("MessageJoined", &json!("m2"))
    );
}

#[tokio::test]
async fn a_client_that_gives_no_position_gets_events_from_now_on() {
    let (world, http) = world_with_forty_events().await;
    let mut reading = Reading::open(&http, "", None).await;
    world
        .post_bounce(bounce("gone@example.com", "m1", UNKNOWN))
        .await;
    let news = reading.next(2).await;
    assert_eq!(
        (news[0].kind.as_str(), news[1].kind.as_str()),
        ("MessageDropped", "AddressRetired")
    );
}

#[tokio::test]
async fn a_client_gets_only_the_event_types_that_it_asks_for() {
    let (world, http) = world_with_forty_events().await;
    world
        .post_bounce(bounce("gone@example.com", "m1", UNKNOWN))
        .await;
    world
        .post_bounce(bounce("user00@host0.example", "m2", FULL))
        .await;
    let sent = read(
        &http,
        "?after=start&types=AddressRetired,MessageJoined",
        None,
        2,
    )
    .await;
    let mut kinds: Vec<&str> = sent.iter().map(|sent| sent.kind.as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["AddressRetired", "MessageJoined"]);
}

#[tokio::test]
async fn an_event_contains_what_happened_to_which_message_and_when() {
    let (_, http) = world_with_forty_events().await;
    let sent = read(&http, "?after=start", None, 1).await.remove(0);
    assert_eq!(sent.kind, "JobScheduled");
    let event = sent.event;
    assert_eq!(
        (&event["type"], &event["status"]),
        (&json!("JobScheduled"), &json!("4.3.1"))
    );
    assert_eq!(
        (&event["policy"], &event["reply"]),
        (&json!("system-full"), &json!(FULL))
    );
    assert_eq!(
        (&event["message"], &event["time"]),
        (&json!("m1"), &json!("2026-11-21T09:30:00.000Z"))
    );
    assert!(
        event["due"].as_str().unwrap().starts_with("2026-11-22T"),
        "{event}"
    );
}

#[tokio::test]
async fn an_event_about_a_destination_has_no_job_and_can_be_selected_and_resumed_after() {
    let (world, http) = world_with_forty_events().await;
    let destination = Destination::named("google");
    let until = world.now().plus(HOUR);
    world
        .store
        .hold(&destination, Some(until), "their \"abuse desk\" asked")
        .await
        .unwrap();
    world.store.unhold(&destination).await.unwrap();
    let query = "?after=start&types=DestinationHeld,DestinationReleased";
    let sent = read(&http, query, None, 2).await;
    let mut held = sent[0].event.clone();
    let id = held["id"].take();
    assert!(id.as_str().is_some_and(|id| !id.is_empty()), "{held}");
    let wanted = json!({
        "type": "DestinationHeld", "destination": "google", "reason": "their \"abuse desk\" asked",
        "until": until.to_string(), "id": null, "time": world.now().to_string(),
    });
    assert_eq!(held, wanted);
    assert_eq!(
        (sent[1].kind.as_str(), sent[1].event.get("job")),
        ("DestinationReleased", None)
    );
    assert_eq!(
        read(
            &http,
            "?types=DestinationReleased",
            Some(&sent[0].cursor),
            1
        )
        .await,
        sent[1..]
    );
}

#[tokio::test]
async fn setting_limits_for_a_destination_is_one_event_and_so_is_removing_them() {
    let (world, http) = world_with_forty_events().await;
    let destination = Destination::named("google");
    let limits = PaceLimits {
        rate: 0.5,
        burst: 10.0,
        window: 1_000,
    };
    for limits in [None, Some(limits), Some(limits), None, None] {
        world
            .store
            .override_limits(&destination, limits)
            .await
            .unwrap();
    }
    assert_eq!(
        world.events_of(EventKind::DestinationLimited).await.len(),
        2,
        "a command that changes nothing has no event"
    );
    let sent = read(&http, "?after=start&types=DestinationLimited", None, 2).await;
    let [mut limited, mut removed] = [0, 1].map(|n: usize| sent[n].event.clone());
    for event in [&mut limited, &mut removed] {
        event["id"].take();
    }
    let expected_removed = json!({"type": "DestinationLimited", "destination": "google", "id": null,
        "time": world.now()});
    assert_eq!(removed, expected_removed);
    let mut wanted = expected_removed;
    wanted["limits"] = json!({"rate": 0.5, "burst": 10.0, "window": 1000});
    assert_eq!(limited, wanted);
}

#[tokio::test]
async fn a_wrong_position_or_event_type_is_refused_with_the_name_of_the_parameter() {
    let (_, http) = world_with_forty_events().await;
    for (query, field) in [
        ("?after=yesterday", Some("after")),
        ("?after=0-0", Some("after")),
        ("?types=MessageLost", Some("types")),
        ("?since=start", None),
    ] {
        let problem = problem(
            http.get(&format!("/v1/events{query}"))
                .send()
                .await
                .unwrap(),
            400,
        )
        .await;
        assert_eq!(
            problem.get("field").and_then(Value::as_str),
            field,
            "{query}"
        );
    }
}

/// Posts a bounce for this user of example.com, which adds one event to the journal.
async fn post_for(world: &World, user: &str) {
    let bounce = bounce(&format!("{user}@example.com"), "m1", FULL);
    world.post_bounce(bounce).await;
}

#[tokio::test]
async fn a_client_whose_position_is_gone_gets_an_event_about_the_gap_and_continues() {
    for program in programs() {
        for reason in ["lost", "trimmed"] {
            let redis = SnapshotRedis::start(&program).await;
            let world = World::on(
                connections(&format!("url = \"{}\"\n", redis.url())),
                Settings::default(),
            )
            .await;
            let http = Http::serve(&world).await;
            post_for(&world, "first").await;
            redis.take_snapshot();
            post_for(&world, "second").await;
            let mut live = Reading::open(&http, "?after=start", None).await;
            let seen = live.next(2).await;

            if reason == "lost" {
                redis.lose_last_writes().await;
                eventually("the store", async || world.store.ping().await.ok()).await;
                // The scheduler records the loss by itself.
                eventually("the event", async || {
                    world.events_of(EventKind::WritesLost).await.pop()
                })
                .await;
            } else {
                let journal = Destination::named("example.com").shard(world.store.shards());
                let journal = format!("{}:{{{journal}}}:journal", world.prefix);
                assert_eq!(redis.ask(&["XTRIM", &journal, "MAXLEN", "0"]), "2");
            }
            post_for(&world, "third").await;
            // The event about the gap is sent for any selection of types, because events of the
            // selection may be missing.
            let wanted = "?types=JobScheduled";
            let resumed = in_time(
                "the event about the gap",
                read(&http, wanted, Some(&seen[1].cursor), 2),
            )
            .await;
            assert_eq!(
                (&*resumed[0].kind, &resumed[0].event["reason"]),
                ("EventsMissing", &json!(reason))
            );
            assert_eq!(
                resumed[1].event["job"],
                json!("default/third@example.com"),
                "{reason}"
            );
            let again = read(&http, wanted, Some(&resumed[0].cursor), 1).await;
            assert_eq!(again[0], resumed[1], "{reason}: the gap is reported once");
            let is_third = |sent: &Sent| sent.event["job"] == json!("default/third@example.com");
            while !live.next(1).await.iter().any(is_third) {}
        }
    }
}

#[tokio::test]
async fn a_connected_client_learns_of_lost_events_even_before_the_loss_is_noticed_elsewhere() {
    let redis = SnapshotRedis::start(&programs()[0]).await;
    let world = World::on(
        connections(&format!("url = \"{}\"\n", redis.url())),
        Settings::default(),
    )
    .await;
    let http = Http::serve(&world).await;
    post_for(&world, "first").await;
    post_for(&world, "second").await;
    let mut live = Reading::open(&http, "?after=start", None).await;
    live.next(2).await;
    // This simulates a server that came back without its last entry, which no process has noticed
    // yet.
    let journal = Destination::named("example.com").shard(world.store.shards());
    let last = world.store.journal_ends().await.unwrap()[usize::from(journal)];
    let journal = format!("{}:{{{journal}}}:journal", world.prefix);
    assert_eq!(redis.ask(&["XDEL", &journal, &last.to_string()]), "1");
    post_for(&world, "third").await;
    let next = in_time("the event about the gap", live.next(2)).await;
    assert_eq!(
        (&*next[0].kind, &next[0].event["reason"]),
        ("EventsMissing", &json!("lost"))
    );
    assert_eq!(next[1].event["job"], json!("default/third@example.com"));
}
