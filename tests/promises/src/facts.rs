//! A sign of life from an address ends the messages that it is about, or makes the address active
//! again. An address that complains or unsubscribes gets no mail after the answer.

use domain::account::Accounts;
use domain::clock::Timestamp;
use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, FULL_FOR_GOOD, OK, UNKNOWN, bounce};
use harness::http::{Http, json, json_lines, problem};
use harness::wait::eventually;
use harness::world::{DAY, HOUR, LEASE, MS, Settings, World};
use serde_json::{Value, json};
use store::facts::FactAnswer;
use store::repair::Repaired;
use store::schedule::Answer;
use store::settle::Settled;

const JO: &str = "jo@example.com";

fn fact(kind: &str) -> Value {
    json!({"type": kind, "recipient": JO})
}

fn fact_about(kind: &str, message: &str) -> Value {
    json!({"type": kind, "recipient": JO, "message_id": message})
}

fn occurring_at(mut item: Value, occurred: Timestamp) -> Value {
    item["occurred_at"] = occurred.to_string().into();
    item
}

/// The final events so far, as kind, message and reason. The reason is empty if there is none.
async fn final_events(world: &World) -> Vec<(EventKind, String, String)> {
    let events = world.final_events().await.into_iter();
    events
        .map(|(kind, message, reason)| (kind, message, reason.unwrap_or_default()))
        .collect()
}

