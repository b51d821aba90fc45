//! The network between Redeliver and Redis may fail in any way: answers are lost after the commit,
//! come late, are cut off or never come. No mail is lost, no attempt is counted twice, and no call
//! waits longer than its limit.

use std::time::Duration;

use config::model::Config;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::pace::Pace;
use futures::future::join_all;
use harness::bounce::{FULL, OK, UNKNOWN, bounce};
use harness::http::{Http, json, problem};
use harness::proxy::{Fault, RedisProxy};
use harness::redis;
use harness::wait::eventually;
use harness::world::{LEASE, MS, Settings, World};
use serde_json::Value;
use store::claim::{ClaimBounds, Claimed};
use store::error::StoreError;
use store::handle::Store;
use store::settle::{SettleCall, Settled};

mod silence;
mod storm;

const JO: &str = "jo@example.com";

/// How long an answer from Redis may take here.
const TIMEOUT: Duration = Duration::from_millis(300);

/// What can happen to the answer after Redis has done its work.
const ANSWER_LOST: [Fault; 3] = [Fault::AnswerLost, Fault::Torn, Fault::Hung];

/// A world, and a second connection to its store through a proxy that injects faults. The test
/// itself uses the connection without the proxy.
struct Faulty {
    world: World,
    proxy: RedisProxy,
    store: Store,
}

impl Faulty {
    async fn new() -> Self {
        let world = World::with(Settings {
            pace: Pace::unbounded(),
            ..Settings::default()
        })
        .await;
        let proxy = RedisProxy::before(&redis::url());
        let store = world.store_at(&proxy.url(), TIMEOUT).await;
        Self {
            world,
            proxy,
            store,
        }
    }

    /// Like [`Self::new`], with a job for Jo. Its first attempt has failed and the second is due.
    async fn with_a_second_attempt_due() -> Self {
        let faulty = Self::new().await;
        let world = &faulty.world;
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        world.mail.reply_with(FULL);
        world.work().await;
        world.clock.set(world.job(JO).await.due.unwrap());
        faulty
    }

    /// Claims from Jo's shard, through the proxy that injects faults.
    async fn claim(&self) -> Result<Claimed, StoreError> {
        let shard = Destination::named("example.com").shard(self.store.shards());
        self.store
            .claim(
                shard,
                ClaimBounds {
                    batch: 500,
                    share: 500,
                    lease: LEASE,
                    unproven: usize::MAX,
                },
            )
            .await
    }

    /// The kinds of all events so far.
    async fn history(&self) -> Vec<EventKind> {
        self.world
            .events()
            .await
            .into_iter()
            .map(|event| event.kind)
            .collect()
    }
}

fn is_unavailable<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Unavailable(_)))
}

#[tokio::test]
async fn a_job_whose_claim_was_lost_comes_back_after_its_lease_with_an_exact_counter() {
    for fault in ANSWER_LOST {
        let faulty = Faulty::with_a_second_attempt_due().await;
        let world = &faulty.world;
        faulty.proxy.plan("claim", fault);
        assert!(is_unavailable(&faulty.claim().await), "{fault:?}");
        assert_eq!(faulty.proxy.happened(), [("claim".to_owned(), fault)]);

        world.clock.advance(LEASE - MS);
        assert_eq!(
            world.claim().await.len(),
            0,
            "the lease of a claim with a lost answer lasts too"
        );
        world.clock.advance(MS);
        let leased = world.claim_one().await;
        assert_eq!(
            leased.job.head.attempt, 1,
            "one attempt was settled, and one was never made"
        );
        assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 1);
        assert_eq!(world.waiting(JO).await, ["m1"]);
    }
}

#[tokio::test]
async fn a_claim_that_never_reached_redis_leaves_the_job_due() {
    let faulty = Faulty::with_a_second_attempt_due().await;
    faulty.proxy.plan("claim", Fault::RequestLost);
    assert!(is_unavailable(&faulty.claim().await));
    assert_eq!(
        faulty.claim().await.unwrap().jobs.len(),
        1,
        "at once, on another connection"
    );
}

