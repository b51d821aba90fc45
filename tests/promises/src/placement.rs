//! Addresses whose mail goes to one mail system share a destination. A domain keeps the destination
//! that it got first, even if the configuration or the DNS changes later.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use config::model::Config;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::standing::Standing;
use futures::future::join;
use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::dns::{Behavior, DnsServer};
use harness::http::{Http, json};
use harness::redis;
use harness::world::{DAY, LEASE, Settings, World, id};
use policy::table::Table;
use scheduler::intake::accept::Accept;
use scheduler::intake::{facts, json};
use scheduler::placement::{Placer, propose, rows_without_effect};
use serde_json::json;
use store::handle::Store;
use store::schedule::Answer;
use tempfile::TempDir;

/// How long placement waits here for an answer of the DNS. It is long enough for a server that
/// answers on a busy machine.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);

/// One scheduler of several, with its own configuration and its own cache.
struct Replica {
    store: Store,
    accept: Accept,
}

impl Replica {
    async fn start(world: &World, config: &Config) -> Self {
        let table = Table::embedded();
        let connections = redis::connections(&redis::url());
        let opened = Store::open(
            connections,
            &world.prefix,
            world.store.shards(),
            config.limits(&table),
            world.clock.clone(),
        );
        let store = opened
            .await
            .unwrap()
            .with_places(config.providers.clone(), config.placement.bounds());
        let placer = Placer::from_config(store.clone(), config).unwrap();
        let accept = Accept::new(store.clone(), table, placer);
        Self { store, accept }
    }

    async fn post_bounces_of(
        &self,
        world: &World,
        recipients: &[&str],
        reply: &str,
    ) -> Vec<Answer> {
        let read = |recipient: &&str| {
            json::read(bounce(recipient, "m1", reply), world.now(), 1 << 10).unwrap()
        };
        let answered = self
            .accept
            .accept(recipients.iter().map(read).collect())
            .await
            .unwrap();
        answered.into_iter().map(|one| one.answer).collect()
    }

    /// The destination of the address's job.
    async fn destination(&self, address: &str) -> String {
        let report = self.store.address(&id(address)).await.unwrap();
        report
            .job
            .expect("the address has a job, and it is found")
            .job
            .head
            .destination
            .to_string()
    }

    /// What Redis has stored about a domain. The replica must not have seen the domain before,
    /// because it would remember it.
    async fn kept(&self, domain: &str) -> Option<String> {
        self.store
            .kept(&[domain])
            .await
            .unwrap()
            .remove(0)
            .map(|kept| kept.to_string())
    }
}

fn config(text: &str) -> Config {
    let folder = TempDir::with_prefix("redeliver-test-").unwrap();
    let file = folder.path().join("redeliver.toml");
    fs::write(&file, text).unwrap();
    Config::load(Some(&file)).unwrap()
}

fn config_with_dns(dns: &DnsServer) -> Config {
    config(&format!(
        "[placement]\nmx = true\nnameservers = \"{}\"\ntimeout = \"{}ms\"",
        dns.address,
        DNS_TIMEOUT.as_millis()
    ))
}

/// A configuration in which these domains belong to a provider of this name.
fn provider(name: &str, domains: &[&str]) -> Config {
    config(&format!(
        "[[provider]]\nname = \"{name}\"\ndomains = {domains:?}\n"
    ))
}

#[tokio::test]
async fn the_domains_of_one_provider_share_a_destination() {
    let world = World::new().await;
    let replica = Replica::start(&world, &Config::embedded()).await;
    let addresses = [
        "jo@gmail.com",
        "jo@GoogleMail.com",
        "jo@hotmail.fr",
        "jo@outlook.com",
        "jo@example.com",
        "jo@google",
    ];
    replica.post_bounces_of(&world, &addresses, FULL).await;
    let mut destinations = Vec::new();
    for address in addresses {
        destinations.push(replica.destination(address).await);
    }
    assert_eq!(
        destinations,
        [
            "google",
            "google",
            "microsoft",
            "microsoft",
            "example.com",
            "google."
        ]
    );

    // Claims are per destination, and the events contain it too.
    world
        .clock
        .set(world.job("jo@gmail.com").await.due.unwrap().plus(DAY));
    let leased = world.claim().await;
    assert_eq!(leased.len(), addresses.len());
    assert_eq!(
        leased
            .iter()
            .filter(|leased| leased.lease.destination.as_str() == "google")
            .count(),
        2
    );
    let events = world.events().await;
    assert!(
        events
            .iter()
            .any(|event| event.destination == Some(Destination::named("microsoft"))),
        "{events:?}"
    );
}