fn final_event(kind: EventKind, message: &str, reason: &str) -> (EventKind, String, String) {
    (kind, message.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn a_reported_delivery_ends_the_job_and_nothing_is_sent() {
    for reported in [
        fact("delivered"),
        fact_about("delivered", "m1"),
        fact_about("engaged", "m1"),
    ] {
        let world = World::new().await;
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        assert_eq!(
            world.report_fact(reported.clone()).await,
            FactAnswer::Closed,
            "{reported}"
        );
        assert_eq!(
            final_events(&world).await,
            [final_event(EventKind::MessageDelivered, "m1", "reported")]
        );
        assert_eq!(world.events_of(EventKind::JobClosed).await.len(), 1);
        assert!(world.job_if_any(JO).await.is_none());
        assert_eq!(world.work().await, 0);
        assert_eq!(
            world.report_fact(reported.clone()).await,
            FactAnswer::Noted,
            "{reported}: again"
        );
        assert_eq!(final_events(&world).await.len(), 1);
    }
}

#[tokio::test]
async fn after_a_sign_of_life_the_other_waiting_messages_are_tried_at_once_with_a_full_schedule() {
    for (reported, waiting) in [
        (fact_about("delivered", "m1"), vec!["m2", "m3"]),
        (fact_about("delivered", "m2"), vec!["m1", "m3"]),
        (fact_about("engaged", "m3"), vec!["m1", "m2"]),
        (fact("engaged"), vec!["m1", "m2", "m3"]),
    ] {
        let world = World::new().await;
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        world.mail.reply_with(FULL);
        world.work().await;
        for message in ["m2", "m3"] {
            world.post_bounce(bounce(JO, message, FULL)).await;
        }
        world.clock.advance(HOUR);
        assert_eq!(
            world.report_fact(reported.clone()).await,
            FactAnswer::Resumed { due: world.now() },
            "{reported}"
        );
        let job = world.job(JO).await;
        assert_eq!(
            (job.due, job.job.head.attempt),
            (Some(world.now()), 0),
            "{reported}"
        );
        assert_eq!(world.waiting(JO).await, waiting, "{reported}");
        world.mail.reply_with(OK);
        assert_eq!(world.work().await, 1);
        assert_eq!(
            final_events(&world).await.len(),
            3,
            "{reported}: one per message"
        );
    }
}

#[tokio::test]
async fn a_fact_soon_after_a_failed_try_ends_its_message_and_does_not_bring_the_others_forward() {
    for kind in ["delivered", "engaged"] {
        let world = World::new().await;
        for message in ["m1", "m2"] {
            world.post_bounce(bounce(JO, message, FULL)).await;
        }
        let due = world.job(JO).await.due;
        assert_eq!(
            world.report_fact(fact_about(kind, "m1")).await,
            FactAnswer::Ended,
            "{kind}"
        );
        assert_eq!(
            (world.job(JO).await.due, world.waiting(JO).await),
            (due, vec!["m2".to_owned()]),
            "{kind}"
        );
        assert_eq!(final_events(&world).await.len(), 1, "{kind}");
        assert_eq!(
            world.report_fact(fact_about(kind, "m1")).await,
            FactAnswer::Noted,
            "{kind}: again"
        );
    }
}

#[tokio::test]
async fn a_fact_about_a_message_that_does_not_wait_brings_nothing_forward() {
    for kind in ["delivered", "engaged"] {
        let world = World::new().await;
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        world.mail.reply_with(FULL);
        world.work().await;
        world.clock.advance(2 * HOUR);
        let due = world.job(JO).await.due;
        assert_eq!(
            world
                .report_fact(fact_about(kind, "m1 by another name"))
                .await,
            FactAnswer::Noted,
            "{kind}"
        );
        let job = world.job(JO).await;
        assert_eq!(
            (job.due, job.job.head.attempt),
            (due, 1),
            "{kind}: the message may be waiting under another id, and must not be sent twice"
        );
        assert_eq!(
            world.waiting(JO).await,
            ["m1"],
            "{kind}: the message is not lost"
        );
        assert_eq!(final_events(&world).await, []);

        let stale = occurring_at(
            bounce(JO, "m2", FULL),
            Timestamp::from_ms(world.now().ms() - 1),
        );
        let expected = if kind == "delivered" {
            Answer::Stale
        } else {
            Answer::Joined { due }
        };
        assert_eq!(
            world.post_bounce(stale).await,
            expected,
            "{kind}: the time of a delivery is recorded anyway"
        );
    }
}

#[tokio::test]
async fn a_second_sign_of_life_within_the_hour_starts_no_second_attempt() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.reply_with(FULL);
    world.work().await;
    for (wait, answer) in [
        (MS, FactAnswer::Noted),
        (
            HOUR,
            FactAnswer::Resumed {
                due: world.now().plus(MS + HOUR),
            },
        ),
    ] {
        world.clock.advance(wait);
        assert_eq!(world.report_fact(fact("engaged")).await, answer);
    }
    assert_eq!(world.work().await, 1);
    world.clock.advance(HOUR / 2);
    let due = world.job(JO).await.due;
    assert_eq!(world.report_fact(fact("engaged")).await, FactAnswer::Noted);
    assert_eq!(
        world.job(JO).await.due,
        due,
        "opening ten mails is one sign of life"
    );
}

#[tokio::test]
async fn a_sign_of_life_from_before_the_last_failure_is_stale() {
    let world = World::new().await;
    let before = world.now();
    world.clock.advance(HOUR);
    world
        .post_bounce(occurring_at(bounce(JO, "m1", FULL), world.now()))
        .await;
    for kind in ["delivered", "engaged"] {
        assert_eq!(
            world.report_fact(occurring_at(fact(kind), before)).await,
            FactAnswer::Stale,
            "{kind}"
        );
    }
    assert_eq!(world.waiting(JO).await, ["m1"]);

    world.post_bounce(bounce(JO, "m2", UNKNOWN)).await;
    let retired = world.now();
    world.clock.advance(HOUR);
    assert_eq!(
        world
            .report_fact(occurring_at(fact("engaged"), before))
            .await,
        FactAnswer::Stale
    );
    assert_eq!(world.standing(JO).await, Standing::Inactive);
    assert_eq!(
        world
            .report_fact(occurring_at(fact("engaged"), retired.plus(MS)))
            .await,
        FactAnswer::Reinstated
    );
}

#[tokio::test]
async fn a_sign_of_life_makes_an_address_active_again() {
    for kind in ["delivered", "engaged"] {
        for (reply, standing) in [
            (UNKNOWN, Standing::Inactive),
            (FULL_FOR_GOOD, Standing::Unavailable),
        ] {
            let world = World::new().await;
            world.post_bounce(bounce(JO, "m1", reply)).await;
            assert_eq!(world.standing(JO).await, standing);
            assert_eq!(world.report_fact(fact(kind)).await, FactAnswer::Reinstated);
            assert_eq!(
                world.standing_record(JO).await,
                None,
                "the count of earlier times is cleared too"
            );
            let back = world.events_of(EventKind::AddressReinstated).await;
            assert_eq!(
                back.iter()
                    .map(|event| event.reason.as_deref())
                    .collect::<Vec<_>>(),
                [Some(kind)]
            );
            world.clock.advance(400 * DAY);
            assert_eq!(
                world.store.reinstate().await.unwrap(),
                0,
                "nothing is left to reinstate"
            );
        }
    }
}

#[tokio::test]
async fn a_bounce_from_before_a_reported_delivery_is_stale() {
    let world = World::new().await;
    let delivered = world.now();
    world.clock.advance(HOUR);
    assert_eq!(
        world
            .report_fact(occurring_at(fact("delivered"), delivered))
            .await,
        FactAnswer::Noted
    );
    let earlier = Timestamp::from_ms(delivered.ms() - 1);
    assert_eq!(
        world
            .report_fact(occurring_at(fact("delivered"), earlier))
            .await,
        FactAnswer::Noted,
        "reported late"
    );
    assert_eq!(
        world
            .post_bounce(occurring_at(bounce(JO, "m1", FULL), delivered))
            .await,
        Answer::Stale
    );
    let later = occurring_at(bounce(JO, "m1", FULL), delivered.plus(MS));
    assert!(matches!(
        world.post_bounce(later).await,
        Answer::Scheduled { .. }
    ));

    let other = World::new().await;
    other.report_fact(fact("engaged")).await;
    let bounced = occurring_at(bounce(JO, "m1", FULL), other.now());
    assert!(
        matches!(other.post_bounce(bounced).await, Answer::Scheduled { .. }),
        "reading old mail is not a delivery"
    );
}

#[tokio::test]
async fn an_address_that_complains_or_unsubscribes_gets_no_waiting_message_even_if_it_is_due() {
    for kind in ["complaint", "unsubscribe"] {
        for due in [false, true] {
            let world = World::new().await;
            let at = world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
            world.post_bounce(bounce(JO, "m2", FULL)).await;
            world.clock.set(if due {
                at
            } else {
                Timestamp::from_ms(at.ms() - 1)
            });
            let FactAnswer::Suppressed(record) = world.report_fact(fact(kind)).await else {
                panic!("{kind}")
            };
            assert_eq!(
                (record.standing, record.since, record.reason.as_str()),
                (Standing::Suppressed, world.now(), kind)
            );
            let dropped = |message| final_event(EventKind::MessageDropped, message, "suppressed");
            assert_eq!(final_events(&world).await, [dropped("m1"), dropped("m2")]);
            assert_eq!(world.events_of(EventKind::AddressSuppressed).await.len(), 1);

            world.clock.advance(DAY);
            assert_eq!(world.work().await, 0);
            assert!(matches!(world.report_fact(fact(kind)).await,
                    FactAnswer::Suppressed(again) if again == record));
            assert!(matches!(world.post_bounce(bounce(JO, "m3", FULL)).await,
                    Answer::Retired(known) if known == record));
            assert_eq!(final_events(&world).await.len(), 2);
            assert_eq!(world.events_of(EventKind::AddressSuppressed).await.len(), 1);
        }
    }
}

#[tokio::test]
async fn only_an_operator_ends_a_suppression() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    world.report_fact(fact("complaint")).await;
    for reported in ["delivered", "engaged"] {
        assert!(
            matches!(
                world.report_fact(fact(reported)).await,
                FactAnswer::Suppressed(_)
            ),
            "{reported}"
        );
    }
    for reply in [FULL, UNKNOWN, FULL_FOR_GOOD] {
        assert!(
            matches!(
                world.post_bounce(bounce(JO, "m1", reply)).await,
                Answer::Retired(_)
            ),
            "{reply}"
        );
    }
    world.clock.advance(4_000 * DAY);
    assert_eq!(world.store.reinstate().await.unwrap(), 0);
    let report = http.get_json(&format!("/v1/addresses/{JO}")).await;
    assert_eq!(
        (&report["standing"], &report["reason"]),
        (&json!("suppressed"), &json!("complaint"))
    );

    let report = json(
        http.post(&format!("/v1/addresses/{JO}/reinstate"))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(report["standing"], "active");
    assert!(matches!(
        world.post_bounce(bounce(JO, "m2", FULL)).await,
        Answer::Scheduled { .. }
    ));

    let report = json(
        http.post(&format!("/v1/addresses/{JO}/suppress"))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        (&report["standing"], &report["reason"]),
        (&json!("suppressed"), &json!("operator"))
    );
    assert!(world.job_if_any(JO).await.is_none());
}

#[tokio::test]
async fn a_repeated_complaint_does_not_suppress_an_address_again_that_an_operator_reinstated() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let complaint = occurring_at(fact("complaint"), world.now());
    world.report_fact(complaint.clone()).await;
    world.clock.advance(HOUR);
    http.post(&format!("/v1/addresses/{JO}/reinstate"))
        .send()
        .await
        .unwrap();
    assert_eq!(world.report_fact(complaint).await, FactAnswer::Stale);
    assert_eq!(world.standing(JO).await, Standing::Active);
    world.clock.advance(MS);
    assert!(
        matches!(
            world
                .report_fact(occurring_at(fact("complaint"), world.now()))
                .await,
            FactAnswer::Suppressed(_)
        ),
        "a new complaint"
    );
}

