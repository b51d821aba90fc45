//! What is our own fault counts against no recipient and no destination, and what is the domain's
//! is not held as ours.

use std::net::SocketAddr;
use std::time::Duration;

use domain::address::Address;
use domain::clock::{Clock, Timestamp};
use domain::event::EventKind;
use domain::outcome::{Fault, FaultKind, Outcome, Side};
use harness::bounce::{FULL, bounce};
use harness::dns::{DnsServer, Mood};
use harness::process::{Redeliver, free_port};
use harness::redis;
use harness::smtp::{SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{DAY, Settings, World};
use hickory_proto::op::ResponseCode;
use senders::attempt::Attempt;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::mx::MxSettings;
use serde_json::json;
use system::clock::SystemClock;

use crate::smtp::mail;

fn to(recipient: &str) -> Attempt {
    Attempt {
        recipient: Address::parse(recipient).expect("it is one"),
        ..mail("m1")
    }
}

fn sender(nameservers: Vec<SocketAddr>, port: u16) -> MxSender {
    let lookup_timeout = Duration::from_secs(2);
    MxSender::new(MxSettings {
        port,
        private_hosts: true,
        nameservers,
        lookup_timeout,
        ..MxSettings::default()
    })
}

async fn fault(sender: &MxSender, recipient: &str) -> Fault {
    match sender.send(&to(recipient)).await {
        Outcome::Unreachable(fault) => fault,
        outcome => panic!("{recipient}: {outcome:?}"),
    }
}

#[tokio::test]
async fn a_resolver_that_refuses_is_our_fault_and_a_broken_answer_is_the_domains() {
    let dns = DnsServer::start().await;
    let sender = sender(vec![dns.address], 25);
    for (mood, side, name) in [
        (Mood::Saying(ResponseCode::Refused), Side::Ours, "REFUSED"),
        (Mood::Saying(ResponseCode::NotImp), Side::Ours, "NOTIMP"),
        (Mood::Saying(ResponseCode::FormErr), Side::Ours, "FORMERR"),
        (Mood::Saying(ResponseCode::NotAuth), Side::Ours, "NOTAUTH"),
        (Mood::Silent, Side::Ours, "no answer"),
        (
            Mood::Saying(ResponseCode::ServFail),
            Side::Theirs,
            "SERVFAIL",
        ),
        (Mood::Garbled, Side::Theirs, "broken answer"),
    ] {
        dns.becomes(mood);
        let fault = fault(&sender, "jo@example.com").await;
        assert_eq!(
            (fault.kind, fault.side, fault.name),
            (FaultKind::Lookup, side, Some(name)),
            "{mood:?}: {fault}"
        );
        assert!(fault.text.contains(name), "{fault}");
    }
    // Its address is not to be had either.
    dns.becomes(Mood::Helpful);
    dns.aliases("loop.example", "round.example")
        .aliases("round.example", "loop.example");
    let Outcome::Deferred(reply) = sender.send(&to("jo@loop.example")).await else {
        panic!("it has no host")
    };
    assert_eq!(reply.status, "4.4.4".parse().ok());
}

#[tokio::test]
async fn a_resolver_that_is_broken_does_not_speak_for_the_others() {
    let (broken, good) = (DnsServer::start().await, DnsServer::start().await);
    let peer = SmtpPeer::agreeable().await;
    good.knows("example.com", &[(10, "mx.example.com.")])
        .places("mx.example.com", &["127.0.0.1"]);
    for code in [
        ResponseCode::Refused,
        ResponseCode::ServFail,
        ResponseCode::NotImp,
    ] {
        broken.becomes(Mood::Saying(code));
        let sender = sender(vec![broken.address, good.address], peer.address.port());
        let outcome = sender.send(&to("jo@example.com")).await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{code}: {outcome:?}"
        );
    }
    // A resolver that works knows best whose fault it is.
    good.becomes(Mood::Failing);
    broken.becomes(Mood::Saying(ResponseCode::Refused));
    let fault = fault(
        &sender(vec![broken.address, good.address], 25),
        "jo@example.com",
    )
    .await;
    assert_eq!((fault.side, fault.name), (Side::Theirs, Some("SERVFAIL")));
}

