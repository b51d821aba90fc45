//! If the server of a route cannot be reached, one attempt shows it for all mail of the route. Its
//! jobs show what they wait for, the server is probed without a message, and the jobs are due as
//! soon as it can be reached again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::Http;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::smtp::{SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{Settings, World};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How many jobs wait for the route.
const JOBS: usize = 40;

/// How soon after its recovery a route must have delivered them. Without a probe they would wait
/// for a quarter of an hour.
const SOON: Duration = Duration::from_secs(25);

fn worker(world: &World, port: u16) -> Redeliver {
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    Redeliver::start(
        "worker",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[worker]\n\
             route = \"relay\"\npoll_max = \"10ms\"\n[pace]\nwindow_new = 20\n\
             [log]\nfilter = \"info\"\n[[route]]\nname = \"relay\"\nsender = \"smtp\"\n\
             host = \"127.0.0.1\"\nport = {port}\n"
        ),
    )
}

/// Posts bounces whose jobs are due by the clock of a real worker.
async fn post(world: &World, name: &str) {
    let bounces = (0..JOBS).map(|n| {
        let mut posted = bounce(&format!("{name}{n}@d{n}.example"), "m1", FULL);
        posted["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        posted
    });
    world.post_bounces(bounces).await;
}

/// A server that accepts connections and closes them at once, like a load balancer without servers.
struct Dead {
    listening: JoinHandle<()>,
    connections: Arc<AtomicUsize>,
}

impl Dead {
    async fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let counted = connections.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                drop(stream);
            }
        });
        Self {
            listening,
            connections,
        }
    }
}

async fn wait_for_held(world: &World, count: usize) {
    eventually("all jobs to be held", async || {
        let deferred = world.events_of(EventKind::AttemptDeferred).await;
        (deferred.len() >= count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn jobs_of_a_dead_route_show_it_and_are_sent_within_seconds_of_its_recovery() {
    let world = World::with(Settings::days_behind()).await;
    post(&world, "a").await;
    let port = free_port();
    let dead = Dead::at(port).await;
    let worker = worker(&world, port);
    wait_for_held(&world, JOBS).await;

    // The route is known to be dead: more jobs cost no connection each.
    let before = dead.connections.load(Ordering::Relaxed);
    post(&world, "b").await;
    wait_for_held(&world, 2 * JOBS).await;
    let more = dead.connections.load(Ordering::Relaxed) - before;
    assert!(more < JOBS / 4, "{more} connections for {JOBS} jobs");
    for event in world.events_of(EventKind::AttemptDeferred).await {
        assert_eq!(event.reason.as_deref(), Some("held"));
    }

    let http = Http::serve(&world).await;
    let job = http.get_json("/v1/addresses/b7@d7.example").await["job"].clone();
    let waits_for = &job["waits_for"];
    assert_eq!(waits_for["what"], "route");
    assert_eq!(waits_for["route"], "relay");
    assert_eq!(waits_for["until"], job["due"]);
    assert_eq!(job["attempt"], 0, "no attempt counts");

    dead.listening.abort();
    let _ = dead.listening.await;
    let recovered = Instant::now();
    let at = ([127, 0, 0, 1], port).into();
    let peer = SmtpPeer::start_at(at, None, |received| agree(&received.command)).await;
    eventually("all jobs to be delivered", async || {
        let delivered = world.events_of(EventKind::MessageDelivered).await.len();
        (delivered == 2 * JOBS).then_some(())
    })
    .await;
    let took = recovered.elapsed();
    assert!(took < SOON, "{took:?}");
    assert_eq!(peer.contents().len(), 2 * JOBS, "each was sent once");
    let log = worker.log();
    assert!(log.contains("can be reached again"), "{log}");
}

#[tokio::test]
async fn jobs_that_a_stopped_worker_left_are_released_by_the_next_one() {
    let world = World::with(Settings::days_behind()).await;
    post(&world, "a").await;
    let port = free_port();
    let first = worker(&world, port);
    wait_for_held(&world, JOBS).await;
    assert!(first.terminate().await.success());

    let at = ([127, 0, 0, 1], port).into();
    let _peer = SmtpPeer::start_at(at, None, |received| agree(&received.command)).await;
    let _second = worker(&world, port);
    let mut posted = bounce("new@example.com", "m1", FULL);
    posted["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
    world.post_bounce(posted).await;
    eventually("all jobs to be delivered", async || {
        let delivered = world.events_of(EventKind::MessageDelivered).await.len();
        (delivered == JOBS + 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_with_another_reason_to_wait_is_not_released() {
    let world = World::new().await;
    assert_eq!(world.store.release_route("relay").await.unwrap(), 0);
    world
        .post_bounce(bounce("jo@example.com", "m1", FULL))
        .await;
    let due = world.job("jo@example.com").await.due;
    assert_eq!(world.store.release_route("relay").await.unwrap(), 0);
    assert_eq!(world.job("jo@example.com").await.due, due);
}
