//! When a part of a running fleet fails, the alerts that name the cause fire, and no others. While
//! all parts work, no alert fires, whatever becomes of the mail.

use std::collections::BTreeSet;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use harness::bounce::{FULL, bounce};
use harness::dns::DnsServer;
use harness::http::client;
use harness::port::free_port;
use harness::process::Redeliver;
use harness::prometheus::Prometheus;
use harness::servers::Servers;
use harness::smtp::{Act, Received, SmtpPeer, agree};
use harness::wait::eventually;
use regex::{Captures, Regex};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::deploy;

/// How long an outage may take until its alerts fire, by the shortened rules.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How long the healthy fleet works: longer than any outage takes to be noticed.
const HEALTHY_FOR: Duration = Duration::from_secs(40);

/// The pause between two rounds of mail.
const ROUND: Duration = Duration::from_millis(250);

/// How many mail systems are down at once, when many are.
const DEAD: usize = 6;

const POLICY: &str = "[[row]]\nname = \"soon\"\nstatus = \"4.3.1\"\nscope = \"mailbox\"\n\
    delays = [\"1s\", \"1s\"]\njitter = \"0%\"\nhint = \"ignore\"\nfinal = \"inactive\"\n";

/// Returns the rules as they are delivered, except that a minute is a second, an hour is a minute
/// and a day is 24 minutes: after `for:`, in the windows in brackets, after `offset`, and where the
/// age of due jobs is compared. A test cannot wait for a quarter of an hour. All else stays.
fn shortened(rules: &str) -> String {
    let duration = Regex::new(r"(for: |\[|offset )(\d+)([mhd])\b").unwrap();
    let age = Regex::new(r"(age_seconds > )(\d+)\b").unwrap();
    let number = |found: &Captures<'_>| found[2].parse::<u64>().unwrap();
    let rules = duration.replace_all(rules, |found: &Captures<'_>| {
        let unit = match &found[3] {
            "m" => 1,
            "h" => 60,
            _ => 24 * 60,
        };
        format!("{}{}s", &found[1], unit * number(found))
    });
    let ages = |found: &Captures<'_>| format!("{}{}", &found[1], number(found) / 60);
    age.replace_all(&rules, ages).into_owned()
}

/// A scheduler, a worker, their Redis, mail hosts, and a Prometheus with the shortened rules.
struct Fleet {
    /// The name of the case, for messages.
    name: &'static str,
    servers: Servers,
    redis: u16,
    api: String,
    prometheus: Prometheus,
    /// The worker, until it is stopped.
    worker: Option<Redeliver>,
    _scheduler: Redeliver,
    _hosts: (SmtpPeer, DnsServer),
    _folder: TempDir,
    round: usize,
    /// Since when Prometheus knows the figures of the fleet.
    known_since: Instant,
}

/// What a case sends in each round, in addition to mail of all kinds at a mail system that works.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    Nothing,
    /// Mail for a single mail system that is down.
    OneIsDown,
    /// Mail for many mail systems that are down, and by a relay that is down.
    ManyAreDown,
    /// Mail with large content.
    Large,
}

impl Fleet {
    async fn start(name: &'static str) -> Self {
        let servers = Servers::new("redis-server");
        let redis = servers
            .start(&["maxmemory 500mb", "maxmemory-policy noeviction"])
            .await;
        let peer = SmtpPeer::start(mail_host).await;
        let dns = DnsServer::start().await;
        dns.set_mx("works.example", &[(10, "mx.works.example.")]);
        dns.set_addresses("mx.works.example", &["127.0.0.1"]);
        for n in 0..DEAD {
            dns.set_mx(&format!("dead{n}.example"), &[(10, "mx.dead.example.")]);
        }
        // The other mail host listens on the same port of another address, so here is none.
        dns.set_addresses("mx.dead.example", &["127.0.0.9"]);
        let folder = TempDir::with_prefix("redeliver-outage-").unwrap();
        let (policy, rules) = (folder.path().join("p.toml"), folder.path().join("r.yml"));
        fs::write(&policy, POLICY).unwrap();
        let delivered = fs::read_to_string(deploy().join("alerts/redeliver.rules.yml")).unwrap();
        fs::write(&rules, shortened(&delivered)).unwrap();
        let [scheduler, worker] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
        let (port, away) = (peer.address.port(), free_port());
        let config = format!(
            "[redis]\nurl = \"redis://127.0.0.1:{redis}\"\nshards = 4\n\
             [policy]\nfile = \"{}\"\n[breaker]\nfailures = 2\n\
             [scheduler]\nlisten = \"{scheduler}\"\n\
             [worker]\nlisten = \"{worker}\"\nheartbeat = \"1s\"\n\
             [[route]]\nname = \"default\"\nsender = \"mx\"\nport = {port}\ntls = \"none\"\n\
             private_hosts = true\nnameservers = [\"{}\"]\n\
             [[route]]\nname = \"away\"\nsender = \"smtp\"\nhost = \"127.0.0.1\"\nport = {away}\n",
            policy.display(),
            dns.address
        );
        // The worker first, so that the first figures of the fleet know it.
        let of_worker = Redeliver::start("worker", &config);
        ready(&worker).await;
        let of_scheduler = Redeliver::start("scheduler", &config);
        ready(&scheduler).await;
        eventually("the figures of the fleet", async || {
            let metrics = client().get(format!("http://{scheduler}/metrics")).send();
            let metrics = metrics.await.ok()?.text().await.ok()?;
            metrics.contains("\nredeliver_workers 1").then_some(())
        })
        .await;
        let targets = [
            ("redeliver-scheduler", &*scheduler),
            ("redeliver-worker", &*worker),
        ];
        let mut fleet = Self {
            name,
            prometheus: Prometheus::start(&targets, &rules, "500ms"),
            servers,
            redis,
            api: format!("http://{scheduler}"),
            worker: Some(of_worker),
            _scheduler: of_scheduler,
            _hosts: (peer, dns),
            _folder: folder,
            round: 0,
            known_since: Instant::now(),
        };
        fleet.work_until_known().await;
        fleet.known_since = Instant::now();
        fleet
    }

