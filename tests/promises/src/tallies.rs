//! Attempts are counted in the same call that changes their job, so that tallies, jobs and journal
//! never disagree.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::destination::Destination;
use domain::event::{Event, EventKind};
use domain::outcome::Outcome;
use domain::reply::Reply;
use domain::tally::{Tally, TallyResult};
use harness::bounce::{FULL, MAINTENANCE, OK, UNKNOWN, bounce};
use harness::random::Random;
use harness::smtp::{Act, SmtpPeer};
use harness::world::{DAY, HOUR, LEASE, Settings, World};
use policy::table::Table;
use senders::lease_end::LeaseEnd;
use senders::settings::session::AfterDot;
use senders::settings::smtp::SmtpSettings;
use senders::smtp::SmtpSender;
use serde_json::json;
use store::schedule::Answer;
use store::settle::Settled;
use tokio_util::sync::CancellationToken;
use worker::attempt::Attempter;
use worker::content::Contents;
use worker::routes::Routes;

const DOMAINS: [&str; 2] = ["one.example", "two.example"];

/// How attempts may end, and the event in the journal for each.
const ENDS: [(TallyResult, EventKind); 3] = [
    (TallyResult::Deferred, EventKind::AttemptDeferred),
    (TallyResult::Retired, EventKind::AddressRetired),
    (TallyResult::Delivered, EventKind::JobClosed),
];

#[tokio::test]
async fn the_tallies_equal_the_attempts_in_the_journal() {
    let world = World::new().await;
    let mut random = Random::from_seed(7);
    let start = world.now();
    for n in 0..60 {
        let domain = DOMAINS[n % 2];
        world
            .post_bounce(bounce(&format!("user{n}@{domain}"), "m1", MAINTENANCE))
            .await;
        // A bounce retires the address. This is not an attempt, so it is not counted.
        if n % 10 == 0 {
            world
                .post_bounce(bounce(&format!("user{n}@{domain}"), "m2", UNKNOWN))
                .await;
        }
        world.clock.advance(HOUR);
        let mut jobs = world.claim().await;
        // Some jobs are given back or lapse. That is not counted either.
        match random.below(8) {
            0 => {
                for leased in jobs.drain(..) {
                    assert!(world.release(&leased.lease).await);
                }
            }
            1 => {
                jobs.clear();
                world.clock.advance(LEASE);
            }
            _ => {}
        }
        let replies = [(4, OK), (4, MAINTENANCE), (1, FULL), (2, UNKNOWN)];
        for leased in jobs {
            world
                .attempt_and_settle([leased], random.weighted(&replies))
                .await;
        }
    }

    let events = world.events().await;
    for domain in DOMAINS {
        let destination = Destination::named(domain);
        let of_journal = ENDS.map(|(result, kind)| {
            let counted = |event: &&Event| {
                event.kind == kind
                    && event.destination.as_ref() == Some(&destination)
                    && event.attempt > Some(0)
                    // The last attempt of a retired address has two events.
                    && (kind != EventKind::AttemptDeferred || event.due.is_some())
            };
            (result, events.iter().filter(counted).count() as u64)
        });
        assert!(
            of_journal.iter().all(|(_, count)| *count > 0),
            "every kind of end occurred: {of_journal:?}"
        );
        let mut counted = BTreeMap::new();
        let days = world.now().since(start).as_secs() as u32 / 86_400;
        for day in 0..=days + 1 {
            for (Tally { result, .. }, count) in world
                .store
                .tally(&destination, start.plus(DAY * day))
                .await
                .unwrap()
            {
                *counted.entry(result).or_default() += count;
            }
        }
        assert_eq!(counted, BTreeMap::from(of_journal), "{domain}");
    }
}