#[tokio::test]
async fn a_mail_host_is_called_as_the_dns_has_it_and_a_name_that_no_host_can_have_is_the_domains_fault()
 {
    let dns = DnsServer::start().await;
    let peer = SmtpPeer::agreeable().await;
    let sender = sender(vec![dns.address], peer.address.port());
    let names = [
        "mx_1.example.com",
        "_mx.example.com",
        "mx_.example.com",
        "MX.example.com",
        "xn--bcher-kva.example",
    ];
    for name in names {
        dns.knows("example.net", &[(10, name)])
            .places(&name.to_ascii_lowercase(), &["127.0.0.1"]);
        let sender = self::sender(vec![dns.address], peer.address.port());
        let outcome = sender.send(&to("jo@example.net")).await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{name}: {outcome:?}"
        );
    }
    dns.places("mx.example.com", &["127.0.0.1"]);
    for (n, broken) in [
        "mx 1.example.com",
        "mx\u{fc}.example.com",
        "mx/1.example.com",
        "@.example.com",
    ]
    .iter()
    .enumerate()
    {
        let (lucky, unlucky) = (format!("lucky{n}.example"), format!("unlucky{n}.example"));
        dns.knows(&lucky, &[(10, broken), (20, "mx.example.com")])
            .knows(&unlucky, &[(10, broken)]);
        let outcome = sender.send(&to(&format!("jo@{lucky}"))).await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{broken}: {outcome:?}"
        );
        let fault = fault(&sender, &format!("jo@{unlucky}")).await;
        assert_eq!(
            (fault.kind, fault.side),
            (FaultKind::Lookup, Side::Theirs),
            "{broken}: {fault}"
        );
    }
}

/// A world whose present lies days back, so that its jobs are long due by the clock of a real
/// worker.
async fn days_ago() -> World {
    let epoch = Timestamp::default();
    let start = epoch.plus(SystemClock.now().since(epoch) - 3 * DAY);
    World::with(Settings {
        start,
        ..Settings::default()
    })
    .await
}

/// The configuration of a worker on this world that sends by `mx`.
fn mx_worker(world: &World, worker: &str, route: &str) -> String {
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    format!(
        "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n\
         [worker]\nroute = \"direct\"\npoll_max = \"10ms\"\n{worker}\n\
         [[route]]\nname = \"direct\"\nsender = \"mx\"\nhelo = \"out.example.org\"\nprivate_hosts = true\n\
         tls = \"none\"\n{route}\n"
    )
}

/// What runs a program without any network, in a namespace of its own.
async fn without_network() -> &'static [&'static str] {
    let ways: [&[&str]; 2] = [&["unshare", "-n"], &["unshare", "-rn"]];
    for way in ways {
        let tried = tokio::process::Command::new(way[0])
            .args(&way[1..])
            .arg("true")
            .status()
            .await;
        if tried.is_ok_and(|tried| tried.success()) {
            return way;
        }
    }
    panic!(
        "no network namespace can be made: run as root, or allow user namespaces (apt-get install util-linux)"
    )
}