#[tokio::test]
async fn domains_whose_mail_goes_to_the_same_hosts_share_a_destination() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.set_mx(
        "a.example",
        &[
            (10, "mx1.host.example."),
            (10, "mx2.host.example."),
            (20, "backup.a.example."),
        ],
    )
    .set_mx(
        "b.example",
        &[(5, "MX2.host.example."), (5, "mx1.host.example.")],
    )
    .set_mx(
        "c.example",
        &[(1, "aspmx.l.google.com."), (5, "alt1.aspmx.l.google.com.")],
    )
    .set_mx("null.example", &[(0, ".")])
    .set_mx("none.example", &[]);
    let replica = Replica::start(&world, &config_with_dns(&dns)).await;
    for (address, destination) in [
        ("jo@a.example", "mx1.host.example+mx2.host.example"),
        ("jo@b.example", "mx1.host.example+mx2.host.example"),
        ("jo@c.example", "google"),
        ("jo@gmail.com", "google"),
        ("jo@null.example", "null.example"),
        ("jo@none.example", "none.example"),
        ("jo@unheard-of.example", "unheard-of.example"),
        ("jo@[192.0.2.1]", "[192.0.2.1]"),
    ] {
        replica.post_bounces_of(&world, &[address], FULL).await;
        assert_eq!(replica.destination(address).await, destination);
    }
    let asked = dns.asked();
    assert!(
        !asked
            .iter()
            .any(|domain| domain == "gmail.com" || domain.starts_with('[')),
        "{asked:?}"
    );

    // All domains have their placement now, including those that share no hosts. No domain is
    // looked up again, even after a restart.
    let again = Replica::start(&world, &config_with_dns(&dns)).await;
    let addresses = [
        "sam@a.example",
        "sam@null.example",
        "sam@none.example",
        "sam@unheard-of.example",
    ];
    for replica in [&replica, &again] {
        replica.post_bounces_of(&world, &addresses, FULL).await;
    }
    assert_eq!(dns.asked(), asked);
}

#[tokio::test]
async fn a_domain_keeps_its_destination_through_restarts_and_changes_of_configuration() {
    let world = World::new().await;
    let before = Replica::start(&world, &Config::embedded()).await;
    before
        .post_bounces_of(&world, &["jo@acme.example", "jo@gmail.com"], FULL)
        .await;
    before
        .post_bounces_of(&world, &["gone@acme.example"], UNKNOWN)
        .await;

    let text = "[[provider]]\nname = \"acme\"\n\
        domains = [\"acme.example\", \"mail.acme.example\"]\n\
                [[provider]]\nname = \"google\"\ndomains = []\n";
    let after = Replica::start(&world, &config(text)).await;
    let addresses = [
        "jo@acme.example",
        "jo@gmail.com",
        "gone@acme.example",
        "jo@mail.acme.example",
    ];
    let mut answers = after
        .post_bounces_of(&world, &addresses, UNKNOWN.replace('5', "4").as_str())
        .await
        .into_iter();
    assert!(
        matches!(answers.next(), Some(Answer::Duplicate)),
        "the job of the address is found"
    );
    assert!(matches!(answers.next(), Some(Answer::Duplicate)));
    assert!(matches!(answers.next(),
            Some(Answer::Retired(record)) if record.standing == Standing::Inactive));
    assert_eq!(after.destination("jo@acme.example").await, "acme.example");
    assert_eq!(after.destination("jo@gmail.com").await, "google");
    assert_eq!(
        after.destination("jo@mail.acme.example").await,
        "acme",
        "a new domain is placed by the new table"
    );
    assert_eq!(
        before.destination("jo@mail.acme.example").await,
        "acme",
        "also for a scheduler that does not have the new table"
    );
}

