//! Events of a job carry the number of the attempt that they are about. Events without an attempt
//! of their own carry the number of the last one.

use domain::event::EventKind;
use domain::outcome::Outcome;
use domain::reply::Reply;
use harness::bounce::{FULL, OK, TOO_BIG, UNKNOWN, bounce};
use harness::world::{DAY, MS, Settings, World};
use serde_json::{Value, json};

const JO: &str = "jo@example.com";

/// What a scenario ends with, after two messages have waited in the job of an address.
enum End {
    /// A bounce of this message, with this reply.
    Bounce(&'static str, &'static str),
    /// A fact.
    Fact(Value),
    /// The time for a bounce is over.
    Silence,
    /// Nothing more.
    Nothing,
}

/// The events of the job in their order: kind, message and attempt.
async fn numbers(world: &World) -> Vec<String> {
    let line = |event: domain::event::Event| {
        let attempt = event.attempt.map_or("?".to_owned(), |n| n.to_string());
        let message = event.message.unwrap_or("-".to_owned());
        format!("{} {message} {attempt}", event.kind.name())
    };
    let events = world.events().await.into_iter();
    events
        .filter(|event| event.kind != EventKind::AddressReinstated)
        .map(line)
        .collect()
}

/// A world in which a relay has accepted m1 in attempt 1 and m2 in attempt 2.
async fn with_two_accepted() -> World {
    let world = World::with(Settings {
        confirm: DAY,
        ..Settings::default()
    })
    .await;
    let queued = || Outcome::Accepted(Reply::parse("250 2.0.0 queued"));
    world.mail.set_script(move |_| queued());
    for message in ["m1", "m2"] {
        world.post_bounce(bounce(JO, message, FULL)).await;
    }
    for _ in 0..2 {
        world.clock.set(world.job(JO).await.due.unwrap());
        assert_eq!(world.work().await, 1);
    }
    world
}

/// The events of [`with_two_accepted`].
const ACCEPTED: [&str; 5] = [
    "JobScheduled m1 0",
    "MessageJoined m2 0",
    "MessageAccepted m1 1",
    "MessageDelivered m1 1",
    "MessageAccepted m2 2",
];

async fn end(world: &World, end: End) {
    match end {
        End::Bounce(message, reply) => {
            // Not at the very instant of the last delivery.
            world.clock.advance(MS);
            let mut report = bounce(JO, message, reply);
            report["occurred_at"] = json!(world.now());
            world.post_bounce(report).await;
        }
        End::Fact(fact) => drop(world.report_fact(fact).await),
        End::Silence => {
            world.clock.set(world.job(JO).await.due.unwrap());
            world.work().await;
        }
        End::Nothing => {}
    }
}

#[tokio::test]
async fn after_a_message_that_a_relay_accepted_they_carry_the_number_of_its_attempt() {
    let fact = |kind: &str| End::Fact(json!({"recipient": JO, "type": kind}));
    for (how, expected) in [
        (
            End::Silence,
            ["MessageDelivered m2 2", "JobClosed - 2"].as_slice(),
        ),
        (
            End::Bounce("m2", UNKNOWN),
            &[
                "AttemptDeferred m2 2",
                "MessageDropped m2 2",
                "AddressRetired - 2",
            ],
        ),
        (
            End::Bounce("m2", TOO_BIG),
            &["MessageDropped m2 2", "JobClosed - 2"],
        ),
        (End::Bounce("m2", FULL), &["AttemptDeferred m2 2"]),
        (
            fact("delivered"),
            &["MessageDelivered m2 2", "JobClosed - 2"],
        ),
        (
            fact("complaint"),
            &["MessageDropped m2 2", "AddressSuppressed - 2"],
        ),
        // A bounce of another message, of the platform's own attempt.
        (
            End::Bounce("m9", UNKNOWN),
            &[
                "MessageDropped m2 2",
                "MessageDropped m9 0",
                "AddressRetired m9 0",
            ],
        ),
    ] {
        let world = with_two_accepted().await;
        end(&world, how).await;
        let found = numbers(&world).await;
        assert_eq!(found[..ACCEPTED.len()], ACCEPTED);
        assert_eq!(found[ACCEPTED.len()..], *expected);
    }
}

