//! A failure of our own machine, network or resolver counts against no recipient and no
//! destination. A failure of the recipient's domain is not treated as ours.

use std::net::SocketAddr;
use std::time::Duration;

use domain::address::Address;
use domain::event::EventKind;
use domain::outcome::{Fault, FaultKind, Outcome, Side};
use harness::bounce::{FULL, bounce};
use harness::dns::{Behavior, DnsServer};
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::smtp::{SmtpPeer, agree};
use harness::wait::eventually;
use harness::world::{Settings, World};
use hickory_proto::op::ResponseCode;
use senders::attempt::Attempt;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::mx::MxSettings;
use serde_json::json;

use crate::smtp::mail;

fn to(recipient: &str) -> Attempt {
    Attempt {
        recipient: Address::parse(recipient).expect("the text is an address"),
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
async fn a_refusing_resolver_is_a_fault_on_our_side_and_a_broken_answer_a_fault_of_the_domain() {
    let dns = DnsServer::start().await;
    let sender = sender(vec![dns.address], 25);
    for (behavior, side, name) in [
        (Behavior::Code(ResponseCode::Refused), Side::Ours, "REFUSED"),
        (Behavior::Code(ResponseCode::NotImp), Side::Ours, "NOTIMP"),
        (Behavior::Code(ResponseCode::FormErr), Side::Ours, "FORMERR"),
        (Behavior::Code(ResponseCode::NotAuth), Side::Ours, "NOTAUTH"),
        (Behavior::Silent, Side::Ours, "no answer"),
        (
            Behavior::Code(ResponseCode::ServFail),
            Side::Theirs,
            "SERVFAIL",
        ),
        (Behavior::CutOff, Side::Theirs, "broken answer"),
    ] {
        dns.set_behavior(behavior);
        let fault = fault(&sender, "jo@example.com").await;
        assert_eq!(
            (fault.kind, fault.side, fault.name),
            (FaultKind::Lookup, side, Some(name)),
            "{behavior:?}: {fault}"
        );
        assert!(fault.text.contains(name), "{fault}");
    }
    // If aliases form a loop, the domain has no host.
    dns.set_behavior(Behavior::Helpful);
    dns.set_alias("loop.example", "round.example")
        .set_alias("round.example", "loop.example");
    let Outcome::Deferred(reply) = sender.send(&to("jo@loop.example")).await else {
        panic!("the domain has no host")
    };
    assert_eq!(reply.status, "4.4.4".parse().ok());
}

#[tokio::test]
async fn a_broken_resolver_has_no_effect_if_another_one_answers() {
    let (broken, good) = (DnsServer::start().await, DnsServer::start().await);
    let peer = SmtpPeer::agreeable().await;
    good.set_mx("example.com", &[(10, "mx.example.com.")])
        .set_addresses("mx.example.com", &["127.0.0.1"]);
    for code in [
        ResponseCode::Refused,
        ResponseCode::ServFail,
        ResponseCode::NotImp,
    ] {
        broken.set_behavior(Behavior::Code(code));
        let sender = sender(vec![broken.address, good.address], peer.address.port());
        let outcome = sender.send(&to("jo@example.com")).await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{code}: {outcome:?}"
        );
    }
    // The answer of a working resolver decides whose fault it is.
    good.set_behavior(Behavior::Failing);
    broken.set_behavior(Behavior::Code(ResponseCode::Refused));
    let fault = fault(
        &sender(vec![broken.address, good.address], 25),
        "jo@example.com",
    )
    .await;
    assert_eq!((fault.side, fault.name), (Side::Theirs, Some("SERVFAIL")));
}

#[tokio::test]
async fn any_mail_host_name_in_the_dns_works_and_an_impossible_name_is_a_fault_of_the_domain() {
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
        dns.set_mx("example.net", &[(10, name)])
            .set_addresses(&name.to_ascii_lowercase(), &["127.0.0.1"]);
        let sender = self::sender(vec![dns.address], peer.address.port());
        let outcome = sender.send(&to("jo@example.net")).await;
        assert!(
            matches!(outcome, Outcome::Delivered(_)),
            "{name}: {outcome:?}"
        );
    }
    dns.set_addresses("mx.example.com", &["127.0.0.1"]);
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
        dns.set_mx(&lucky, &[(10, broken), (20, "mx.example.com")])
            .set_mx(&unlucky, &[(10, broken)]);
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

/// The configuration of a worker in this world that sends by `mx`.
fn mx_worker(world: &World, worker: &str, route: &str) -> String {
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    format!(
        "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n\
         [worker]\nroute = \"direct\"\npoll_max = \"10ms\"\n{worker}\n\
         [[route]]\nname = \"direct\"\nsender = \"mx\"\nhelo = \"out.example.org\"\n\
         private_hosts = true\n\
         tls = \"none\"\n{route}\n"
    )
}

/// The command that runs a program without any network, in a separate namespace.
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
        "no network namespace can be made: run as root, \
         or allow user namespaces (apt-get install util-linux)"
    )
}