#[tokio::test]
async fn a_worker_that_lost_the_answer_to_a_claim_tries_the_job_once_after_the_lease_has_ended() {
    for fault in ANSWER_LOST {
        let faulty = Faulty::with_a_second_attempt_due().await;
        let world = &faulty.world;
        world.mail.reply_with(OK);
        // Other shards have nothing to claim, so any of these claims could be the one for Jo's
        // shard.
        for _ in 0..world.store.shards() {
            faulty.proxy.plan("claim", fault);
        }
        let worker = world.start_worker_on(&faulty.store, |_| {});
        faulty
            .proxy
            .wait_for_faults(usize::from(world.store.shards()))
            .await;
        assert_eq!(
            world.mail.tried().len(),
            1,
            "only the first attempt, from before"
        );
        world.clock.advance(LEASE);
        world.mail.wait_for_attempts(2).await;
        worker.stopped().await;

        let delivered = world.events_of(EventKind::MessageDelivered).await;
        assert_eq!(
            delivered
                .iter()
                .map(|event| event.attempt)
                .collect::<Vec<_>>(),
            [Some(2)],
            "{fault:?}"
        );
        assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), 1);
        assert_eq!(world.mail.tried().len(), 2);
    }
}

#[tokio::test]
async fn all_jobs_of_a_claim_whose_answer_was_cut_off_come_back() {
    const JOBS: usize = 300;
    let faulty = Faulty::new().await;
    let world = &faulty.world;
    for n in 0..JOBS {
        let mut bounce = bounce(&format!("user{n}@example.com"), "m1", FULL);
        bounce["content"] = serde_json::json!({"inline": "x".repeat(4_000)});
        world.post_bounce(bounce).await;
    }
    world.clock.advance(LEASE * 60 * 48);
    faulty.proxy.plan("claim", Fault::Torn);
    assert!(is_unavailable(&faulty.claim().await));
    assert_eq!(world.claim().await.len(), 0, "all are leased");
    world.clock.advance(LEASE);
    let jobs = world.claim().await;
    assert_eq!(jobs.len(), JOBS);
    assert!(
        jobs.iter()
            .all(|leased| leased.job.head.attempt == 0 && leased.job.messages.len() == 1)
    );
    assert_eq!(world.events_of(EventKind::JobLapsed).await.len(), JOBS);
}

#[tokio::test]
async fn a_worker_repeats_a_settle_call_until_it_is_answered_and_the_call_takes_effect_once() {
    let settled = |reply| match reply {
        OK => vec![
            EventKind::JobScheduled,
            EventKind::MessageDelivered,
            EventKind::JobClosed,
        ],
        FULL => vec![EventKind::JobScheduled, EventKind::AttemptDeferred],
        _ => vec![
            EventKind::JobScheduled,
            EventKind::AttemptDeferred,
            EventKind::MessageDropped,
            EventKind::AddressRetired,
        ],
    };
    let faults = [
        Fault::RequestLost,
        Fault::AnswerLost,
        Fault::Torn,
        Fault::Hung,
    ];
    let cases = [OK, FULL, UNKNOWN]
        .into_iter()
        .flat_map(|reply| faults.map(|fault| (reply, fault)));
    let runs = cases.map(async |(reply, fault)| {
        let faulty = Faulty::new().await;
        let world = &faulty.world;
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        world.mail.reply_with(reply);
        // Twice, so that the repeated call gets no answer either.
        faulty.proxy.plan("settle", fault);
        faulty.proxy.plan("settle", fault);
        let worker = world.start_worker_on(&faulty.store, |_| {});
        faulty.proxy.wait_for_faults(2).await;
        worker.stopped().await;

        let case = format!("{reply}, {fault:?}");
        assert_eq!(faulty.history().await, settled(reply), "{case}");
        assert_eq!(world.mail.messages(), ["m1"], "{case}");
        let attempt = world
            .job_if_any(JO)
            .await
            .map(|job| (job.job.head.attempt, job.leased_until));
        assert_eq!(attempt, (reply == FULL).then_some((1, None)), "{case}");
    });
    join_all(runs).await;
}

#[tokio::test]
async fn a_repeated_settle_call_gets_the_answer_of_the_first_call() {
    for reply in [OK, FULL, UNKNOWN] {
        let faulty = Faulty::new().await;
        let world = &faulty.world;
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        world.mail.reply_with(reply);
        let settlement = [world.attempt(world.claim_one().await).await];
        faulty.proxy.plan("settle", Fault::AnswerLost);
        let call = SettleCall::unique();
        assert!(is_unavailable(
            &faulty.store.settle(call, &settlement).await
        ));
        let history = faulty.history().await;
        for _ in 0..2 {
            let report = faulty.store.settle(call, &settlement).await.unwrap();
            assert_eq!(report.settled, [Settled::Done], "{reply}");
        }
        assert_eq!(
            faulty.history().await,
            history,
            "the repeated call changes nothing"
        );
    }
}

