//! A destination that an operator holds gets no attempts until it is released or the hold ends. Its
//! jobs wait without spending attempts.

use domain::destination::Destination;
use domain::event::EventKind;
use harness::bounce::OK;
use harness::world::{HOUR, MS, World};
use store::destination_controls::Hold;

const DESTINATION: &str = "one.example";

#[tokio::test]
async fn a_held_destination_gets_no_attempts_until_it_is_released() {
    let world = World::new().await;
    let destination = Destination::named(DESTINATION);
    world.post_due_jobs(DESTINATION, 30).await;
    let under_way = world.claim_near(DESTINATION, 5).await.jobs;
    world
        .store
        .hold(&destination, None, "their \"abuse desk\" asked")
        .await
        .unwrap();
    let hold = Hold {
        until: None,
        reason: "their \"abuse desk\" asked".to_owned(),
    };
    assert_eq!(world.pace(DESTINATION).await.hold, Some(hold.clone()));
    world.attempt_and_settle(under_way, OK).await;
    let before = world.job(&format!("user29@{DESTINATION}")).await;
    for _ in 0..5 {
        world.clock.advance(HOUR);
        assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 0);
    }
    let after = world.job(&format!("user29@{DESTINATION}")).await;
    assert_eq!((after.job, after.due), (before.job, before.due));

    assert!(world.store.unhold(&destination).await.unwrap());
    assert_eq!(
        world.claim_near(DESTINATION, 100).await.jobs.len(),
        20,
        "at once, as its window allows"
    );
    assert!(
        !world.store.unhold(&destination).await.unwrap(),
        "the destination is no longer held"
    );
    assert_eq!(world.pace(DESTINATION).await.hold, None);

    let held = world.events_of(EventKind::DestinationHeld).await;
    assert_eq!(held.len(), 1);
    assert_eq!(
        (held[0].reason.as_ref(), held[0].until),
        (Some(&hold.reason), None)
    );
    assert_eq!(
        (&*held[0].job, held[0].destination.as_ref()),
        ("", Some(&destination))
    );
    assert_eq!(
        world.events_of(EventKind::DestinationReleased).await.len(),
        1
    );
}

#[tokio::test]
async fn a_hold_with_an_end_ends_by_itself_and_its_jobs_are_tried_at_once() {
    let world = World::new().await;
    let destination = Destination::named(DESTINATION);
    world.post_due_jobs(DESTINATION, 3).await;
    let until = world.now().plus(5 * HOUR);
    world
        .store
        .hold(&destination, Some(until), "maintenance")
        .await
        .unwrap();
    let claimed = world.claim_near(DESTINATION, 100).await;
    assert_eq!((claimed.jobs.len(), claimed.next_visit), (0, Some(until)));
    // The operator expects that the work there ends earlier than first planned.
    let until = world.now().plus(HOUR);
    world
        .store
        .hold(&destination, Some(until), "maintenance")
        .await
        .unwrap();
    let claimed = world.claim_near(DESTINATION, 100).await;
    assert_eq!((claimed.jobs.len(), claimed.next_visit), (0, Some(until)));
    assert_eq!(
        world.events_of(EventKind::DestinationHeld).await[1].until,
        Some(until.ms())
    );
    world.clock.advance(HOUR - MS);
    assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 0);
    world.clock.advance(MS);
    assert_eq!(world.claim_near(DESTINATION, 100).await.jobs.len(), 3);
    assert!(
        !world.store.unhold(&destination).await.unwrap(),
        "the hold had ended"
    );
}
