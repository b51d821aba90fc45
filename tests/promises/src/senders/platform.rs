//! A platform's trouble in the life of a job: nobody gets mail again and again because an answer
//! was lost on its way, and what a platform asks for in time is what it gets.

use std::sync::Arc;

use domain::event::{DropReason, EventKind};
use harness::bounce::{FULL, bounce};
use harness::platform::{Platform, Posted, Say};
use harness::world::{HOUR, World};

use super::{PATIENT, answer, http_by};

const JO: &str = "jo@example.com";

/// A world whose mail leaves by a platform, with one job that is due.
async fn world_of(platform: &Platform) -> World {
    world_after(platform, FULL).await
}

/// The same, where this reply began it.
async fn world_after(platform: &Platform, reply: &str) -> World {
    let mut world = World::new().await;
    world.sends_by(Arc::new(http_by(world.clock.clone(), platform, PATIENT)));
    world.take_in_and_wait(bounce(JO, "m1", reply)).await;
    world
}

/// Works until the job has ended, at most so many times; tells how often.
async fn worked_off(world: &World, most: usize) -> usize {
    for tries in 0..most {
        let Some(job) = world.job_if_any(JO).await else {
            return tries;
        };
        world.clock.set(job.due.expect("nobody has leased it"));
        assert_eq!(world.work().await, 1);
    }
    most
}

fn key(posted: &Posted) -> String {
    posted.headers["idempotency-key"]
        .to_str()
        .expect("it is ASCII")
        .to_owned()
}

#[tokio::test]
async fn a_platform_whose_answers_are_lost_is_asked_once_per_attempt_and_never_without_end() {
    for (status, body) in [
        (502, "<html>Bad Gateway</html>"),
        (500, ""),
        (504, ""),
        (408, ""),
        (200, r#"{"outcome":"delivered","reply":"550 no"}"#),
    ] {
        let platform = Platform::start(move |_| answer(status, body)).await;
        let world = world_of(&platform).await;
        let tries = worked_off(&world, 20).await;
        let mut keys: Vec<String> = platform.posted().iter().map(key).collect();
        assert!(
            (2..=5).contains(&tries) && keys.len() == tries,
            "{status}: {tries} tries, {} posts",
            keys.len()
        );
        keys.dedup();
        assert_eq!(
            keys.len(),
            tries,
            "{status}: each attempt has a key of its own"
        );
        assert_eq!(
            world.final_events().await,
            [(
                EventKind::MessageDropped,
                "m1".to_owned(),
                Some(DropReason::GivenUp.as_str().to_owned())
            )],
            "{status}"
        );
        assert!(
            world.standing_record(JO).await.is_none(),
            "{status}: nothing is said about the address"
        );
    }
}

#[tokio::test]
async fn a_try_that_was_held_is_made_again_under_its_key() {
    let platform = Platform::start(|_| answer(503, "")).await;
    let world = world_of(&platform).await;
    assert_eq!(worked_off(&world, 4).await, 4);
    let keys: Vec<String> = platform.posted().iter().map(key).collect();
    assert_eq!(keys, vec![keys[0].clone(); 4]);
    assert_eq!(
        world.job(JO).await.job.head.attempt,
        0,
        "none of them counts"
    );
    assert!(
        platform
            .posted()
            .iter()
            .all(|posted| posted.json["attempt"] == 1)
    );
}

#[tokio::test]
async fn a_deferral_waits_as_long_as_the_platform_asks_for_where_that_is_longer() {
    const LATER: &str = "450 4.2.0 try later";
    let deferred = |extra: &str| format!(r#"{{"outcome":"deferred","reply":"{LATER}"{extra}}}"#);
    // Without a word of it, the second delay of that row is 4 hours. The worlds' clocks begin on 21
    // November 2026.
    let ten_hours_on = "Sat, 21 Nov 2026 20:35:00 GMT";
    for (status, header, body, hours) in [
        (200, None, deferred(""), [3.6, 4.4]),
        (
            200,
            None,
            deferred(r#","retry_after_s":36000"#),
            [10.0, 11.0],
        ),
        (
            200,
            Some(("retry-after", "36000")),
            deferred(""),
            [10.0, 11.0],
        ),
        (
            200,
            Some(("retry-after", ten_hours_on)),
            deferred(""),
            [9.8, 11.2],
        ),
        (
            200,
            None,
            deferred(r#","retry_after_s":9000000"#),
            [24.0, 26.4],
        ),
        (200, None, deferred(r#","retry_after_s":60"#), [3.6, 4.4]),
        // Where it may have sent all the same, the try counts, and waits as long.
        (
            504,
            Some(("retry-after", "36000")),
            "late".to_owned(),
            [10.0, 11.0],
        ),
    ] {
        let what = format!("{status} {header:?} {body}");
        let platform = Platform::start(move |_| Say::Answer(status, header, body.clone())).await;
        let world = world_after(&platform, LATER).await;
        let began = world.now();
        assert_eq!(world.work().await, 1);
        let due = world.job(JO).await.due.expect("nobody has leased it");
        let waits = due.since(began).as_secs_f64() / HOUR.as_secs_f64();
        assert!((hours[0]..=hours[1]).contains(&waits), "{what}: {waits} h");
    }
}