#[tokio::test]
async fn a_bounce_whose_answer_from_redis_was_lost_gets_503_and_then_counts_as_a_duplicate() {
    for fault in ANSWER_LOST {
        let faulty = Faulty::new().await;
        let (world, proxy) = (&faulty.world, &faulty.proxy);
        let http = Http::serve_on(&faulty.store, &Config::embedded()).await;
        let post_with_lost_answer = async |bounce: &Value| {
            proxy.plan("schedule", fault);
            problem(http.post_json(bounce).await, 503).await;
            json(http.post_json(bounce).await).await
        };

        let started = bounce(JO, "m1", FULL);
        assert_eq!(
            post_with_lost_answer(&started).await["answer"],
            "duplicate",
            "{fault:?}"
        );
        let due = world.job(JO).await.due;
        let joined = bounce(JO, "m2", FULL);
        assert_eq!(
            post_with_lost_answer(&joined).await["answer"],
            "duplicate",
            "{fault:?}"
        );
        assert_eq!(world.waiting(JO).await, ["m1", "m2"]);
        assert_eq!(world.job(JO).await.due, due);
        assert_eq!(
            faulty.history().await,
            [EventKind::JobScheduled, EventKind::MessageJoined]
        );

        let retired = post_with_lost_answer(&bounce(JO, "m3", UNKNOWN)).await;
        assert_eq!(
            (retired["answer"].as_str(), retired["standing"].as_str()),
            (Some("retired"), Some("inactive"))
        );
        assert_eq!(world.final_events().await.len(), 3, "one per message");
        assert_eq!(world.events_of(EventKind::AddressRetired).await.len(), 1);
    }
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_has_given_the_job_back() {
    for fault in ANSWER_LOST {
        let faulty = Faulty::with_a_second_attempt_due().await;
        let world = &faulty.world;
        let due = world.job(JO).await.due;
        world.mail.hold();
        let worker = world.start_worker_on(&faulty.store, |settings| settings.grace = MS);
        world.mail.wait_for_attempts(2).await;
        faulty.proxy.plan("release", fault);
        worker.stopped().await;

        assert_eq!(faulty.proxy.happened(), [("release".to_owned(), fault)]);
        let job = world.job(JO).await;
        assert_eq!(
            (job.due, job.leased_until, job.job.head.attempt),
            (due, None, 1),
            "{fault:?}"
        );
        let again = world.claim_one().await;
        assert!(world.release(&again.lease).await);
        assert!(
            !world.release(&again.lease).await,
            "the repeated call finds the token stale"
        );
        assert_eq!(world.job(JO).await.due, due);
        assert_eq!(world.events_of(EventKind::JobLapsed).await, []);
    }
}

#[tokio::test]
async fn a_stopping_worker_gives_every_job_back_even_if_connections_are_cut() {
    let faulty = Faulty::new().await;
    let world = &faulty.world;
    // On different shards, so that more than one call is needed.
    let addresses: Vec<String> = (0..9).map(|n| format!("jo@host{n}.example")).collect();
    world
        .post_bounces(addresses.iter().map(|address| bounce(address, "m1", FULL)))
        .await;
    world.clock.advance(LEASE * 60 * 48);
    world.mail.hold();
    let worker = world.start_worker_on(&faulty.store, |settings| settings.grace = MS);
    world.mail.wait_for_attempts(addresses.len()).await;
    faulty.proxy.plan("release", Fault::RequestLost);
    faulty.proxy.plan("release", Fault::AnswerLost);
    worker.stopped().await;
    assert_eq!(faulty.proxy.happened().len(), 2);
    assert_eq!(world.store.leased(100).await.unwrap(), [""; 0]);
    assert_eq!(
        world.claim().await.len(),
        addresses.len(),
        "all are due for another worker"
    );
    assert_eq!(world.events_of(EventKind::JobLapsed).await, []);
}

#[tokio::test]
async fn a_lost_extension_of_a_lease_is_replaced_by_the_next_extension() {
    let faults = [
        Fault::RequestLost,
        Fault::AnswerLost,
        Fault::Torn,
        Fault::Hung,
    ];
    let runs = faults.map(async |fault| {
        let faulty = Faulty::with_a_second_attempt_due().await;
        let (world, proxy) = (&faulty.world, &faulty.proxy);
        world.mail.reply_with(OK);
        world.mail.hold();
        let worker = world.start_worker_on(&faulty.store, |_| {});
        world.mail.wait_for_attempts(2).await;
        for round in 1..=2 {
            // The clock moves after the first extension is lost, so the other extensions ask for a
            // new deadline.
            for _ in 0..3 {
                proxy.plan("extend", fault);
            }
            proxy.wait_for_faults(3 * round - 2).await;
            world.clock.advance(LEASE - MS);
            let wanted = Some(world.now().plus(LEASE));
            eventually("a longer lease", async || {
                (world.job(JO).await.leased_until == wanted).then_some(())
            })
            .await;
            proxy.wait_for_faults(3 * round).await;
            assert_eq!(world.claim().await.len(), 0, "no other claim gets the job");
        }
        world.mail.release_held();
        eventually("the end of the job", async || {
            world.job_if_any(JO).await.is_none().then_some(())
        })
        .await;
        worker.stopped().await;
        assert_eq!(world.mail.tried().len(), 2, "{fault:?}");
        assert_eq!(world.events_of(EventKind::JobLapsed).await, []);
        assert_eq!(world.final_events().await.len(), 1);
    });
    join_all(runs).await;
}

#[tokio::test]
async fn late_answers_within_the_time_limit_have_no_effect() {
    const JOBS: usize = 40;
    let faulty = Faulty::new().await;
    let world = &faulty.world;
    let late = Fault::Late(TIMEOUT / 10);
    faulty
        .proxy
        .choose_faults(move |name| (name != "CLIENT").then_some(late));
    let http = Http::serve_on(&faulty.store, &Config::embedded()).await;
    let bounces = (0..JOBS)
        .map(|n| bounce(&format!("user{n}@host{}.example", n % 5), "m1", FULL))
        .collect();
    let answers = json(http.post_json(&Value::Array(bounces)).await).await;
    assert!(
        answers
            .as_array()
            .unwrap()
            .iter()
            .all(|answer| answer["answer"] == "scheduled"),
        "{answers}"
    );
    world.clock.advance(LEASE * 60 * 48);
    let worker = world.start_worker_on(&faulty.store, |_| {});
    world.mail.wait_for_attempts(JOBS).await;
    worker.stopped().await;
    assert_eq!(world.mail.tried().len(), JOBS);
    assert_eq!(
        world.events_of(EventKind::MessageDelivered).await.len(),
        JOBS
    );
    assert_eq!(world.events_of(EventKind::JobLapsed).await, []);
    assert!(
        faulty.proxy.happened().len() > JOBS / 10,
        "some answers came late"
    );
}

#[tokio::test]
async fn leases_of_other_attempts_are_extended_while_a_settle_call_is_not_answered() {
    let faulty = Faulty::new().await;
    let world = &faulty.world;
    for address in [JO, "sam@example.com"] {
        world
            .post_and_wait_until_due(bounce(address, "m1", FULL))
            .await;
    }
    world.mail.hold_after(1);
    faulty
        .proxy
        .choose_faults(|name| (name == "settle").then_some(Fault::RequestLost));
    let worker = world.start_worker_on(&faulty.store, |_| {});
    world.mail.wait_for_attempts(2).await;
    let slow = world.mail.tried()[1].recipient.clone();
    eventually("a settle call that does not arrive", async || {
        (!faulty.proxy.happened().is_empty()).then_some(())
    })
    .await;
    for _ in 0..3 {
        world.clock.advance(LEASE - MS);
        let wanted = Some(world.now().plus(LEASE));
        eventually("a longer lease", async || {
            (world.job(&slow).await.leased_until == wanted).then_some(())
        })
        .await;
    }
    faulty.proxy.choose_faults(|_| None);
    world.mail.release_held();
    eventually("both deliveries", async || {
        (world.final_events().await.len() == 2).then_some(())
    })
    .await;
    worker.stopped().await;
    assert_eq!(world.mail.tried().len(), 2, "nothing was sent twice");
    assert_eq!(world.events_of(EventKind::JobLapsed).await, []);
}

#[tokio::test]
async fn a_lease_that_was_not_extended_in_time_does_not_block_its_shard() {
    let faulty = Faulty::new().await;
    let world = &faulty.world;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.hold();
    faulty
        .proxy
        .choose_faults(|name| (name == "extend").then_some(Fault::Hung));
    let worker = world.start_worker_on(&faulty.store, |_| {});
    world.mail.wait_for_attempts(1).await;
    faulty.proxy.wait_for_faults(1).await;
    // The attempt is settled before the worker learns that the extension failed. A lost answer
    // cannot be noticed any earlier.
    world.mail.release_held();
    eventually("the delivery", async || {
        (world.final_events().await.len() == 1).then_some(())
    })
    .await;
    faulty.proxy.choose_faults(|_| None);
    tokio::time::sleep(2 * TIMEOUT).await;
    world.post_and_wait_until_due(bounce(JO, "m2", FULL)).await;
    world.mail.wait_for_attempts(2).await;
    worker.stopped().await;
}
