//! A token can be for some accounts only, and can expire. Nothing of another account comes in or
//! goes out with it. What a token does has its name.

use std::fs;
use std::time::Duration;

use config::model::Config;
use domain::account::{Account, Accounts};
use domain::clock::{Clock, Timestamp};
use domain::destination::Destination;
use domain::event::EventKind;
use domain::job::JobId;
use domain::outcome::Outcome;
use domain::reply::Reply;
use domain::standing::Standing;
use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::http::{Http, NDJSON, client, json, json_lines, problem};
use harness::port::free_port;
use harness::process::{self, Redeliver};
use harness::redis;
use harness::report::{DeliveryReport, MAIL, config, verp, verp_section};
use harness::wait::{eventually, in_time};
use harness::world::{DAY, LEASE, SECOND, Settings, World, id};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use signing::api_token::{Grant, Scope, TokenHash};
use system::clock::SystemClock;

use crate::access::ROUTES;

mod events;
mod names;
mod quarantine;
mod sign_ins;

const JO: &str = "jo@example.com";

/// What a route does with the accounts of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    /// It concerns one account, which `?account=` names.
    One,
    /// It concerns all accounts.
    All,
    /// It filters or checks each item, or shows nothing of an account.
    Any,
}

/// Returns the reach of a route. Every route of [`ROUTES`] must be here.
fn reach(method: &str, path: &str) -> Reach {
    match (method, path) {
        ("POST", "/v1/addresses/jo@example.com/suppress")
        | ("POST", "/v1/addresses/jo@example.com/reinstate")
        | ("POST", "/v1/quarantine/jo@example.com/release")
        | ("GET", "/v1/addresses/jo@example.com")
        | ("GET", "/v1/addresses/jo@example.com/events") => Reach::One,
        ("GET", "/v1/hooks" | "/metrics")
        | ("PUT" | "DELETE", "/v1/destinations/google/hold")
        | ("PUT" | "DELETE", "/v1/destinations/google/limits") => Reach::All,
        ("POST", "/v1/bounces" | "/v1/facts" | "/v1/dsn" | "/v1/addresses/check")
        | ("GET", "/v1/destinations" | "/v1/destinations/google" | "/v1/quarantine")
        | ("GET", "/v1/events" | "/v1/events?types=JobClosed") => Reach::Any,
        _ => panic!("{method} {path}: say what it does with the accounts of a token"),
    }
}

/// A grant of all scopes. The token is the name.
fn grant(name: &str, accounts: &str) -> Grant {
    Grant {
        name: name.to_owned(),
        scopes: Scope::ALL.to_vec(),
        hash: TokenHash::of(name),
        rate: None,
        accounts: match accounts {
            "" => Accounts::All,
            list => Accounts::parse_list(list).unwrap(),
        },
        expires: None,
    }
}

/// A configuration with the tokens `acme` and `beta` for these accounts, and `ops` for all.
fn with_tokens(mut config: Config) -> Config {
    config.access.tokens = vec![
        grant("acme", "acme"),
        grant("beta", "beta,gamma"),
        grant("ops", ""),
    ];
    config
}

async fn serve(world: &World) -> Http {
    Http::serve_with(world, &with_tokens(Config::embedded())).await
}

fn request(http: &Http, method: &str, path: &str) -> RequestBuilder {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    client()
        .request(method, format!("{}{path}", http.base()))
        .json(&json!({}))
}

/// A bounce of this account.
fn of(account: &str, recipient: &str, reply: &str) -> Value {
    let mut item = bounce(recipient, "m1", reply);
    item["account"] = account.into();
    item
}

fn job_id(account: &str, recipient: &str) -> JobId {
    JobId {
        account: Account::parse(account).unwrap(),
        ..id(recipient)
    }
}

/// Returns the standing of an address of this account.
async fn standing(world: &World, account: &str, recipient: &str) -> Standing {
    let report = world.store.address(&job_id(account, recipient)).await;
    let record = report.unwrap().standing;
    record.map_or(Standing::Active, |record| record.standing)
}

/// Checks that an item was refused because of its account.
fn assert_refused(answer: &Value, account: &str) {
    assert_eq!(answer["answer"], "refused", "{answer}");
    assert_eq!(
        (&answer["field"], &answer["value"]),
        (&json!("account"), &json!(account))
    );
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.contains("only for the account acme"), "{reason}");
}

#[tokio::test]
async fn an_item_of_another_account_is_refused_and_the_others_are_accepted() {
    let world = World::new().await;
    let http = serve(&world).await;
    let complaint = |account: &str, recipient: &str| {
        let mut item = json!({"type": "complaint", "recipient": recipient});
        item["account"] = account.into();
        item
    };
    for (path, items) in [
        (
            "/v1/bounces",
            [
                of("beta", "b1@example.com", UNKNOWN),
                of("acme", "b2@example.com", UNKNOWN),
                bounce("b3@example.com", "m1", UNKNOWN),
            ],
        ),
        (
            "/v1/facts",
            [
                complaint("beta", "f1@example.com"),
                complaint("acme", "f2@example.com"),
                json!({"type": "complaint", "recipient": "f3@example.com"}),
            ],
        ),
    ] {
        let post = async |content_type: &str, body: String| {
            let request = http.post(path).header("content-type", content_type);
            request.bearer_auth("acme").body(body).send().await.unwrap()
        };
        let lines: Vec<String> = items.iter().map(Value::to_string).collect();
        let array = post("application/json", json!(items).to_string()).await;
        assert_eq!(array.status(), 202);
        let of_array: Vec<Value> = array.json().await.unwrap();
        let of_lines = json_lines(post(NDJSON, lines.join("\n")).await).await;
        for answers in [of_array, of_lines] {
            assert_refused(&answers[0], "beta");
            assert_ne!(answers[1]["answer"], "refused", "{answers:?}");
            assert_refused(&answers[2], "default");
            let why = answers[2]["reason"].as_str().unwrap();
            assert!(
                why.contains("without an account it is \"default\""),
                "{why}"
            );
        }
        let alone = post("application/json", lines[0].clone()).await;
        assert_refused(&problem(alone, 403).await, "beta");
        let alone = post("application/json", lines[1].clone()).await;
        assert_eq!(alone.status(), 202);
    }
    for (account, recipient, expected) in [
        ("beta", "b1@example.com", Standing::Active),
        ("beta", "f1@example.com", Standing::Active),
        ("default", "b3@example.com", Standing::Active),
        ("default", "f3@example.com", Standing::Active),
        ("acme", "b2@example.com", Standing::Inactive),
        ("acme", "f2@example.com", Standing::Suppressed),
    ] {
        assert_eq!(standing(&world, account, recipient).await, expected);
    }
}

