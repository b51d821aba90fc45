//! A platform whose answers are lost does not get the same mail again and again. If a platform asks
//! for a time to wait, the next attempt respects it.

use std::sync::Arc;

use domain::event::{DropReason, EventKind};
use harness::bounce::{FULL, bounce};
use harness::platform::{Action, Platform, Posted};
use harness::world::{HOUR, World};

use super::{PATIENT, answer, http_by};

const JO: &str = "jo@example.com";

/// A world whose mail leaves by a platform, with one job that is due.
async fn world_of(platform: &Platform) -> World {
    world_after(platform, FULL).await
}

/// Like [`world_of`], with a job that was started by this reply.
async fn world_after(platform: &Platform, reply: &str) -> World {
    let mut world = World::new().await;
    world.set_sender(Arc::new(http_by(world.clock.clone(), platform, PATIENT)));
    world.post_and_wait_until_due(bounce(JO, "m1", reply)).await;
    world
}

/// Works until the job has ended, at most `most` times. Returns how often.
async fn work_to_the_end(world: &World, most: usize) -> usize {
    for tries in 0..most {
        let Some(job) = world.job_if_any(JO).await else {
            return tries;
        };
        world.clock.set(job.due.expect("the job is not leased"));
        assert_eq!(world.work().await, 1);
    }
    most
}

fn key(posted: &Posted) -> String {
    posted.headers["idempotency-key"]
        .to_str()
        .expect("the key is ASCII")
        .to_owned()
}

#[tokio::test]
async fn a_platform_whose_answers_are_lost_gets_one_request_per_attempt_and_few_attempts() {
    for (status, body) in [
        (502, "<html>Bad Gateway</html>"),
        (500, ""),
        (504, ""),
        (408, ""),
        (200, r#"{"outcome":"delivered","reply":"550 no"}"#),
    ] {
        let platform = Platform::start(move |_| answer(status, body)).await;
        let world = world_of(&platform).await;
        let tries = work_to_the_end(&world, 20).await;
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
            "{status}: each attempt has a separate key"
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
            "{status}: the address is not affected"
        );
    }
}

#[tokio::test]
async fn a_try_that_did_not_count_is_repeated_with_the_same_key() {
    let platform = Platform::start(|_| answer(503, "")).await;
    let world = world_of(&platform).await;
    assert_eq!(work_to_the_end(&world, 4).await, 4);
    let keys: Vec<String> = platform.posted().iter().map(key).collect();
    assert_eq!(keys, vec![keys[0].clone(); 4]);
    assert_eq!(
        world.job(JO).await.job.head.attempt,
        0,
        "none of the tries counts"
    );
    assert!(
        platform
            .posted()
            .iter()
            .all(|posted| posted.json["attempt"] == 1)
    );
}

#[tokio::test]
async fn a_deferred_message_waits_as_long_as_the_platform_asks_if_that_is_longer_than_the_schedule()
{
    const LATER: &str = "450 4.2.0 try later";
    let deferred = |extra: &str| format!(r#"{{"outcome":"deferred","reply":"{LATER}"{extra}}}"#);
    // Without a time in the answer, the second delay of that row is 4 hours. The clocks of the
    // worlds start on 21 November 2026.
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
        // If the platform may have sent the mail anyway, the try counts, and the next one waits as
        // long.
        (
            504,
            Some(("retry-after", "36000")),
            "late".to_owned(),
            [10.0, 11.0],
        ),
    ] {
        let what = format!("{status} {header:?} {body}");
        let platform = Platform::start(move |_| Action::Answer(status, header, body.clone())).await;
        let world = world_after(&platform, LATER).await;
        let began = world.now();
        assert_eq!(world.work().await, 1);
        let due = world.job(JO).await.due.expect("the job is not leased");
        let waits = due.since(began).as_secs_f64() / HOUR.as_secs_f64();
        assert!((hours[0]..=hours[1]).contains(&waits), "{what}: {waits} h");
    }
}
