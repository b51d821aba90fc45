//! Every route of the API requires a known token with the scope of that route. A request without
//! such a token reads nothing and changes nothing.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use config::model::Config;
use domain::account::Accounts;
use harness::bounce::{FULL, bounce};
use harness::http::{Http, client, problem};
use harness::port::free_port;
use harness::process::{self, Redeliver};
use harness::redis;
use harness::wait::eventually;
use harness::world::World;
use reqwest::{Method, RequestBuilder};
use scheduler::access::Access;
use serde_json::json;
use signing::api_token::{Grant, Scope, TokenHash};
use tokio::time::sleep;

const JO: &str = "jo@example.com";

/// Every route with the scope that it requires.
pub(crate) const ROUTES: [(&str, &str, Scope); 20] = [
    ("POST", "/v1/bounces", Scope::Ingest),
    ("POST", "/v1/dsn", Scope::Ingest),
    ("POST", "/v1/facts", Scope::Ingest),
    ("POST", "/v1/addresses/check", Scope::Read),
    ("GET", "/v1/addresses/jo@example.com", Scope::Read),
    ("GET", "/v1/addresses/jo@example.com/events", Scope::Read),
    (
        "POST",
        "/v1/addresses/jo@example.com/suppress",
        Scope::Admin,
    ),
    (
        "POST",
        "/v1/addresses/jo@example.com/reinstate",
        Scope::Admin,
    ),
    ("GET", "/v1/destinations/google", Scope::Read),
    ("PUT", "/v1/destinations/google/hold", Scope::Admin),
    ("DELETE", "/v1/destinations/google/hold", Scope::Admin),
    ("PUT", "/v1/destinations/google/limits", Scope::Admin),
    ("DELETE", "/v1/destinations/google/limits", Scope::Admin),
    ("GET", "/v1/quarantine", Scope::Read),
    ("GET", "/v1/destinations", Scope::Read),
    (
        "POST",
        "/v1/quarantine/jo@example.com/release",
        Scope::Admin,
    ),
    ("GET", "/v1/hooks", Scope::Read),
    ("GET", "/metrics", Scope::Read),
    ("GET", "/v1/events?types=JobClosed", Scope::Read),
    ("GET", "/v1/events", Scope::Read),
];

fn grant(name: &str, scopes: &[Scope]) -> Grant {
    Grant {
        name: name.to_owned(),
        scopes: scopes.to_vec(),
        hash: TokenHash::of(name),
        rate: None,
        accounts: Accounts::All,
        expires: None,
    }
}

/// A configuration with these grants. The token of each grant is its name.
fn config_with(tokens: Vec<Grant>) -> Config {
    let mut config = Config::embedded();
    config.access.tokens = tokens;
    config
}

fn request(http: &Http, method: &str, path: &str) -> RequestBuilder {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    client()
        .request(method, format!("{}{path}", http.base()))
        .json(&json!({}))
}

#[tokio::test]
async fn every_route_requires_a_token_with_its_scope() {
    let world = World::new().await;
    let grants = Scope::ALL.map(|scope| grant(scope.as_str(), &[scope]));
    let http = Http::serve_with(&world, &config_with(grants.to_vec())).await;
    for (method, path, scope) in ROUTES {
        let response = request(&http, method, path).send().await.unwrap();
        assert!(
            response.headers()["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer"),
            "{path}"
        );
        problem(response, 401).await;
        for wrong in ["nobody", "", "ingest2"] {
            problem(
                request(&http, method, path)
                    .bearer_auth(wrong)
                    .send()
                    .await
                    .unwrap(),
                401,
            )
            .await;
        }
        problem(
            request(&http, method, path)
                .basic_auth("x", Some(scope.as_str()))
                .send()
                .await
                .unwrap(),
            401,
        )
        .await;
        for granted in Scope::ALL {
            let response = request(&http, method, path)
                .bearer_auth(granted.as_str())
                .send()
                .await
                .unwrap();
            let let_through = !matches!(response.status().as_u16(), 401 | 403);
            assert_eq!(
                let_through,
                granted == scope,
                "{method} {path} with {}",
                granted.as_str()
            );
            if !let_through {
                let why = problem(response, 403).await;
                assert!(
                    why["detail"].as_str().unwrap().contains(scope.as_str()),
                    "{why}"
                );
            }
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            http.get(path).send().await.unwrap().status(),
            200,
            "a monitoring system needs no token"
        );
    }
}