#[tokio::test]
async fn the_lease_of_a_suppressed_address_is_void() {
    for reply in [OK, FULL, UNKNOWN] {
        let world = World::new().await;
        world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
        let leased = world.claim_one().await;
        world.post_bounce(bounce(JO, "m2", FULL)).await;
        world.report_fact(fact("unsubscribe")).await;
        assert_eq!(
            final_events(&world).await.len(),
            2,
            "also for the message that joined meanwhile"
        );
        world.mail.reply_with(reply);
        let settlement = world.attempt(leased).await;
        assert_eq!(world.settle(&settlement).await, Settled::Void, "{reply}");
        assert_eq!(world.standing(JO).await, Standing::Suppressed);
        assert_eq!(
            final_events(&world).await.len(),
            2,
            "{reply}: one per message"
        );
        assert_eq!(world.pace("example.com").await.in_flight, 0);
        world.clock.advance(LEASE);
        assert_eq!(world.work().await, 0);
        for shard in 0..world.store.shards() {
            assert_eq!(
                world.store.repair(shard).await.unwrap(),
                Repaired::default()
            );
        }
    }
}

#[tokio::test]
async fn a_worker_starts_no_further_message_after_its_address_was_suppressed_during_the_attempt() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    world.clock.advance(2 * DAY);
    world.mail.hold();
    let worker = world.start_worker(|_| {});
    world.mail.wait_for_attempts(1).await;
    world.report_fact(fact("complaint")).await;
    eventually("the attempt to be stopped", async || {
        (world.mail.in_flight() == 0).then_some(())
    })
    .await;
    world.mail.release_held();
    worker.stopped().await;
    assert_eq!(
        world.mail.messages(),
        ["m1"],
        "the message in flight when the complaint came"
    );
    assert_eq!(final_events(&world).await.len(), 2);
}