#[tokio::test]
async fn a_machine_without_network_or_resolver_spends_no_attempt_and_opens_no_breaker() {
    const JOBS: usize = 30;
    let world = World::with(Settings::days_behind()).await;
    for n in 0..JOBS {
        // The addresses have no route, and the names have no server to ask.
        let recipient = if n % 2 == 0 {
            format!("u{n}@[192.0.2.{n}]")
        } else {
            format!("u{n}@d{n}.example")
        };
        let mut bounce = bounce(&recipient, "m1", FULL);
        bounce["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        world.post_bounce(bounce).await;
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
    for expected in [
        "ENETUNREACH",
        "check the network and the routes",
        "the DNS server 127.0.0.1:5353 cannot be asked",
    ] {
        assert!(log.contains(expected), "{expected} is missing in:\n{log}");
    }
    let lines = log
        .lines()
        .filter(|line| line.contains("a trouble of our own"))
        .count();
    assert!(lines <= 4, "each problem is logged once:\n{log}");
    assert!(worker.terminate().await.success());
}

/// Runs one test again with no network but loopback, so that no other address can be reached.
async fn with_loopback_only(name: &str) {
    let test = std::env::current_exe().expect("the path of the test is known");
    let runner = without_network().await;
    let script = format!(
        "ip link set lo up && exec {} --exact {name} --nocapture",
        test.display()
    );
    let ran = tokio::process::Command::new(runner[0])
        .args(&runner[1..])
        .args(["sh", "-c", &script])
        .env(LOOPBACK_ONLY, "yes")
        .output()
        .await
        .expect("the test can be started");
    let output = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && output.contains("1 passed"),
        "{output}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// Set if the test runs with loopback as its only network.
const LOOPBACK_ONLY: &str = "REDELIVER_TEST_LOOPBACK_ALONE";

#[tokio::test]
async fn an_ip_version_without_a_route_is_ignored_if_the_other_can_decide() {
    if std::env::var_os(LOOPBACK_ONLY).is_none() {
        let name = "whose_fault::an_ip_version_without_a_route_is_ignored_if_the_other_can_decide";
        return with_loopback_only(name).await;
    }
    let dns = DnsServer::start().await;
    let peer = SmtpPeer::start(|received| agree(&received.command)).await;
    let sender = sender(vec![dns.address], peer.address.port());
    // More addresses without a route than an attempt may try.
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
        dns.set_mx(domain, &[(10, domain)])
            .set_addresses(domain, &addresses);
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

/// Posts a bounce for each of this many domains. Each domain has its own mail host, and all these
/// hosts are `peer`. Returns the configuration of a worker.
async fn post_for_separate_hosts(
    world: &World,
    dns: &DnsServer,
    peer: &SmtpPeer,
    domains: usize,
) -> String {
    for n in 0..domains {
        let (domain, host) = (format!("d{n}.example"), format!("mx.d{n}.example"));
        dns.set_mx(&domain, &[(10, &host)])
            .set_addresses(&host, &["127.0.0.1"]);
        let mut bounce = bounce(&format!("u@{domain}"), "m1", FULL);
        bounce["content"] = json!({"inline": "Subject: hello\r\n\r\nhello\r\n"});
        world.post_bounce(bounce).await;
    }
    let route = format!(
        "nameservers = [\"{}\"]\nport = {}",
        dns.address,
        peer.address.port()
    );
    mx_worker(world, "", &route)
}

async fn all_are_delivered_at_the_first_try(world: &World, worker: &Redeliver, jobs: usize) {
    eventually("all deliveries", async || {
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
async fn a_worker_that_may_open_few_files_makes_fewer_attempts_at_once_and_delivers_all_mail() {
    const JOBS: usize = 200;
    let (world, dns, peer) = (
        World::with(Settings::days_behind()).await,
        DnsServer::start().await,
        SmtpPeer::agreeable().await,
    );
    let config = post_for_separate_hosts(&world, &dns, &peer, JOBS).await;
    let worker = Redeliver::start_by(&["prlimit", "--nofile=64:64"], &[], &["worker"], &config);
    all_are_delivered_at_the_first_try(&world, &worker, JOBS).await;
    let log = worker.log();
    for expected in ["files that may be open at once", "fewer attempts at once"] {
        assert!(log.contains(expected), "{expected} is missing in:\n{log}");
    }
    assert!(!log.contains("EMFILE"), "{log}");
    assert!(worker.terminate().await.success());
}

#[tokio::test]
async fn a_worker_that_runs_out_of_files_waits_for_them_and_fails_no_attempt() {
    const JOBS: usize = 20;
    let (world, dns, peer) = (
        World::with(Settings::days_behind()).await,
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
    let config = post_for_separate_hosts(&world, &dns, &peer, 0).await;
    let worker = Redeliver::start_by(
        &["prlimit", "--nofile=1024:1024"],
        &[],
        &["worker"],
        &config,
    );
    eventually("the worker to start", async || {
        worker.log().contains("until it stops").then_some(())
    })
    .await;
    limit(&worker, "8").await;
    post_for_separate_hosts(&world, &dns, &peer, JOBS).await;
    eventually("the problem in the log", async || {
        worker.log().contains("EMFILE").then_some(())
    })
    .await;
    limit(&worker, "1024").await;
    all_are_delivered_at_the_first_try(&world, &worker, JOBS).await;
    assert!(worker.terminate().await.success());
}

#[tokio::test]
async fn a_scheduler_logs_that_its_resolver_refuses_and_does_not_ask_it_for_a_while() {
    const DOMAINS: usize = 20;
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.set_behavior(Behavior::Code(ResponseCode::Refused));
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
        .expect("a resolver that refuses blocks no bounce");
    assert_eq!(dns.asked().len(), asked, "the resolver is not asked");
    let log = scheduler.log();
    let lines = |expected: &str| log.lines().filter(|line| line.contains(expected)).count();
    assert_eq!(lines("REFUSED"), 1, "{log}");
    assert_eq!(
        lines("check the DNS server"),
        1,
        "the log explains what to do:\n{log}"
    );
    assert!(scheduler.terminate().await.success());
}