#[tokio::test]
async fn schedulers_with_different_configurations_agree_on_one_placement() {
    let world = World::new().await;
    let domains: Vec<String> = (0..200).map(|n| format!("d{n}.example")).collect();
    let recipients: Vec<String> = domains
        .iter()
        .map(|domain| format!("jo@{domain}"))
        .collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    let left = Replica::start(&world, &provider("left", &domains)).await;
    let right = Replica::start(&world, &provider("right", &domains)).await;
    // Both schedulers have read before either of them writes.
    for replica in [&left, &right] {
        assert!(
            replica
                .store
                .kept(&domains)
                .await
                .unwrap()
                .iter()
                .all(Option::is_none)
        );
    }
    let place = async |replica: &Replica| {
        let proposals = propose(replica.store.providers(), None, &domains).await;
        replica.store.place(proposals).await.unwrap()
    };
    let (by_left, by_right) = join(place(&left), place(&right)).await;
    assert_eq!(by_left, by_right);

    let (answers, others) = join(
        left.post_bounces_of(&world, &recipients, FULL),
        right.post_bounces_of(&world, &recipients, FULL),
    )
    .await;
    let started = |answer: &Answer| matches!(answer, Answer::Scheduled { .. });
    assert_eq!(
        answers
            .iter()
            .chain(&others)
            .filter(|answer| started(answer))
            .count(),
        200,
        "one job per address"
    );
}

#[tokio::test]
async fn looking_up_an_address_places_no_domain() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let report = http.get_json("/v1/addresses/jo@gmail.com").await;
    assert_eq!(report["job"], json!(null));
    let body = json!({"addresses": ["jo@gmail.com", "jo@acme.example"]});
    let answer = json(
        http.post("/v1/addresses/check")
            .json(&body)
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(answer["checked"], 2);

    let replica = Replica::start(&world, &provider("acme", &["gmail.com", "acme.example"])).await;
    for domain in ["gmail.com", "acme.example"] {
        assert_eq!(replica.kept(domain).await, None, "{domain}");
        replica
            .post_bounces_of(&world, &[format!("jo@{domain}").as_str()], FULL)
            .await;
        assert_eq!(replica.destination(&format!("jo@{domain}")).await, "acme");
    }
}

#[tokio::test]
async fn an_address_is_found_under_its_placement_with_job_and_standing() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.set_mx("a.example", &[(10, "mx.host.example.")]);
    let config = config_with_dns(&dns);
    let http = Http::serve_with(&world, &config).await;
    let bounces = json!([
        bounce("jo@a.example", "m1", FULL),
        bounce("gone@a.example", "m1", UNKNOWN),
        bounce("jo@gmail.com", "m1", FULL),
        bounce("gone@gmail.com", "m1", UNKNOWN),
    ]);
    assert_eq!(http.post_json(&bounces).await.status(), 202);
    // By a scheduler that shares no configuration with the first.
    let elsewhere = World::sharing(&world).await;
    for http in [&http, &Http::serve(&elsewhere).await] {
        for (domain, destination) in [("a.example", "mx.host.example"), ("gmail.com", "google")] {
            let report = http.get_json(&format!("/v1/addresses/jo@{domain}")).await;
            assert_eq!(report["job"]["destination"], destination);
            let report = http.get_json(&format!("/v1/addresses/gone@{domain}")).await;
            assert_eq!(report["standing"], "inactive");
        }
        let body = json!({"addresses": ["jo@a.example", "gone@a.example", "gone@gmail.com",
            "new@gmail.com"]});
        let answer = json(
            http.post("/v1/addresses/check")
                .json(&body)
                .send()
                .await
                .unwrap(),
        )
        .await;
        let left_out: Vec<_> = answer["not_active"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["address"])
            .collect();
        assert_eq!(left_out, ["gone@a.example", "gone@gmail.com"]);
    }
}