#[tokio::test]
async fn a_delivery_reported_during_an_attempt_ends_the_job_if_no_other_message_waits() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let leased = world.claim_one().await;
    assert_eq!(
        world.report_fact(fact_about("delivered", "m1")).await,
        FactAnswer::Closed
    );
    let settlement = world.attempt(leased).await;
    assert_eq!(world.settle(&settlement).await, Settled::Void);
    assert_eq!(
        final_events(&world).await,
        [final_event(EventKind::MessageDelivered, "m1", "reported")]
    );

    world.clock.advance(MS);
    world.post_and_wait_until_due(bounce(JO, "m2", FULL)).await;
    world.post_bounce(bounce(JO, "m3", FULL)).await;
    let leased = world.claim_one().await;
    world.clock.advance(MS);
    assert_eq!(
        world.report_fact(fact_about("delivered", "m2")).await,
        FactAnswer::Noted,
        "its worker is trying it"
    );
    let settlement = world.attempt(leased).await;
    assert_eq!(world.settle(&settlement).await, Settled::Done);
    assert_eq!(final_events(&world).await.len(), 3, "one per message");
}

#[tokio::test]
async fn facts_take_effect_on_a_job_in_quarantine() {
    let world = World::with(Settings {
        max_lapses: 1,
        ..Settings::default()
    })
    .await;
    for (reported, left) in [(fact_about("delivered", "m1"), 1), (fact("complaint"), 0)] {
        if world.job_if_any(JO).await.is_none() {
            world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
            world.post_bounce(bounce(JO, "m2", FULL)).await;
            world.claim_one().await;
            world.clock.advance(LEASE);
            assert_eq!(world.claim().await.len(), 0);
        }
        world.report_fact(reported).await;
        assert_eq!(world.waiting(JO).await.len(), left);
        let quarantined = world.store.quarantine(&Accounts::All, None, 9).await;
        assert_eq!(
            quarantined.unwrap().jobs.len(),
            left,
            "a job with messages stays in quarantine"
        );
    }
    assert_eq!(final_events(&world).await.len(), 2);
}

