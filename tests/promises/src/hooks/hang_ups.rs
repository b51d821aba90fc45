//! A client that sends a webhook and disconnects before the answer leaves nothing half done. Its
//! next try is not delayed.

use std::time::Duration;

use config::hooks::{Hook, Service};
use config::model::Config;
use harness::bounce::FULL;
use harness::http::{Http, client};
use harness::proxy::{Fault, RedisProxy};
use harness::redis;
use harness::wait::eventually;
use harness::world::World;
use reqwest::RequestBuilder;
use serde_json::json;
use store::handle::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{JO, KEY, accepted, deferred, mailgun_request, secret, send, sendgrid, sendgrid_key};

/// Much longer than disconnecting takes.
const LATE: Fault = Fault::Late(Duration::from_secs(1));

/// Much shorter than the time after which the claim of a request expires.
const SOON: Duration = Duration::from_secs(30);

/// A scheduler with this hook, which processes one event at a time, and the proxy between it and
/// its Redis.
async fn behind_a_proxy(world: &World, service: Service, hook: Hook) -> (Http, RedisProxy) {
    let proxy = RedisProxy::before(&redis::url());
    let store = world.store_at(&proxy.url(), SOON).await;
    let mut config = Config::embedded();
    config.hooks.set(service, hook);
    config.scheduler.batch = 1;
    // Without this, the scheduler would wait for stream entries while it stops.
    config.stream.enabled = false;
    (Http::serve_on(&store, &config).await, proxy)
}

/// Sends a request and disconnects while the scheduler processes it, at the call that the proxy
/// answers late. When this function returns, the scheduler has closed the connection.
async fn hang_up(request: RequestBuilder, proxy: &RedisProxy) {
    let request = request.build().unwrap();
    let (host, port) = (
        request.url().host_str().unwrap(),
        request.url().port().unwrap(),
    );
    let mut head = format!("POST {} HTTP/1.1\r\nhost: {host}\r\n", request.url().path());
    for (name, value) in request.headers() {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    let body = request.body().and_then(|body| body.as_bytes()).unwrap();
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut stream = TcpStream::connect((host, port)).await.unwrap();
    stream
        .write_all(&[head.as_bytes(), body].concat())
        .await
        .unwrap();
    proxy.wait_for_faults(1).await;
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer),
        "",
        "the request was not answered"
    );
}

#[tokio::test]
async fn after_a_client_disconnects_early_its_next_try_is_not_delayed() {
    let world = World::new().await;
    let (http, proxy) = behind_a_proxy(&world, Service::Mailgun, secret(KEY)).await;
    let request = || mailgun_request(&http, &world, "t1", &deferred(world.now()));
    proxy.plan("schedule", LATE);
    hang_up(request(), &proxy).await;
    let accepted_answer = eventually("an answer of 200", async || {
        Some(send(request()).await).filter(|answer| answer.status() == 200)
    });
    let wire = accepted(
        timeout(SOON, accepted_answer)
            .await
            .expect("the claim was given back"),
    )
    .await;
    assert_eq!(
        wire["replayed"], 1,
        "the first request was processed completely"
    );
    assert_eq!(world.waiting(JO).await, ["<m1@example.org>"]);
    assert_eq!(
        http.get_json("/v1/hooks").await["mailgun"]["taken"],
        1,
        "the first request is counted"
    );
}

#[tokio::test]
async fn a_request_is_processed_completely_even_if_the_client_disconnects() {
    let world = World::new().await;
    let (key, public) = sendgrid_key();
    let (http, proxy) = behind_a_proxy(&world, Service::SendGrid, secret(&public)).await;
    let addresses = ["a@example.com", "b@example.com", "c@example.com"];
    let at = world.now().ms() / 1_000;
    let event = |email| {
        json!({"event": "deferred", "email": email, "timestamp": at,
        "sg_event_id": email, "response": FULL})
    };
    let body = json!(addresses.map(event)).to_string();
    proxy.plan("schedule", LATE);
    hang_up(sendgrid(&http, &key, world.now(), &body), &proxy).await;
    for address in addresses {
        eventually("the job", async || world.job_if_any(address).await).await;
    }
}

#[tokio::test]
async fn a_stopping_scheduler_first_finishes_the_requests_of_disconnected_clients() {
    let world = World::new().await;
    let (http, proxy) = behind_a_proxy(&world, Service::Mailgun, secret(KEY)).await;
    let request = mailgun_request(&http, &world, "t1", &deferred(world.now()));
    proxy.plan("SET", LATE);
    hang_up(request, &proxy).await;
    let ready = format!("{}/readyz", http.base());
    http.stop().await;
    assert!(
        client().get(ready).send().await.is_err(),
        "the scheduler has stopped"
    );
    assert_eq!(world.waiting(JO).await, ["<m1@example.org>"]);
}

#[tokio::test]
async fn an_expired_claim_of_a_request_cannot_release_the_claim_of_another() {
    let world = World::new().await;
    let store: &Store = &world.store;
    let first = store
        .claim_request("t1")
        .await
        .unwrap()
        .expect("the token is free");
    assert!(store.claim_request("t1").await.unwrap().is_none());
    let claims = redis::ask(
        &redis::url(),
        &["KEYS", &format!("{}:*hearing:*", world.prefix)],
    )
    .await;
    let key = claims
        .lines()
        .find(|line| line.contains("hearing"))
        .unwrap();
    redis::ask(&redis::url(), &["DEL", key]).await;

    let second = store
        .claim_request("t1")
        .await
        .unwrap()
        .expect("the first claim has expired");
    assert!(!store.release_request(&first).await.unwrap());
    assert!(
        store.claim_request("t1").await.unwrap().is_none(),
        "the second claim is still valid"
    );
    assert!(store.release_request(&second).await.unwrap());
    assert!(store.claim_request("t1").await.unwrap().is_some());
}