#[tokio::test]
async fn a_report_is_refused_if_it_or_its_signed_return_path_is_about_another_account() {
    let world = World::new().await;
    let http = Http::serve_with(&world, &with_tokens(config(&verp_section()))).await;
    let path = |account: &str| {
        let path = verp().encode(&job_id(account, JO), "<m1@x.example>", world.now());
        path.unwrap().as_str().to_owned()
    };
    let report = DeliveryReport::failed(JO, UNKNOWN);
    let post = async |query: &str, report: &DeliveryReport| {
        let request = http.post(&format!("/v1/dsn{query}"));
        let request = request.header("content-type", MAIL).bearer_auth("acme");
        request.body(report.mail()).send().await.unwrap()
    };
    for (query, report, account) in [
        ("", report.clone(), "default"),
        ("?account=beta", report.clone(), "beta"),
        (
            "?account=acme",
            report.clone().delivered_to(&path("beta")),
            "beta",
        ),
    ] {
        let refused = post(query, &report).await;
        assert_eq!(refused.status(), 403, "{query}");
        assert_refused(&json(refused).await["recipients"][0], account);
        assert_eq!(standing(&world, account, JO).await, Standing::Active);
    }
    // Nothing failed, so nothing is said about an account.
    let delayed = DeliveryReport::default().with_recipient(JO, "delayed", "452 4.2.2 Over quota");
    assert_eq!(post("?account=beta", &delayed).await.status(), 202);
    let own = report.delivered_to(&path("acme"));
    assert_eq!(post("?account=beta", &own).await.status(), 202);
    assert_eq!(standing(&world, "acme", JO).await, Standing::Inactive);
}

#[tokio::test]
async fn every_route_checks_the_accounts_of_a_token() {
    let world = World::new().await;
    let http = serve(&world).await;
    for (method, path, _) in ROUTES {
        let ask = async |token: &str, query: &str| {
            let request = request(&http, method, &format!("{path}{query}"));
            request.bearer_auth(token).send().await.unwrap()
        };
        match reach(method, path) {
            Reach::One => {
                for (query, account) in [("?account=beta", "beta"), ("", "default")] {
                    let why = problem(ask("acme", query).await, 403).await;
                    assert_eq!(why["field"], "account", "{method} {path}");
                    let detail = why["detail"].as_str().unwrap();
                    assert!(detail.contains("only for the account acme"), "{detail}");
                    assert_eq!(detail.contains("default"), account == "default");
                }
                for (token, query) in [("acme", "?account=acme"), ("ops", "?account=beta")] {
                    assert_ne!(ask(token, query).await.status(), 403, "{method} {path}");
                }
            }
            Reach::All => {
                let why = problem(ask("acme", "").await, 403).await;
                let detail = why["detail"].as_str().unwrap();
                assert!(
                    detail.contains("all accounts") && detail.contains("the account acme"),
                    "{detail}"
                );
                assert_ne!(ask("ops", "").await.status(), 403, "{method} {path}");
            }
            Reach::Any => assert_ne!(ask("acme", "").await.status(), 403, "{method} {path}"),
        }
    }
}

#[tokio::test]
async fn addresses_of_another_account_cannot_be_checked_suppressed_or_released() {
    let world = World::new().await;
    let http = serve(&world).await;
    let post = async |token: &str, path: &str, body: Value| {
        let request = http.post(path).bearer_auth(token).json(&body);
        request.send().await.unwrap()
    };
    let gone = of("beta", JO, UNKNOWN);
    assert_eq!(post("beta", "/v1/bounces", gone).await.status(), 202);
    let check = |account: &str| json!({"account": account, "addresses": [JO]});
    let why = post("acme", "/v1/addresses/check", check("beta")).await;
    assert_eq!(problem(why, 403).await["field"], "account");
    let own = json(post("acme", "/v1/addresses/check", check("acme")).await).await;
    assert_eq!(own["not_active"], json!([]));
    let reinstate = format!("/v1/addresses/{JO}/reinstate?account=beta");
    problem(post("acme", &reinstate, json!({})).await, 403).await;
    assert_eq!(standing(&world, "beta", JO).await, Standing::Inactive);
    let suppress = format!("/v1/addresses/{JO}/suppress?account=gamma");
    problem(post("acme", &suppress, json!({})).await, 403).await;
    assert_eq!(standing(&world, "gamma", JO).await, Standing::Active);
    let answer = post("beta", &suppress, json!({})).await;
    assert_eq!(answer.status(), 200, "the token beta is for two accounts");
    assert_eq!(standing(&world, "gamma", JO).await, Standing::Suppressed);
}