#[tokio::test]
async fn facts_are_accepted_as_an_object_or_an_array_or_lines_and_each_has_its_own_answer() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    let one = http
        .post("/v1/facts")
        .json(&fact_about("delivered", "m1"))
        .send()
        .await
        .unwrap();
    assert_eq!(one.status(), 202);
    assert_eq!(
        json(one).await,
        json!({"answer": "closed", "job": format!("default/{JO}")})
    );

    let many = json!([fact("engaged"), {"type": "complaint", "recipient": "sam@example.com",
        "account": "acme"}, {}]);
    let many = json(http.post("/v1/facts").json(&many).send().await.unwrap()).await;
    assert_eq!(many[0]["answer"], "noted");
    assert_eq!(
        (&many[1]["answer"], &many[1]["job"]),
        (&json!("suppressed"), &json!("acme/sam@example.com"))
    );
    assert_eq!(
        (&many[2]["answer"], &many[2]["field"]),
        (&json!("refused"), &json!("type"))
    );

    let lines = format!(
        "{}\n\nno json\n{}\n",
        fact("unsubscribe"),
        fact("delivered")
    );
    let request = http
        .post("/v1/facts")
        .header("content-type", "application/x-ndjson")
        .body(lines);
    let lines = json_lines(request.send().await.unwrap()).await;
    let words: Vec<_> = lines
        .iter()
        .map(|line| line["answer"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["suppressed", "refused", "suppressed"]);
    assert_eq!(lines[1]["line"], 3);

    let wrong = http
        .post("/v1/facts")
        .json(&json!([]))
        .send()
        .await
        .unwrap();
    assert!(
        problem(wrong, 400).await["detail"]
            .as_str()
            .unwrap()
            .contains("facts")
    );
}
