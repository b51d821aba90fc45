//! A mail host that accepts connections and then never answers delays no other mail beyond a
//! bounded share of a worker's attempts.

// A real worker sends to SMTP servers. It uses the machine's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::model::Config;
use domain::clock::{Clock, Timestamp};
use domain::event::{Event, EventKind};
use domain::pace::Pace;
use harness::bounce::{FULL, bounce};
use harness::dns::DnsServer;
use harness::random::Random;
use harness::smtp::{Act, Received, SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{DAY, MS, Settings, World};
use policy::table::Table;
use senders::mx::MxSender;
use senders::settings::mx::MxSettings;
use serde_json::json;
use system::clock::SystemClock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::content::Contents;
use worker::routes::Routes;
use worker::run::Worker;

/// How long a host may be silent until its attempts count as hanging.
const PATIENCE: Duration = Duration::from_millis(300);

/// Far less than the default SMTP time limits, with time to spare for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Attempts at once.
const PERMITS: usize = 8;

/// A healthy mail host, a mail host that a test can make hang, and a worker that sends to both.
struct Internet {
    world: World,
    hanging: Arc<AtomicBool>,
    healthy_host: SmtpPeer,
    hanging_host: SmtpPeer,
    stop: CancellationToken,
    worker: JoinHandle<()>,
    _dns: DnsServer,
}

impl Internet {
    /// `good0.example` and so on are at the healthy host. `bad0.example` and so on are at the other
    /// host, which does not answer RCPT while it hangs.
    async fn new(is_hanging: bool) -> Self {
        let hanging = Arc::new(AtomicBool::new(is_hanging));
        let healthy_host = SmtpPeer::agreeable().await;
        let (port, hangs) = (healthy_host.address.port(), hanging.clone());
        let script = move |received: &Received| match received.command.starts_with("RCPT")
            && hangs.load(Ordering::Relaxed)
        {
            true => Act::Hang,
            false => agree(&received.command),
        };
        let hanging_host = SmtpPeer::start_at(([127, 0, 0, 2], port).into(), None, script).await;
        let dns = DnsServer::start().await;
        for n in 0..20 {
            dns.set_addresses(&format!("good{n}.example"), &["127.0.0.1"])
                .set_addresses(&format!("bad{n}.example"), &["127.0.0.2"]);
        }
        let settings = Settings {
            start: SystemClock.now(),
            pace: Pace::default(),
            ..Settings::default()
        };
        let world = World::with(settings).await;
        let settings = MxSettings {
            port,
            private_hosts: true,
            nameservers: vec![dns.address],
            ..MxSettings::default()
        };
        let routes = Routes::new("default").with("default", Arc::new(MxSender::new(settings)));
        let mut settings = Config::embedded().worker;
        (settings.concurrency, settings.patience, settings.poll_max) = (PERMITS, PATIENCE, 20 * MS);
        let (store, table) = (world.store_by_real_time().await, Table::embedded());
        let worker = Worker::new(store, routes, Contents::new(Vec::new()), table, settings);
        let stop = CancellationToken::new();
        let worker = tokio::spawn(worker.run(stop.clone()));
        Self {
            world,
            hanging,
            healthy_host,
            hanging_host,
            stop,
            worker,
            _dns: dns,
        }
    }

    /// Posts `count` bounces for each of these domains. Their jobs are due at once.
    async fn post_due(&self, domains: &[String], count: usize) {
        let now = SystemClock.now();
        self.world.clock.set(now);
        let long_ago = Timestamp::from_ms(now.ms() - (2 * DAY).as_millis() as i64).to_string();
        let salt = Random::from_seed(now.ms().unsigned_abs()).below(1_000_000);
        let bounces = domains
            .iter()
            .flat_map(|domain| (0..count).map(move |n| format!("user{salt}-{n}@{domain}")));
        let posted = bounces.map(|recipient| {
            let mut posted = bounce(&recipient, "m1", FULL);
            posted["occurred_at"] = long_ago.clone().into();
            posted["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
            posted
        });
        self.world.post_bounces(posted).await;
    }

    /// The delivered messages to domains that begin with this name.
    async fn delivered(&self, domains: &str) -> Vec<Event> {
        let delivered = self
            .world
            .events_of(EventKind::MessageDelivered)
            .await
            .into_iter();
        delivered
            .filter(|event| event.job.contains(&format!("@{domains}")))
            .collect()
    }

    async fn wait_for_deliveries(&self, domains: &str, count: usize) {
        eventually("deliveries", async || {
            (self.delivered(domains).await.len() == count).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        // Waiting for attempts that hang would take long.
        self.worker.abort();
    }
}

fn domains(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{name}{n}.example")).collect()
}

#[tokio::test]
async fn new_destinations_that_hang_do_not_delay_other_mail() {
    let internet = Internet::new(true).await;
    // More destinations than attempts at once, and they are due first.
    internet.post_due(&domains("bad", 2 * PERMITS), 3).await;
    internet
        .hanging_host
        .wait_for_command("RCPT", PERMITS / 2)
        .await;
    let started = Instant::now();
    internet.post_due(&domains("good", 10), 5).await;
    internet.wait_for_deliveries("good", 50).await;
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    // An attempt that was given up changes nothing for its job.
    let opened = internet.world.events_of(EventKind::BreakerOpened).await;
    assert!(!opened.is_empty(), "some attempts had to be given up");
    for kind in [
        EventKind::AttemptDeferred,
        EventKind::JobLapsed,
        EventKind::JobQuarantined,
        EventKind::MessageDropped,
    ] {
        assert_eq!(internet.world.events_of(kind).await, [], "{kind:?}");
    }
    internet.stop().await;
}

#[tokio::test]
async fn known_destinations_that_begin_to_hang_do_not_delay_other_mail() {
    let internet = Internet::new(false).await;
    internet.post_due(&domains("bad", 4), 20).await;
    internet.wait_for_deliveries("bad", 80).await;
    internet.hanging.store(true, Ordering::Relaxed);
    internet.post_due(&domains("bad", 4), 20).await;
    internet
        .hanging_host
        .wait_for_command("RCPT", 80 + PERMITS / 2)
        .await;
    let started = Instant::now();
    internet.post_due(&domains("good", 10), 5).await;
    internet.wait_for_deliveries("good", 50).await;
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    internet.stop().await;
}

#[tokio::test]
async fn a_slow_attempt_is_not_given_up_while_no_other_attempt_needs_its_place() {
    let internet = Internet::new(true).await;
    internet.post_due(&domains("bad", 1), 1).await;
    internet.hanging_host.wait_for_command("RCPT", 1).await;
    internet.post_due(&domains("good", 1), 20).await;
    internet.wait_for_deliveries("good", 20).await;
    let started = Instant::now();
    eventually("its host to be silent for long", async || {
        let pace = internet.world.pace("bad0.example").await;
        (pace.silent_until.is_some() && started.elapsed() > 3 * PATIENCE).then_some(())
    })
    .await;
    assert_eq!(
        internet.world.pace("bad0.example").await.in_flight,
        1,
        "the attempt continues"
    );
    assert_eq!(internet.world.events_of(EventKind::BreakerOpened).await, []);
    assert_eq!(internet.healthy_host.connections_of(".").len(), 20);
    internet.stop().await;
}
