//! Addresses whose mail goes to one mail system share a destination, and a domain stays where it
//! was placed first, whatever the configuration and the DNS say later.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use config::model::Config;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::standing::Standing;
use futures::future::join;
use harness::bounce::{FULL, UNKNOWN, bounce};
use harness::dns::{DnsServer, Mood};
use harness::http::{Http, json};
use harness::redis;
use harness::world::{DAY, LEASE, Settings, World, id};
use policy::table::Table;
use scheduler::intake::accept::Accept;
use scheduler::intake::{facts, json};
use scheduler::placement::{Placer, propose, rows_in_vain};
use serde_json::json;
use store::handle::Store;
use store::schedule::Answer;
use tempfile::TempDir;

/// How long placing may take here where the DNS is silent; long enough for a server that answers on
/// a busy machine.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);

/// One scheduler of several, with a configuration and a memory of its own.
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

    async fn take_in(&self, world: &World, recipients: &[&str], reply: &str) -> Vec<Answer> {
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

    /// The destination that the job of an address was started at.
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

    /// What Redis keeps of a domain. The replica must not have seen it, for it would remember.
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

fn asking(dns: &DnsServer) -> Config {
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
    replica.take_in(&world, &addresses, FULL).await;
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

    // The worker pulls by destination, and the events say it too.
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
    let told = world.events().await;
    assert!(
        told.iter()
            .any(|event| event.destination == Some(Destination::named("microsoft"))),
        "{told:?}"
    );
}

#[tokio::test]
async fn domains_whose_mail_goes_to_the_same_hosts_share_a_destination() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.knows(
        "a.example",
        &[
            (10, "mx1.host.example."),
            (10, "mx2.host.example."),
            (20, "backup.a.example."),
        ],
    )
    .knows(
        "b.example",
        &[(5, "MX2.host.example."), (5, "mx1.host.example.")],
    )
    .knows(
        "c.example",
        &[(1, "aspmx.l.google.com."), (5, "alt1.aspmx.l.google.com.")],
    )
    .knows("null.example", &[(0, ".")])
    .knows("none.example", &[]);
    let replica = Replica::start(&world, &asking(&dns)).await;
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
        replica.take_in(&world, &[address], FULL).await;
        assert_eq!(replica.destination(address).await, destination);
    }
    let asked = dns.asked();
    assert!(
        !asked
            .iter()
            .any(|domain| domain == "gmail.com" || domain.starts_with('[')),
        "{asked:?}"
    );

    // All are settled now, the ones that stand alone too: nobody asks again, not even after a
    // restart.
    let again = Replica::start(&world, &asking(&dns)).await;
    let addresses = [
        "sam@a.example",
        "sam@null.example",
        "sam@none.example",
        "sam@unheard-of.example",
    ];
    for replica in [&replica, &again] {
        replica.take_in(&world, &addresses, FULL).await;
    }
    assert_eq!(dns.asked(), asked);
}

#[tokio::test]
async fn a_domain_stays_where_it_was_placed_through_restarts_and_changes_of_configuration() {
    let world = World::new().await;
    let before = Replica::start(&world, &Config::embedded()).await;
    before
        .take_in(&world, &["jo@acme.example", "jo@gmail.com"], FULL)
        .await;
    before
        .take_in(&world, &["gone@acme.example"], UNKNOWN)
        .await;

    let text = "[[provider]]\nname = \"acme\"\ndomains = [\"acme.example\", \"mail.acme.example\"]\n\
                [[provider]]\nname = \"google\"\ndomains = []\n";
    let after = Replica::start(&world, &config(text)).await;
    let addresses = [
        "jo@acme.example",
        "jo@gmail.com",
        "gone@acme.example",
        "jo@mail.acme.example",
    ];
    let mut answers = after
        .take_in(&world, &addresses, UNKNOWN.replace('5', "4").as_str())
        .await
        .into_iter();
    assert!(
        matches!(answers.next(), Some(Answer::Duplicate)),
        "its job is found"
    );
    assert!(matches!(answers.next(), Some(Answer::Duplicate)));
    assert!(
        matches!(answers.next(), Some(Answer::Retired(record)) if record.standing == Standing::Inactive)
    );
    assert_eq!(after.destination("jo@acme.example").await, "acme.example");
    assert_eq!(after.destination("jo@gmail.com").await, "google");
    assert_eq!(
        after.destination("jo@mail.acme.example").await,
        "acme",
        "a new domain goes by the new table"
    );
    assert_eq!(
        before.destination("jo@mail.acme.example").await,
        "acme",
        "also for those who do not know the table"
    );
}