#[tokio::test]
async fn a_tally_contains_the_status_the_attempt_the_hour_and_the_waiting_time_of_the_job() {
    let world = World::new().await;
    world
        .post_and_wait_until_due(bounce("jo@one.example", "m1", FULL))
        .await;
    world
        .attempt_and_settle(world.claim().await, MAINTENANCE)
        .await;
    let status = Some("4.3.2".parse().unwrap());
    let hour = u8::try_from(world.now().ms() % 86_400_000 / 3_600_000).unwrap();
    let expected = Tally {
        result: TallyResult::Deferred,
        status,
        attempt: 1,
        hour,
        bucket: 5,
    };
    let destination = Destination::named("one.example");
    assert_eq!(
        world.store.tally(&destination, world.now()).await.unwrap(),
        [(expected, 1)]
    );
    assert_eq!(
        world
            .store
            .tally(&destination, world.now().plus(DAY))
            .await
            .unwrap(),
        []
    );
}

/// What was counted at a destination on the world's day.
async fn counted(world: &World, destination: &str) -> BTreeMap<TallyResult, u64> {
    let mut counted = BTreeMap::new();
    for (Tally { result, .. }, count) in world
        .store
        .tally(&Destination::named(destination), world.now())
        .await
        .unwrap()
    {
        *counted.entry(result).or_default() += count;
    }
    counted
}

#[tokio::test]
async fn a_message_sent_completely_but_not_answered_counts_as_unknown_with_any_after_dot_setting() {
    let peer = SmtpPeer::agreeable_except(".", Act::Close).await;
    for (after_dot, kind) in [
        (AfterDot::Resend, EventKind::AttemptDeferred),
        (AfterDot::AssumeDelivered, EventKind::MessageDelivered),
    ] {
        let world = World::new().await;
        let mut settings = SmtpSettings::new(peer.address.ip().to_string(), peer.address.port());
        settings.session.after_dot = after_dot;
        let routes = Routes::new("default").with("default", Arc::new(SmtpSender::new(settings)));
        let attempter = Attempter::new(
            routes,
            Contents::new(Vec::new()),
            Table::embedded(),
            world.store.clock().clone(),
        );
        let mut mail = bounce("jo@one.example", "m1", FULL);
        mail["content"] = json!({"inline": "Subject: hello\n\nbye\n"});
        world.post_and_wait_until_due(mail).await;
        let settlement = attempter
            .attempt(
                world.claim_one().await,
                &CancellationToken::new(),
                &LeaseEnd::default(),
            )
            .await
            .unwrap()
            .settlement;
        assert_eq!(world.settle(&settlement).await, Settled::Done);
        let event = world.events_of(kind).await.pop().unwrap();
        assert!(event.transcript.unwrap().unknown, "{after_dot:?}");
        assert_eq!(
            event.reason.as_deref(),
            (after_dot == AfterDot::Resend).then_some("unknown")
        );
        assert_eq!(
            counted(&world, "one.example").await,
            BTreeMap::from([(TallyResult::Unknown, 1)]),
            "{after_dot:?}"
        );
    }
}

#[tokio::test]
async fn an_attempt_accepted_by_a_relay_is_counted_once_and_its_final_result_separately() {
    for (refuted, result) in [
        (true, TallyResult::Refuted),
        (false, TallyResult::Confirmed),
    ] {
        let world = World::with(Settings {
            confirm: HOUR,
            ..Settings::default()
        })
        .await;
        world
            .mail
            .set_script(|_| Outcome::Accepted(Reply::parse("250 2.0.0 queued")));
        world
            .post_and_wait_until_due(bounce("jo@one.example", "m1", FULL))
            .await;
        world.work().await;
        if refuted {
            let mut report = bounce("jo@one.example", "m1", FULL);
            report["occurred_at"] = json!(world.now());
            assert!(matches!(
                world.post_bounce(report).await,
                Answer::Deferred { .. }
            ));
        } else {
            world.clock.advance(HOUR);
            assert_eq!(world.work().await, 1);
        }
        let counted = counted(&world, "one.example").await;
        assert_eq!(
            counted,
            BTreeMap::from([(TallyResult::Accepted, 1), (result, 1)])
        );
        assert_eq!(
            counted.keys().filter(|result| result.is_attempt()).count(),
            1
        );
    }
}
