//! The stream of events.

use super::*;

/// One server-sent event: its place, and its data.
type Sent = (String, Value);

/// Opens a stream with this token, at its beginning or after the event that was seen last.
async fn open(http: &Http, token: &str, last_seen: Option<&str>) -> Response {
    let request = http.get("/v1/events?after=start").bearer_auth(token);
    let request = match last_seen {
        Some(place) => request.header("last-event-id", place),
        None => request,
    };
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// Reads `count` events.
async fn read(http: &Http, token: &str, last_seen: Option<&str>, count: usize) -> Vec<Sent> {
    let mut response = open(http, token, last_seen).await;
    let (mut text, mut sent) = (String::new(), Vec::new());
    while sent.len() < count {
        let Some((frame, rest)) = text.split_once("\n\n") else {
            let chunk = in_time("an event", response.chunk()).await.unwrap();
            text.push_str(std::str::from_utf8(&chunk.expect("the stream goes on")).unwrap());
            continue;
        };
        let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
        if let Some(data) = field("data:") {
            let place = field("id:").unwrap().trim().to_owned();
            sent.push((place, serde_json::from_str(data).unwrap()));
        }
        text = rest.to_owned();
    }
    sent
}

#[tokio::test]
async fn a_stream_has_only_events_of_the_tokens_accounts_and_resumes_without_a_gap() {
    let world = World::new().await;
    let http = serve(&world).await;
    let bounces = (0..30).map(|n| {
        let account = ["acme", "beta", "acme2"][n % 3];
        of(account, &format!("u{n}@d{}.example", n % 4), FULL)
    });
    world.post_bounces(bounces).await;
    let google = Destination::named("google");
    world.store.hold(&google, None, "they asked").await.unwrap();
    let last = of("acme", "last@d0.example", FULL);
    world.post_bounce(last).await;

    let all = read(&http, "ops", None, 32).await;
    assert!(
        all.iter()
            .any(|(_, event)| event["type"] == "DestinationHeld")
    );
    let own = read(&http, "acme", None, 11).await;
    let expected: Vec<&Value> = all
        .iter()
        .map(|(_, event)| event)
        .filter(|event| {
            event["job"]
                .as_str()
                .is_some_and(|job| job.starts_with("acme/"))
        })
        .collect();
    let events: Vec<&Value> = own.iter().map(|(_, event)| event).collect();
    assert_eq!(events, expected);
    for seen in 1..own.len() {
        let place = Some(own[seen - 1].0.as_str());
        let rest = read(&http, "acme", place, own.len() - seen).await;
        assert_eq!(rest, own[seen..], "after {seen} events");
    }
}

#[tokio::test]
async fn a_client_of_some_accounts_learns_that_events_are_missing_and_nothing_of_other_accounts() {
    let world = World::new().await;
    let http = serve(&world).await;
    for account in ["acme", "beta"] {
        world.post_bounce(of(account, JO, FULL)).await;
    }
    let seen = read(&http, "acme", None, 1).await;
    let shards = world.store.shards();
    let shard = Destination::named("example.com").shard(shards);
    let journal = format!("{}:{{{shard}}}:journal", world.prefix);
    redis::ask(&redis::url(), &["XTRIM", &journal, "MAXLEN", "0"]).await;
    for account in ["beta", "acme"] {
        let next = of(account, "sam@example.com", FULL);
        world.post_bounce(next).await;
    }
    let resumed = in_time(
        "the event about the gap",
        read(&http, "acme", Some(&seen[0].0), 2),
    )
    .await;
    let missing = resumed[0].1.as_object().unwrap();
    assert_eq!(missing["type"], "EventsMissing");
    assert_eq!(missing["reason"], "trimmed");
    let mut fields: Vec<&str> = missing.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["from", "id", "reason", "time", "type", "until"],
        "it names no job and no account"
    );
    assert_eq!(resumed[1].1["job"], "acme/sam@example.com");
    let again = read(&http, "acme", Some(&resumed[0].0), 1).await;
    assert_eq!(again[0], resumed[1], "the gap is reported once");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires_or_is_removed() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let expires = Some(world.now().plus(Duration::from_secs(3_600)));
    let short = Grant {
        expires,
        ..grant("short", "")
    };
    let lines = format!("{short}\n{}\n{}\n", grant("removed", ""), grant("kept", ""));
    fs::write(&file, lines).unwrap();
    let mut config = Config::embedded();
    config.access.tokens_file = Some(file.clone());
    let http = Http::serve_with(&world, &config).await;
    let streams = ["short", "removed", "kept"].map(|token| open(&http, token, None));
    let [mut short_stream, mut removed, mut kept] = {
        let streams: Vec<Response> = futures::future::join_all(streams).await;
        <[Response; 3]>::try_from(streams).unwrap()
    };

    world.clock.advance(Duration::from_secs(3_600));
    let ended = in_time("the end of the stream", short_stream.chunk()).await;
    assert_eq!(ended.unwrap(), None);
    let answer = http.get("/v1/events").bearer_auth("short").send().await;
    let answer = answer.unwrap();
    let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    let why = problem(answer, 401).await;
    let detail = why["detail"].as_str().unwrap();
    assert!(detail.contains("the token short expired at"), "{detail}");

    fs::write(&file, format!("{short}\n{}\n", grant("kept", ""))).unwrap();
    let ended = in_time("the end of the stream", removed.chunk()).await;
    assert_eq!(ended.unwrap(), None);
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    let event = in_time("an event", kept.chunk()).await.unwrap();
    assert!(event.is_some(), "a token that stays keeps its stream");
}