#[tokio::test]
async fn schedulers_that_disagree_at_the_same_time_agree_on_one_placement() {
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
    // Both have looked before either writes.
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
        left.take_in(&world, &recipients, FULL),
        right.take_in(&world, &recipients, FULL),
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
async fn looking_an_address_up_places_nothing() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let told = http.get_json("/v1/addresses/jo@gmail.com").await;
    assert_eq!(told["job"], json!(null));
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
            .take_in(&world, &[format!("jo@{domain}").as_str()], FULL)
            .await;
        assert_eq!(replica.destination(&format!("jo@{domain}")).await, "acme");
    }
}

#[tokio::test]
async fn an_address_is_found_under_its_placement_with_job_and_standing() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.knows("a.example", &[(10, "mx.host.example.")]);
    let config = asking(&dns);
    let http = Http::serve_with(&world, &config).await;
    let bounces = json!([
        bounce("jo@a.example", "m1", FULL),
        bounce("gone@a.example", "m1", UNKNOWN),
        bounce("jo@gmail.com", "m1", FULL),
        bounce("gone@gmail.com", "m1", UNKNOWN),
    ]);
    assert_eq!(http.post_json(&bounces).await.status(), 202);
    // By one that has no configuration in common with it.
    let elsewhere = World::sharing(&world).await;
    for http in [&http, &Http::serve(&elsewhere).await] {
        for (domain, destination) in [("a.example", "mx.host.example"), ("gmail.com", "google")] {
            let told = http.get_json(&format!("/v1/addresses/jo@{domain}")).await;
            assert_eq!(told["job"]["destination"], destination);
            let told = http.get_json(&format!("/v1/addresses/gone@{domain}")).await;
            assert_eq!(told["standing"], "inactive");
        }
        let body = json!({"addresses": ["jo@a.example", "gone@a.example", "gone@gmail.com", "new@gmail.com"]});
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
async fn a_silent_dns_holds_nothing_up() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.becomes(Mood::Silent);
    let replica = Replica::start(&world, &asking(&dns)).await;
    let recipients: Vec<String> = (0..500).map(|n| format!("jo@d{n}.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let began = Instant::now();
    replica.take_in(&world, &recipients, FULL).await;
    assert!(
        began.elapsed() < 3 * DNS_TIMEOUT,
        "all share one timeout: {:?}",
        began.elapsed()
    );
    assert_eq!(replica.destination("jo@d0.example").await, "d0.example");

    // It is left alone for a while, so that the next batches need not wait at all.
    let asked = dns.asked().len();
    replica
        .take_in(&world, &["sam@d500.example", "sam@d501.example"], FULL)
        .await;
    assert_eq!(dns.asked().len(), asked);
}

#[tokio::test]
async fn what_is_known_of_an_address_is_found_also_when_a_dns_answers_again_that_was_silent() {
    for mood in [Mood::Silent, Mood::Failing] {
        let (world, dns) = (
            World::with(Settings {
                max_lapses: 1,
                ..Settings::default()
            })
            .await,
            DnsServer::start().await,
        );
        let domains = ["suppressed", "inactive", "delivered", "quarantined", "told"]
            .map(|what| format!("{what}.example"));
        let jo = domains.each_ref().map(|domain| format!("jo@{domain}"));
        dns.becomes(mood);
        let early = Replica::start(&world, &asking(&dns)).await;
        let fact =
            |kind, address| facts::read(json!({"type": kind, "recipient": address})).unwrap();
        early
            .accept
            .tell(vec![fact("complaint", &jo[0]), fact("delivered", &jo[4])])
            .await
            .unwrap();
        early.take_in(&world, &[&jo[1]], UNKNOWN).await;
        let before_they_got_mail = Timestamp::from_ms(world.now().ms() - 1);
        early.take_in(&world, &[&jo[2]], FULL).await;
        world.clock.advance(2 * DAY);
        world.work().await;
        early.take_in(&world, &[&jo[3]], FULL).await;
        world.clock.advance(2 * DAY);
        world.claim_one().await;
        world.clock.advance(LEASE);
        assert_eq!(world.claim().await.len(), 0, "it is in quarantine");

        dns.becomes(Mood::Helpful);
        for domain in &domains {
            dns.knows(domain, &[(10, "mx.host.example.")]);
        }
        let later = Replica::start(&world, &asking(&dns)).await;
        let others = domains.each_ref().map(|domain| format!("sam@{domain}"));
        later
            .take_in(&world, &others.each_ref().map(String::as_str), FULL)
            .await;
        for address in [&jo[2], &jo[4]] {
            let mut old = bounce(address, "m1", FULL);
            old["occurred_at"] = json!(before_they_got_mail);
            let old = json::read(old, world.now(), 1 << 10).unwrap();
            let answered = later.accept.accept(vec![old]).await.unwrap();
            assert_eq!(
                answered[0].answer,
                Answer::Stale,
                "{mood:?}: {address} got mail since"
            );
        }
        let answers = later.take_in(&world, &[&jo[0], &jo[1], &jo[3]], FULL).await;
        for (answer, standing) in answers
            .iter()
            .zip([Standing::Suppressed, Standing::Inactive])
        {
            assert!(
                matches!(answer, Answer::Retired(record) if record.standing == standing),
                "{mood:?}: {answer:?}"
            );
        }
        assert_eq!(
            answers[2],
            Answer::Duplicate,
            "{mood:?}: the job in quarantine is found"
        );
    }
}

#[tokio::test]
async fn a_dns_that_fails_leaves_a_domain_at_its_own_name_for_good() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    dns.becomes(Mood::Failing);
    let replica = Replica::start(&world, &asking(&dns)).await;
    replica
        .take_in(&world, &["jo@a.example", "jo@gmail.com"], FULL)
        .await;
    assert_eq!(replica.destination("jo@a.example").await, "a.example");
    assert_eq!(replica.destination("jo@gmail.com").await, "google");
    let other = Replica::start(&world, &Config::embedded()).await;
    assert_eq!(other.kept("a.example").await.as_deref(), Some("a.example"));
    assert_eq!(
        other.kept("gmail.com").await.as_deref(),
        Some("google"),
        "this one needs no DNS"
    );
}

#[tokio::test]
async fn a_batch_of_new_domains_is_looked_up_within_one_timeout() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    let domains: Vec<String> = (0..500).map(|n| format!("d{n}.example")).collect();
    for domain in &domains {
        dns.knows(domain, &[(10, "mx.host.example.")]);
    }
    let replica = Replica::start(&world, &asking(&dns)).await;
    let recipients: Vec<String> = domains
        .iter()
        .map(|domain| format!("jo@{domain}"))
        .collect();
    replica
        .take_in(
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
    // A resolver repeats a question whose answer takes long; we ask once.
    let asked = dns.asked();
    assert_eq!(asked.iter().collect::<HashSet<_>>().len(), 500);
    assert!(
        asked.len() < 600,
        "each is asked for once, but for {}",
        asked.len() - 500
    );
}

#[tokio::test]
async fn a_flood_of_domains_does_not_grow_what_is_kept_without_bound() {
    let (world, dns) = (World::new().await, DnsServer::start().await);
    let mut config = asking(&dns);
    config.placement.kept_max = 40;
    let replica = Replica::start(&world, &config).await;
    let domains: Vec<String> = (0..300).map(|n| format!("d{n}.example")).collect();
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    for batch in domains.chunks(10) {
        let recipients: Vec<String> = batch.iter().map(|domain| format!("jo@{domain}")).collect();
        replica
            .take_in(
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
    // One batch may go over what was left in its shards.
    assert!((40..80).contains(&kept), "{kept}");

    // Beyond it a domain goes where the configuration alone says, so that all find it there.
    dns.knows("late.example", &[(10, "mx.host.example.")]);
    replica
        .take_in(&world, &["jo@late.example", "jo@gmail.com"], FULL)
        .await;
    assert_eq!(fresh.destination("jo@late.example").await, "late.example");
    assert_eq!(fresh.destination("jo@gmail.com").await, "google");
}

#[tokio::test]
async fn a_policy_row_for_a_domain_that_belongs_to_a_provider_is_told_of() {
    let world = World::new().await;
    let row = |destination: &str| {
        let text = format!(
            "[[row]]\nname = \"mine\"\nstatus = \"*\"\nscope = \"host\"\ndelays = [\"1h\"]\nfinal = \"message\"\n\
             destination = \"{destination}\"\n"
        );
        Table::with_file("mine.toml", &text).unwrap()
    };
    let told = rows_in_vain(&row("gmail.com"), &world.store);
    assert!(
        told.len() == 1 && told[0].contains("mine") && told[0].contains("\"google\""),
        "{told:?}"
    );
    for good in ["google", "example.com", "mx.host.example"] {
        assert_eq!(rows_in_vain(&row(good), &world.store), [""; 0]);
    }
}