#[tokio::test]
async fn a_request_without_the_required_scope_changes_nothing() {
    let world = World::new().await;
    let http = Http::serve_with(&world, &config_with(vec![grant("reader", &[Scope::Read])])).await;
    let bounces = http.post("/v1/bounces").json(&bounce(JO, "m1", FULL));
    let hold = http
        .put("/v1/destinations/google/hold")
        .json(&json!({"reason": "r"}));
    let complaint = http
        .post("/v1/facts")
        .json(&json!({"type": "complaint", "recipient": JO}));
    let suppress = http.post(&format!("/v1/addresses/{JO}/suppress"));
    for request in [bounces, hold, complaint, suppress] {
        let again = request.try_clone().unwrap();
        problem(request.send().await.unwrap(), 401).await;
        problem(again.bearer_auth("reader").send().await.unwrap(), 403).await;
    }
    assert_eq!(world.events().await, []);
    assert_eq!(world.standing_record(JO).await, None);
}

#[tokio::test]
async fn each_token_has_its_own_rate_limit_and_a_429_contains_the_time_to_wait() {
    let world = World::new().await;
    let slow = Grant {
        rate: Some(0.5),
        ..grant("slow", &[Scope::Read])
    };
    let http = Http::serve_with(
        &world,
        &config_with(vec![slow, grant("other", &[Scope::Read])]),
    )
    .await;
    let ask = async |token: &str| {
        http.get("/v1/quarantine")
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
    };
    assert_eq!(ask("slow").await.status(), 200);
    for _ in 0..3 {
        let response = ask("slow").await;
        assert_eq!(response.headers()["retry-after"], "2");
        problem(response, 429).await;
        assert_eq!(
            ask("other").await.status(),
            200,
            "other tokens are not limited"
        );
    }
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(ask("slow").await.status(), 200);
    assert_eq!(ask("slow").await.status(), 429);
}

#[tokio::test]
async fn tokens_can_be_added_to_and_removed_from_their_file_without_a_restart() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(
        &file,
        format!("# readers\n{}\n", grant("old", &[Scope::Read])),
    )
    .unwrap();
    let mut config = Config::embedded();
    config.access.tokens_file = Some(file.clone());
    let http = Http::serve_with(&world, &config).await;
    let ask = async |token: &str| {
        http.get("/v1/quarantine")
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!((ask("old").await, ask("new").await), (200, 401));

    fs::write(&file, format!("{}\n", grant("new", &[Scope::Read]))).unwrap();
    eventually("the new token", async || {
        (ask("new").await == 200).then_some(())
    })
    .await;
    assert_eq!(ask("old").await, 401, "the token was removed from the file");

    fs::write(&file, "new read rdt_by_mistake\n").unwrap();
    fs::write(
        folder.path().join("next"),
        format!("{}\n", grant("next", &[Scope::Read])),
    )
    .unwrap();
    assert_eq!(
        ask("new").await,
        200,
        "a file with an error changes nothing"
    );
    fs::rename(folder.path().join("next"), &file).unwrap();
    eventually("the next token", async || {
        (ask("next").await == 200).then_some(())
    })
    .await;
    assert_eq!(ask("new").await, 401);
}

#[tokio::test]
async fn a_file_of_tokens_that_is_rewritten_in_place_withdraws_no_token() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let text = format!("{}\n", grant("old", &[Scope::Read]));
    fs::write(&file, &text).unwrap();
    let mut config = Config::embedded();
    config.access.tokens_file = Some(file.clone());
    let http = Http::serve_with(&world, &config).await;
    for _ in 0..8 {
        fs::write(&file, "").unwrap();
        sleep(Duration::from_millis(20)).await;
        fs::write(&file, &text).unwrap();
        let answer = http.get("/v1/quarantine").bearer_auth("old").send().await;
        assert_eq!(answer.unwrap().status().as_u16(), 200);
        sleep(Duration::from_millis(300)).await;
    }
}