#[tokio::test]
async fn a_silent_dns_delays_no_bounce_longer_than_one_timeout() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.set_behavior(Behavior::Silent);
    let replica = Replica::start(&world, &config_with_dns(&dns)).await;
    let recipients: Vec<String> = (0..500).map(|n| format!("jo@d{n}.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let began = Instant::now();
    replica.post_bounces_of(&world, &recipients, FULL).await;
    assert!(
        began.elapsed() < 3 * DNS_TIMEOUT,
        "all domains share one timeout: {:?}",
        began.elapsed()
    );
    assert_eq!(replica.destination("jo@d0.example").await, "d0.example");

    // The DNS is not asked for a while, so that the next batches need not wait at all.
    let asked = dns.asked().len();
    replica
        .post_bounces_of(&world, &["sam@d500.example", "sam@d501.example"], FULL)
        .await;
    assert_eq!(dns.asked().len(), asked);
}

#[tokio::test]
async fn the_state_of_an_address_is_found_even_after_a_silent_dns_answers_again() {
    for behavior in [Behavior::Silent, Behavior::Failing] {
        let (world, dns) = (
            World::with(Settings {
                max_lapses: 1,
                ..Settings::default()
            })
            .await,
            DnsServer::start().await,
        );
        let domains = [
            "suppressed",
            "inactive",
            "delivered",
            "quarantined",
            "report",
        ]
        .map(|what| format!("{what}.example"));
        let jo = domains.each_ref().map(|domain| format!("jo@{domain}"));
        dns.set_behavior(behavior);
        let early = Replica::start(&world, &config_with_dns(&dns)).await;
        let fact =
            |kind, address| facts::read(json!({"type": kind, "recipient": address})).unwrap();
        early
            .accept
            .record_facts_and_wait(vec![fact("complaint", &jo[0]), fact("delivered", &jo[4])])
            .await
            .unwrap();
        early.post_bounces_of(&world, &[&jo[1]], UNKNOWN).await;
        let before_they_got_mail = Timestamp::from_ms(world.now().ms() - 1);
        early.post_bounces_of(&world, &[&jo[2]], FULL).await;
        world.clock.advance(2 * DAY);
        world.work().await;
        early.post_bounces_of(&world, &[&jo[3]], FULL).await;
        world.clock.advance(2 * DAY);
        world.claim_one().await;
        world.clock.advance(LEASE);
        assert_eq!(world.claim().await.len(), 0, "the job is in quarantine");

        dns.set_behavior(Behavior::Helpful);
        for domain in &domains {
            dns.set_mx(domain, &[(10, "mx.host.example.")]);
        }
        let later = Replica::start(&world, &config_with_dns(&dns)).await;
        let others = domains.each_ref().map(|domain| format!("sam@{domain}"));
        later
            .post_bounces_of(&world, &others.each_ref().map(String::as_str), FULL)
            .await;
        for address in [&jo[2], &jo[4]] {
            let mut old = bounce(address, "m1", FULL);
            old["occurred_at"] = json!(before_they_got_mail);
            let old = json::read(old, world.now(), 1 << 10).unwrap();
            let answered = later.accept.accept(vec![old]).await.unwrap();
            assert_eq!(
                answered[0].answer,
                Answer::Stale,
                "{behavior:?}: {address} got mail after that bounce"
            );
        }
        let answers = later
            .post_bounces_of(&world, &[&jo[0], &jo[1], &jo[3]], FULL)
            .await;
        for (answer, standing) in answers
            .iter()
            .zip([Standing::Suppressed, Standing::Inactive])
        {
            assert!(
                matches!(answer, Answer::Retired(record) if record.standing == standing),
                "{behavior:?}: {answer:?}"
            );
        }
        assert_eq!(
            answers[2],
            Answer::Duplicate,
            "{behavior:?}: the job in quarantine is found"
        );
    }
}

#[tokio::test]
async fn a_domain_placed_while_the_dns_fails_keeps_its_own_name_as_destination() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.set_behavior(Behavior::Failing);
    let replica = Replica::start(&world, &config_with_dns(&dns)).await;
    replica
        .post_bounces_of(&world, &["jo@a.example", "jo@gmail.com"], FULL)
        .await;
    assert_eq!(replica.destination("jo@a.example").await, "a.example");
    assert_eq!(replica.destination("jo@gmail.com").await, "google");
    let other = Replica::start(&world, &Config::embedded()).await;
    assert_eq!(other.kept("a.example").await.as_deref(), Some("a.example"));
    assert_eq!(
        other.kept("gmail.com").await.as_deref(),
        Some("google"),
        "a known provider needs no DNS"
    );
}