    /// Works until the figures of the fleet are known, and mail was delivered.
    async fn work_until_known(&mut self) {
        for query in [
            "redeliver:workers == 1",
            "redeliver:attempts_succeeded:rate1h > 0",
        ] {
            self.work_until(query).await;
        }
    }

    /// Works until this query has an answer.
    async fn work_until(&mut self, query: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            assert!(Instant::now() < deadline, "{}: {query}", self.name);
            self.send(More::Nothing).await;
            let series = self.prometheus.query(query).await;
            if series.is_some_and(|series| !series.is_empty()) {
                break;
            }
        }
    }

    /// Sends a round of mail, and then waits a moment. Returns whether it was accepted.
    async fn send(&mut self, more: More) -> bool {
        self.round += 1;
        let n = self.round;
        let mail = |name: &str, domain: &str| {
            let id = format!("{name}{n}");
            let mut mail = bounce(&format!("{id}@{domain}"), &id, FULL);
            mail["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
            mail
        };
        let kinds = ["fine", "slow", "full", "gone"];
        let mut bounces = kinds.map(|kind| mail(kind, "works.example")).to_vec();
        match more {
            More::Nothing => {}
            More::OneIsDown => bounces.push(mail("down", "dead0.example")),
            More::ManyAreDown => {
                bounces.extend((0..DEAD).map(|n| mail("down", &format!("dead{n}.example"))));
                let mut away = mail("away", "works.example");
                away["route"] = json!("away");
                bounces.push(away);
            }
            More::Large => {
                let large = format!("Subject: hello\r\n\r\n{}\r\n", "a line\r\n".repeat(5_000));
                bounces[0]["content"] = json!({"inline": large});
            }
        }
        let request = client()
            .post(format!("{}/v1/bounces", self.api))
            .timeout(Duration::from_secs(2))
            .json(&Value::Array(bounces));
        let accepted = request
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 202);
        sleep(ROUND).await;
        accepted
    }

    /// Sends mail until all these alerts fire at once. Meanwhile, no alerts but these and `also`
    /// may fire, which are further effects of the same cause.
    async fn expect(&mut self, more: More, alerts: &[&str], also: &[&str]) {
        let began = Instant::now();
        let expected: BTreeSet<String> = alerts.iter().map(|&alert| alert.to_owned()).collect();
        loop {
            self.send(more).await;
            let firing = self.prometheus.alerts("firing").await.unwrap_or_default();
            if firing.is_superset(&expected) {
                break;
            }
            if began.elapsed() > TIMEOUT {
                let pending = self.prometheus.alerts("pending").await;
                panic!("{}: {firing:?} fire, {pending:?} may soon", self.name);
            }
        }
        let fired = self.ever_fired().await;
        let unexpected: Vec<&String> = fired
            .iter()
            .filter(|alert| !expected.contains(*alert) && !also.contains(&alert.as_str()))
            .collect();
        assert!(unexpected.is_empty(), "{}: {unexpected:?} fired", self.name);
    }

    /// Returns the names of all alerts that fired since the fleet is known. Before that, Prometheus
    /// evaluates the rules for some seconds without having scraped anything.
    async fn ever_fired(&self) -> BTreeSet<String> {
        let seconds = self.known_since.elapsed().as_secs().max(1);
        let firing = format!("ALERTS{{alertstate=\"firing\"}}[{seconds}s]");
        let query = format!("sum by (alertname) (count_over_time({firing}))");
        let series = self.prometheus.query(&query).await.unwrap();
        let names = series
            .iter()
            .filter_map(|series| series["metric"]["alertname"].as_str());
        names.map(str::to_owned).collect()
    }

    fn redis_cli(&self, command: &[&str]) -> String {
        self.servers
            .cli(self.redis, command)
            .expect("the server answers")
    }
}

