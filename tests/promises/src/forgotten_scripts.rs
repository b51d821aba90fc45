//! A Redis server may forget our scripts at any moment: by SCRIPT FLUSH, a restart or a failover.
//! No request fails because of it, no settlement is lost, and no message is sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::Http;
use harness::servers::{Servers, programs};
use harness::wait::eventually;
use harness::world::{HOUR, Settings, World};

use crate::deployments::connections;

const JOBS: usize = 60;

#[tokio::test]
async fn while_scripts_are_flushed_all_requests_are_answered_and_attempts_settled_once() {
    for program in programs() {
        let servers = Arc::new(Servers::new(&program));
        let port = servers.start(&[]).await;
        let redis = format!("url = \"redis://127.0.0.1:{port}\"\n");
        let world = World::on(connections(&redis), Settings::default()).await;
        let http = Http::serve(&world).await;
        let stop = Arc::new(AtomicBool::new(false));
        let flushing = (0..2).map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || flush_until(&stop, port))
        });
        let flushing: Vec<_> = flushing.collect();

        for n in 0..JOBS {
            let answer = http
                .post_json(&bounce(
                    &format!("user{n}@host{}.example", n % 9),
                    "m1",
                    FULL,
                ))
                .await;
            let (status, body) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, 202, "bounce {n}: {body}");
        }
        world.clock.advance(30 * HOUR);
        let worker = world.start_worker(|settings| settings.concurrency = 5);
        eventually("all deliveries", async || {
            (world.events_of(EventKind::MessageDelivered).await.len() == JOBS).then_some(())
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        let flushed: usize = flushing
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum();
        assert!(flushed > JOBS, "scripts were flushed {flushed} times");
        worker.stopped().await;
        assert_eq!(world.mail.tried().len(), JOBS, "each message was sent once");
        assert_eq!(
            world.events_of(EventKind::JobLapsed).await,
            [],
            "no settlement was dropped"
        );
    }
}

/// Flushes the scripts again and again, over a separate connection, until `stop` is set. Returns
/// how often.
fn flush_until(stop: &AtomicBool, port: u16) -> usize {
    use std::io::{Read, Write};
    let mut connection = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut answer = [0; 5];
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        connection.write_all(b"SCRIPT FLUSH\r\n").unwrap();
        connection.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
        count += 1;
    }
    count
}