#[tokio::test]
async fn a_batch_of_new_domains_is_looked_up_within_one_timeout() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    let domains: Vec<String> = (0..500).map(|n| format!("d{n}.example")).collect();
    for domain in &domains {
        dns.set_mx(domain, &[(10, "mx.host.example.")]);
    }
    let replica = Replica::start(&world, &config_with_dns(&dns)).await;
    let recipients: Vec<String> = domains
        .iter()
        .map(|domain| format!("jo@{domain}"))
        .collect();
    replica
        .post_bounces_of(
            &world,
            &recipients.iter().map(String::as_str).collect::<Vec<_>>(),
            FULL,
        )
        .await;
    let placed = replica
        .store
        .destinations(&domains.iter().map(String::as_str).collect::<Vec<_>>())
        .await
        .unwrap();
    assert!(
        placed
            .iter()
            .all(|destination| destination.as_str() == "mx.host.example")
    );
    // The resolver repeats a slow question. We ask only once.
    let asked = dns.asked();
    assert_eq!(asked.iter().collect::<HashSet<_>>().len(), 500);
    assert!(
        asked.len() < 600,
        "each domain is asked for once, except {}",
        asked.len() - 500
    );
}

#[tokio::test]
async fn the_number_of_stored_placements_is_bounded() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    let mut config = config_with_dns(&dns);
    config.placement.kept_max = 40;
    let replica = Replica::start(&world, &config).await;
    let domains: Vec<String> = (0..300).map(|n| format!("d{n}.example")).collect();
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    for batch in domains.chunks(10) {
        let recipients: Vec<String> = batch.iter().map(|domain| format!("jo@{domain}")).collect();
        replica
            .post_bounces_of(
                &world,
                &recipients.iter().map(String::as_str).collect::<Vec<_>>(),
                FULL,
            )
            .await;
    }
    let fresh = Replica::start(&world, &Config::embedded()).await;
    let kept = fresh
        .store
        .kept(&domains)
        .await
        .unwrap()
        .iter()
        .flatten()
        .count();
    // One batch may exceed the limit of its shards.
    assert!((40..80).contains(&kept), "{kept}");

    // Beyond the limit a domain is placed by the configuration alone, so that all schedulers agree.
    dns.set_mx("late.example", &[(10, "mx.host.example.")]);
    replica
        .post_bounces_of(&world, &["jo@late.example", "jo@gmail.com"], FULL)
        .await;
    assert_eq!(fresh.destination("jo@late.example").await, "late.example");
    assert_eq!(fresh.destination("jo@gmail.com").await, "google");
}

#[tokio::test]
async fn a_policy_row_for_a_domain_of_a_provider_is_reported_as_ineffective() {
    let world = World::new().await;
    let row = |destination: &str| {
        let text = format!(
            "[[row]]\nname = \"mine\"\nstatus = \"*\"\nscope = \"host\"\ndelays = [\"1h\"]\n\
             final = \"message\"\n\
             destination = \"{destination}\"\n"
        );
        Table::with_file("mine.toml", &text).unwrap()
    };
    let report = rows_without_effect(&row("gmail.com"), &world.store);
    assert!(
        report.len() == 1 && report[0].contains("mine") && report[0].contains("\"google\""),
        "{report:?}"
    );
    for good in ["google", "example.com", "mx.host.example"] {
        assert_eq!(rows_without_effect(&row(good), &world.store), [""; 0]);
    }
}