#[test]
fn a_scheduler_without_tokens_listens_on_loopback_only_unless_open_access_is_configured() {
    let tokens = config::access::Access {
        tokens: vec![grant("x", &[Scope::Read])],
        ..config::access::Access::default()
    };
    let open = config::access::Access {
        open: true,
        ..config::access::Access::default()
    };
    for (settings, address, expected) in [
        (&config::access::Access::default(), "127.0.0.1:8025", true),
        (&config::access::Access::default(), "[::1]:8025", true),
        (&config::access::Access::default(), "0.0.0.0:8025", false),
        (&config::access::Access::default(), "[::]:8025", false),
        (&config::access::Access::default(), "192.0.2.1:8025", false),
        (&tokens, "0.0.0.0:8025", true),
        (&open, "0.0.0.0:8025", true),
    ] {
        let address: SocketAddr = address.parse().unwrap();
        let may = Access::may_listen(settings, address);
        assert_eq!(may.is_ok(), expected, "{address}: {may:?}");
    }
}

#[tokio::test]
async fn a_generated_token_works_and_only_its_hash_is_stored() {
    let output = process::run(&[
        "token",
        "new",
        "--name",
        "acme",
        "--scopes",
        "ingest,read",
        "--rate",
        "50",
    ])
    .await;
    let printed = String::from_utf8(output.stdout).unwrap();
    let (token, line) = printed.trim_end().split_once('\n').unwrap();
    assert!(
        token.starts_with("rdt_") && token.len() > 60 && !line.contains(token),
        "{printed}"
    );
    let other = process::run(&["token", "new", "--name", "acme", "--scopes", "read"]).await;
    assert!(
        !String::from_utf8(other.stdout).unwrap().contains(token),
        "no two tokens are the same"
    );
    for wrong in [
        ["--name", "a b", "--scopes", "read"],
        ["--name", "a", "--scopes", "all"],
    ] {
        let output = process::run(&[&["token", "new"], &wrong[..]].concat()).await;
        assert!(!output.status.success());
    }

    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (tokens, mine) = (folder.path().join("tokens"), folder.path().join("mine"));
    fs::write(&tokens, format!("{line}\n")).unwrap();
    fs::write(&mine, format!("{token}\n")).unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{}\"\nprefix = \"{}\"\nshards = {}\n[scheduler]\n\
             listen = \"{listen}\"\n\
             [access]\ntokens_file = \"{}\"\n[log]\nfilter = \"debug\"\n",
            redis::url(),
            world.prefix,
            world.store.shards(),
            tokens.display()
        ),
    );
    let api = format!("http://{listen}");
    eventually("the scheduler", async || {
        client()
            .get(format!("{api}/readyz"))
            .send()
            .await
            .ok()
            .filter(|ready| ready.status() == 200)
    })
    .await;
    let show = ["addresses", "show", JO, "--api", &api];
    let output = process::run(&show).await;
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("--token-file")
    );
    let output =
        process::run(&[&show[..], &["--token-file", mine.to_str().unwrap()]].concat()).await;
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("standing     active")
    );
    let suppress = [
        "addresses",
        "suppress",
        JO,
        "--api",
        &api,
        "--token-file",
        mine.to_str().unwrap(),
    ];
    let output = process::run(&suppress).await;
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("the scope admin")
    );
    assert!(
        !scheduler.log().contains(token),
        "the log does not contain the token"
    );
    assert!(scheduler.terminate().await.success());
}

#[tokio::test]
async fn the_token_that_the_dev_command_prints_works_and_no_other_token_does() {
    let dev = Redeliver::start_with(
        &["dev", "--data", "data", "--listen", "127.0.0.1:0"],
        "[log]\nfilter = \"error\"\n",
    );
    // As a person would copy it from the terminal.
    let value_of = |log: &str, name: &str| {
        let (_, rest) = log.split_once(&format!("{name}="))?;
        Some(rest.split_whitespace().next()?.to_owned()).filter(|_| rest.contains("Ctrl-C"))
    };
    let printed = eventually("the welcome", async || {
        let log = dev.log();
        Some((
            value_of(&log, "REDELIVER_API")?,
            value_of(&log, "REDELIVER_TOKEN")?,
        ))
    });
    let (api, token) = printed.await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    for (token, works) in [(token.as_str(), true), (&token[1..], false)] {
        fs::write(&file, token).unwrap();
        for command in ["suppress", "show"] {
            let asked = [
                "addresses",
                command,
                JO,
                "--api",
                &api,
                "--token-file",
                file.to_str().unwrap(),
            ];
            let output = process::run(&asked).await;
            assert_eq!(
                output.status.success(),
                works,
                "{command}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    assert!(dev.terminate().await.success());
}