#[tokio::test]
async fn the_tally_of_a_confirmed_attempt_has_its_number() {
    let world = with_two_accepted().await;
    end(&world, End::Silence).await;
    let destination = domain::destination::Destination::named("example.com");
    let tallies = world.store.tally(&destination, world.now()).await.unwrap();
    let confirmed: Vec<u32> = tallies
        .iter()
        .filter(|(tally, _)| tally.result == domain::tally::TallyResult::Confirmed)
        .map(|(tally, _)| tally.attempt)
        .collect();
    assert_eq!(confirmed, [2]);
}

#[tokio::test]
async fn after_a_failed_attempt_they_carry_its_number() {
    for (reply, how, expected) in [
        (
            UNKNOWN,
            End::Nothing,
            [
                "AttemptDeferred m1 1",
                "MessageDropped m1 1",
                "MessageDropped m2 1",
                "AddressRetired - 1",
            ]
            .as_slice(),
        ),
        (
            TOO_BIG,
            End::Nothing,
            &[
                "MessageDropped m1 1",
                "MessageDropped m2 1",
                "JobClosed - 1",
            ],
        ),
        (
            OK,
            End::Nothing,
            &[
                "MessageDelivered m1 1",
                "MessageDelivered m2 1",
                "JobClosed - 1",
            ],
        ),
        (
            FULL,
            End::Fact(json!({"recipient": JO, "type": "unsubscribe"})),
            &[
                "AttemptDeferred m1 1",
                "MessageDropped m1 1",
                "MessageDropped m2 1",
                "AddressSuppressed - 1",
            ],
        ),
        (
            FULL,
            End::Bounce("m3", UNKNOWN),
            &[
                "AttemptDeferred m1 1",
                "MessageDropped m1 1",
                "MessageDropped m2 1",
                "MessageDropped m3 0",
                "AddressRetired m3 0",
            ],
        ),
    ] {
        let world = World::new().await;
        for message in ["m1", "m2"] {
            world.post_bounce(bounce(JO, message, FULL)).await;
        }
        world.clock.set(world.job(JO).await.due.unwrap());
        world.mail.reply_with(reply);
        assert_eq!(world.work().await, 1);
        end(&world, how).await;
        assert_eq!(numbers(&world).await[2..], *expected, "{reply}");
    }
}

#[tokio::test]
async fn without_an_attempt_they_carry_the_number_of_the_last_one() {
    // It expires while it waits.
    let world = World::new().await;
    let mut brief = bounce(JO, "m1", FULL);
    brief["expires_at"] = json!(world.now().plus(MS));
    world.post_and_wait_until_due(brief).await;
    world.work().await;
    let expected = ["JobScheduled m1 0", "MessageExpired m1 0", "JobClosed - 0"];
    assert_eq!(numbers(&world).await, expected);

    // It is given up on arrival.
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", TOO_BIG)).await;
    assert_eq!(numbers(&world).await, ["MessageDropped m1 0"]);

    // The job is too old for another attempt.
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    world.clock.advance(400 * DAY);
    world.work().await;
    assert_eq!(world.mail.messages(), Vec::<String>::new());
    let found = numbers(&world).await;
    assert!(found.iter().all(|line| line.ends_with(" 0")), "{found:?}");
    assert!(
        found.contains(&"AddressRetired - 0".to_owned()),
        "{found:?}"
    );

    // Another message takes its place.
    let world = World::with(Settings {
        max_messages: 1,
        ..Settings::default()
    })
    .await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.reply_with(FULL);
    world.work().await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    let found = numbers(&world).await;
    assert!(
        found.contains(&"MessageDropped m1 1".to_owned()),
        "{found:?}"
    );
}