#[tokio::test]
async fn a_machine_without_network_or_resolver_spends_no_attempt_and_opens_no_breaker() {
    const JOBS: usize = 30;
    let world = days_ago().await;
    for n in 0..JOBS {
        // To an address there is no way; for a name there is nobody to ask.
        let recipient = if n % 2 == 0 {
            format!("u{n}@[192.0.2.{n}]")
        } else {
            format!("u{n}@d{n}.example")
        };
        let mut bounce = bounce(&recipient, "m1", FULL);
        bounce["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        world.take_in(bounce).await;
    }
    let config = mx_worker(
        &world,
        "",
        "nameservers = [\"127.0.0.1:5353\"]\nlookup_timeout = \"1s\"",
    );
    let worker = Redeliver::start_by(without_network().await, &[], &["worker"], &config);
    let deferred = eventually("all jobs to be tried", async || {
        let deferred = world.events_of(EventKind::AttemptDeferred).await;
        (deferred.len() >= JOBS).then_some(deferred)
    })
    .await;
    for event in &deferred {
        assert_eq!(event.reason.as_deref(), Some("held"), "{event:?}");
    }
    assert_eq!(world.events_of(EventKind::BreakerOpened).await, []);
    assert_eq!(world.events_of(EventKind::AddressRetired).await, []);
    let log = worker.log();
    for said in [
        "ENETUNREACH",
        "check the network and the routes",
        "the DNS server 127.0.0.1:5353 cannot be asked",
    ] {
        assert!(log.contains(said), "{said} is missing in:\n{log}");
    }
    let lines = log
        .lines()
        .filter(|line| line.contains("a trouble of our own"))
        .count();
    assert!(lines <= 4, "each trouble is logged once:\n{log}");
    assert!(worker.terminate().await.success());
}

/// Runs one test again where there is no network but loopback, so that no address beyond it can be
/// reached.
async fn with_loopback_alone(name: &str) {
    let test = std::env::current_exe().expect("a test knows where it is");
    let runner = without_network().await;
    let script = format!(
        "ip link set lo up && exec {} --exact {name} --nocapture",
        test.display()
    );
    let ran = tokio::process::Command::new(runner[0])
        .args(&runner[1..])
        .args(["sh", "-c", &script])
        .env(LOOPBACK_ALONE, "yes")
        .output()
        .await
        .expect("it can be started");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// Set if the test runs where loopback is all that there is.
const LOOPBACK_ALONE: &str = "REDELIVER_TEST_LOOPBACK_ALONE";

#[tokio::test]
async fn a_kind_of_address_that_we_have_no_way_to_holds_no_job_that_another_can_decide() {
    if std::env::var_os(LOOPBACK_ALONE).is_none() {
        let name = "whose_fault::a_kind_of_address_that_we_have_no_way_to_holds_no_job_that_another_can_decide";
        return with_loopback_alone(name).await;
    }
    let dns = DnsServer::start().await;
    let peer = SmtpPeer::start(|received| agree(&received.command)).await;
    let sender = sender(vec![dns.address], peer.address.port());
    // More addresses without a way than an attempt may try.
    let six: Vec<String> = (1..9).map(|n| format!("2001:db8::{n}")).collect();
    let with = |four: &'static str| {
        six.iter()
            .map(String::as_str)
            .chain([four])
            .collect::<Vec<_>>()
    };
    for (domain, addresses) in [
        ("good.example", with("127.0.0.1")),
        ("dead.example", with("127.0.0.3")),
        ("six.example", with("2001:db8::9")),
    ] {
        dns.knows(domain, &[(10, domain)])
            .places(domain, &addresses);
    }
    let outcome = sender.send(&to("jo@good.example")).await;
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    let dead = fault(&sender, "jo@dead.example").await;
    assert_eq!(
        (dead.kind, dead.side, dead.name),
        (FaultKind::Connect, Side::Theirs, Some("ECONNREFUSED")),
        "{dead}"
    );
    let six = fault(&sender, "jo@six.example").await;
    assert_eq!(
        (six.kind, six.side, six.name),
        (FaultKind::Local, Side::Ours, Some("ENETUNREACH")),
        "{six}"
    );
}

/// The configuration of a worker that finds each of these domains at a host of its own, all of
/// which are `peer`.
async fn with_hosts_of_their_own(
    world: &World,
    dns: &DnsServer,
    peer: &SmtpPeer,
    domains: usize,
) -> String {
    for n in 0..domains {
        let (domain, host) = (format!("d{n}.example"), format!("mx.d{n}.example"));
        dns.knows(&domain, &[(10, &host)])
            .places(&host, &["127.0.0.1"]);
        let mut bounce = bounce(&format!("u@{domain}"), "m1", FULL);
        bounce["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        world.take_in(bounce).await;
    }
    let route = format!(
        "nameservers = [\"{}\"]\nport = {}",
        dns.address,
        peer.address.port()
    );
    mx_worker(world, "", &route)
}

async fn all_get_through_at_the_first_try(world: &World, worker: &Redeliver, jobs: usize) {
    eventually("all mail to get through", async || {
        (world.events_of(EventKind::MessageDelivered).await.len() == jobs).then_some(())
    })
    .await;
    assert_eq!(
        world.events_of(EventKind::AttemptDeferred).await,
        [],
        "{}",
        worker.log()
    );
    assert_eq!(world.events_of(EventKind::BreakerOpened).await, []);
}

#[tokio::test]
async fn a_worker_that_may_open_few_files_does_less_at_once_and_all_mail_gets_through() {
    const JOBS: usize = 200;
    let (world, dns, peer) = (
        days_ago().await,
        DnsServer::start().await,
        SmtpPeer::agreeable().await,
    );
    let config = with_hosts_of_their_own(&world, &dns, &peer, JOBS).await;
    let worker = Redeliver::start_by(&["prlimit", "--nofile=64:64"], &[], &["worker"], &config);
    all_get_through_at_the_first_try(&world, &worker, JOBS).await;
    let log = worker.log();
    for said in ["files that may be open at once", "fewer attempts at once"] {
        assert!(log.contains(said), "{said} is missing in:\n{log}");
    }
    assert!(!log.contains("EMFILE"), "{log}");
    assert!(worker.terminate().await.success());
}

#[tokio::test]
async fn a_worker_that_runs_out_of_files_waits_for_them_and_fails_no_attempt() {
    const JOBS: usize = 20;
    let (world, dns, peer) = (
        days_ago().await,
        DnsServer::start().await,
        SmtpPeer::agreeable().await,
    );
    let limit = async |worker: &Redeliver, files: &str| {
        let (id, files) = (
            worker.process_id().to_string(),
            format!("--nofile={files}:1024"),
        );
        let set = tokio::process::Command::new("prlimit")
            .args(["--pid", &id, &files])
            .status()
            .await;
        assert!(
            set.expect("prlimit is there: apt-get install util-linux")
                .success()
        );
    };
    let config = with_hosts_of_their_own(&world, &dns, &peer, 0).await;
    let worker = Redeliver::start_by(
        &["prlimit", "--nofile=1024:1024"],
        &[],
        &["worker"],
        &config,
    );
    eventually("the worker to work", async || {
        worker.log().contains("until it stops").then_some(())
    })
    .await;
    limit(&worker, "8").await;
    with_hosts_of_their_own(&world, &dns, &peer, JOBS).await;
    eventually("the trouble in the log", async || {
        worker.log().contains("EMFILE").then_some(())
    })
    .await;
    limit(&worker, "1024").await;
    all_get_through_at_the_first_try(&world, &worker, JOBS).await;
    assert!(worker.terminate().await.success());
}

#[tokio::test]
async fn a_scheduler_whose_resolver_refuses_says_so_and_leaves_it_alone_for_a_while() {
    const DOMAINS: usize = 20;
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.becomes(Mood::Saying(ResponseCode::Refused));
    let (url, prefix, shards, port) = (
        redis::url(),
        &world.prefix,
        world.store.shards(),
        free_port(),
    );
    let scheduler = Redeliver::start(
        "scheduler",
        &format!(
            "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n\
             [scheduler]\nlisten = \"127.0.0.1:{port}\"\n\
             [placement]\nmx = true\nnameservers = [\"{}\"]\n",
            dns.address
        ),
    );
    let client = harness::http::client();
    let post = async |name: &str| {
        let bounces: Vec<_> = (0..DOMAINS)
            .map(|n| bounce(&format!("u@{name}{n}.example"), "m1", FULL))
            .collect();
        let posted = client
            .post(format!("http://127.0.0.1:{port}/v1/bounces"))
            .json(&bounces)
            .send()
            .await;
        posted
            .ok()
            .filter(|answer| answer.status() == 202)
            .map(|_| ())
    };
    eventually("the scheduler", async || post("first").await).await;
    let asked = dns.asked().len();
    assert!(asked >= DOMAINS, "{asked}");
    post("second")
        .await
        .expect("a resolver that refuses keeps nothing out");
    assert_eq!(dns.asked().len(), asked, "it is left alone");
    let log = scheduler.log();
    let lines = |said: &str| log.lines().filter(|line| line.contains(said)).count();
    assert_eq!(lines("REFUSED"), 1, "{log}");
    assert_eq!(
        lines("check the DNS server"),
        1,
        "it says what to do:\n{log}"
    );
    assert!(scheduler.terminate().await.success());
}