/// Waits until the process at this address is ready.
async fn ready(address: &str) {
    eventually("a process of the fleet", async || {
        let answer = client().get(format!("http://{address}/readyz")).send();
        answer.await.ok()?.status().is_success().then_some(())
    })
    .await;
}

/// How the mail host that works answers. An address that is `full` stays so, one that is `slow` is
/// full on every second connection, and one that is `gone` does not exist.
fn mail_host(received: &Received) -> Act {
    let command = &received.command;
    let is_about = |name: &str| command.starts_with("RCPT") && command.contains(name);
    if is_about("<full") || is_about("<slow") && received.connection % 2 == 1 {
        Act::Say(FULL)
    } else if is_about("<gone") {
        Act::Say("550 5.1.1 User unknown")
    } else {
        agree(command)
    }
}

async fn many_mail_systems_and_a_relay_are_down() {
    let mut fleet = Fleet::start("mail systems and a relay are down").await;
    // What is usual must be known, because the alert compares with it.
    let usual = "count_over_time(redeliver:breakers_open:ratio[1h]) > 10";
    fleet.work_until(usual).await;
    let alerts = ["RedeliverBreakersOpen", "RedeliverOwnTrouble"];
    fleet.expect(More::ManyAreDown, &alerts, &[]).await;
}

async fn the_only_worker_is_stopped() {
    let mut fleet = Fleet::start("the worker is stopped").await;
    let worker = fleet.worker.take().unwrap();
    assert!(worker.terminate().await.success());
    let alerts = [
        "RedeliverProcessDown",
        "RedeliverNoWorkers",
        "RedeliverNoProgress",
    ];
    fleet.expect(More::Nothing, &alerts, &[]).await;
}

async fn the_memory_of_redis_is_full() {
    let mut fleet = Fleet::start("redis is full").await;
    let used = fleet.redis_cli(&["INFO", "memory"]);
    let used = used
        .lines()
        .find_map(|line| line.trim().strip_prefix("used_memory:"))
        .unwrap();
    let limit = used.parse::<u64>().unwrap() + 500_000;
    fleet.redis_cli(&["CONFIG", "SET", "maxmemory", &limit.to_string()]);
    let alerts = ["RedeliverRedisNearlyFull", "RedeliverRedisFull"];
    fleet.expect(More::Large, &alerts, &[]).await;
    let deadline = Instant::now() + TIMEOUT;
    while fleet.send(More::Large).await {
        assert!(Instant::now() < deadline, "intake is not refused");
    }
}

async fn redis_is_killed() {
    let mut fleet = Fleet::start("redis is killed").await;
    fleet.servers.kill(fleet.redis);
    let alerts = ["RedeliverRedisUnreachable"];
    fleet.expect(More::Nothing, &alerts, &[]).await;
}

async fn all_parts_work() {
    let mut fleet = Fleet::start("all parts work").await;
    let began = Instant::now();
    while began.elapsed() < HEALTHY_FOR {
        assert!(fleet.send(More::OneIsDown).await, "mail is accepted");
    }
    assert_eq!(fleet.ever_fired().await, BTreeSet::new());
    for query in [
        "sum(redeliver_attempts_total{outcome=\"delivered\"}) > 20",
        "sum(redeliver_attempts_total{outcome=\"deferred\"}) > 20",
        "sum(redeliver_standing_changes_total{standing=\"inactive\"}) > 20",
        "redeliver:retirements:increase1h > 20",
        "redeliver:attempts_succeeded:ratio_rate1h > 0",
        "redeliver:breakers_open == 1",
        "redeliver:redis_memory:ratio > 0",
    ] {
        let series = fleet.prometheus.query(query).await.unwrap();
        assert!(!series.is_empty(), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_outage_fires_the_alerts_that_name_its_cause_and_a_healthy_fleet_fires_none() {
    assert_eq!(
        shortened("x: a:rate15m[15m] offset 1h > 900\nfor: 2m\n[1d] due_age_seconds > 900"),
        "x: a:rate15m[15s] offset 60s > 900\nfor: 2s\n[1440s] due_age_seconds > 15"
    );
    let cases: [LocalBoxFuture<'_, ()>; 5] = [
        many_mail_systems_and_a_relay_are_down().boxed_local(),
        the_only_worker_is_stopped().boxed_local(),
        the_memory_of_redis_is_full().boxed_local(),
        redis_is_killed().boxed_local(),
        all_parts_work().boxed_local(),
    ];
    // All of them to their end, so that each reports what is wrong.
    let cases = cases.map(|case| AssertUnwindSafe(case).catch_unwind());
    let failed = join_all(cases).await.into_iter().filter(Result::is_err);
    assert_eq!(failed.count(), 0, "the cases that failed are printed above");
}
