//! Who brings a request and hangs up midway leaves nothing half done, and nothing that the next try
//! would have to wait for.

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

use super::{JO, KEY, deferred, mailgun, secret, send, sendgrid, sendgrid_key, taken};

/// Much longer than it takes to hang up.
const LATE: Fault = Fault::Late(Duration::from_secs(1));

/// Much shorter than a claim lasts that nobody gives back.
const SOON: Duration = Duration::from_secs(30);

/// A scheduler with this hook, which takes one event at a time, and the proxy between it and its
/// Redis.
async fn behind_a_proxy(world: &World, service: Service, hook: Hook) -> (Http, RedisProxy) {
    let proxy = RedisProxy::before(&redis::url());
    let store = world.store_at(&proxy.url(), SOON).await;
    let mut config = Config::embedded();
    config.hooks.set(service, hook);
    config.scheduler.batch = 1;
    // Else the scheduler would wait for entries as it stops.
    config.stream.enabled = false;
    (Http::serve_on(&store, &config).await, proxy)
}

/// Brings a request and hangs up while the scheduler takes it in, at the call that the proxy is
/// told to answer late. When it returns, the scheduler has let go of the connection.
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
    proxy.has_met(1).await;
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "", "it was not answered");
}

#[tokio::test]
async fn a_request_that_hangs_up_midway_does_not_make_its_next_try_wait() {
    let world = World::new().await;
    let (http, proxy) = behind_a_proxy(&world, Service::Mailgun, secret(KEY)).await;
    let request = || {
        http.post("/v1/hooks/mailgun").json(&mailgun(
            KEY,
            world.now(),
            "t1",
            &deferred(world.now()),
        ))
    };
    proxy.next("schedule", LATE);
    hang_up(request(), &proxy).await;
    let yes = eventually("a yes", async || {
        Some(send(request()).await).filter(|answer| answer.status() == 200)
    });
    let wire = taken(timeout(SOON, yes).await.expect("the claim was given back")).await;
    assert_eq!(wire["replayed"], 1, "the first was taken in to its end");
    assert_eq!(world.waiting(JO).await, ["<m1@example.org>"]);
    assert_eq!(
        http.get_json("/v1/hooks").await["mailgun"]["taken"],
        1,
        "and counts"
    );
}

#[tokio::test]
async fn of_a_request_that_hangs_up_midway_nothing_is_left_out() {
    let world = World::new().await;
    let (key, public) = sendgrid_key();
    let (http, proxy) = behind_a_proxy(&world, Service::SendGrid, secret(&public)).await;
    let addresses = ["a@example.com", "b@example.com", "c@example.com"];
    let at = world.now().ms() / 1_000;
    let event = |email| json!({"event": "deferred", "email": email, "timestamp": at, "sg_event_id": email, "response": FULL});
    let body = json!(addresses.map(event)).to_string();
    proxy.next("schedule", LATE);
    hang_up(sendgrid(&http, &key, world.now(), &body), &proxy).await;
    for address in addresses {
        eventually("the job", async || world.job_if_any(address).await).await;
    }
}

#[tokio::test]
async fn a_scheduler_that_stops_first_takes_in_what_was_brought_by_who_has_hung_up() {
    let world = World::new().await;
    let (http, proxy) = behind_a_proxy(&world, Service::Mailgun, secret(KEY)).await;
    let request = http.post("/v1/hooks/mailgun").json(&mailgun(
        KEY,
        world.now(),
        "t1",
        &deferred(world.now()),
    ));
    proxy.next("SET", LATE);
    hang_up(request, &proxy).await;
    let ready = format!("{}/readyz", http.base());
    http.stop().await;
    assert!(
        client().get(ready).send().await.is_err(),
        "it does not serve any more"
    );
    assert_eq!(world.waiting(JO).await, ["<m1@example.org>"]);
}

#[tokio::test]
async fn a_claim_that_ran_out_is_not_given_back_for_the_one_who_has_it_now() {
    let world = World::new().await;
    let store: &Store = &world.store;
    let first = store
        .claim_request("t1")
        .await
        .unwrap()
        .expect("nobody has it");
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
        .expect("the first has run out");
    assert!(!store.release_request(&first).await.unwrap());
    assert!(
        store.claim_request("t1").await.unwrap().is_none(),
        "the second has it still"
    );
    assert!(store.release_request(&second).await.unwrap());
    assert!(store.claim_request("t1").await.unwrap().is_some());
}
