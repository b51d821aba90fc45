//! The state of an address can be read at any time. An unavailable address becomes active again by
//! itself when its time is over.

use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, MAINTENANCE, UNKNOWN, bounce};
use harness::http::{Http, json, problem};
use harness::process;
use harness::wait::eventually;
use harness::world::{DAY, HOUR, LEASE, MS, World};
use serde_json::json;

const JO: &str = "jo@example.com";
const SAM: &str = "sam@example.com";

#[tokio::test]
async fn a_campaign_can_check_which_of_its_addresses_to_leave_out() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    world.post_bounce(bounce(JO, "m1", UNKNOWN)).await;
    retire_as_unavailable(&world, SAM).await;
    world
        .post_bounce(bounce("waits@example.com", "m1", FULL))
        .await;

    // In the spelling of the platform, which may differ from ours.
    let addresses = [
        "Jo@Example.com",
        "jo@EXAMPLE.com",
        SAM,
        "waits@example.com",
        "new@example.com",
        "no address",
    ];
    let request = http
        .post("/v1/addresses/check")
        .json(&json!({"addresses": addresses}));
    let answer = json(request.send().await.unwrap()).await;
    assert_eq!(answer["checked"], 5);
    let left_out: Vec<_> = answer["not_active"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["address"])
        .collect();
    assert_eq!(
        left_out,
        ["jo@EXAMPLE.com", SAM],
        "case matters in the local part, not in the domain"
    );
    assert_eq!(answer["not_active"][0]["standing"], "inactive");
    assert_eq!(answer["not_active"][1]["standing"], "unavailable");
    assert_eq!(answer["refused"][0]["address"], "no address");

    let other_account = json!({"account": "acme", "addresses": [JO]});
    let answer = json(
        http.post("/v1/addresses/check")
            .json(&other_account)
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        answer["not_active"],
        json!([]),
        "accounts do not see each other"
    );
}

#[tokio::test]
async fn the_report_of_an_address_shows_its_job_and_the_messages_and_the_history() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    world.mail.reply_with(FULL);
    world.work().await;
    world.post_bounce(bounce(JO, "m2", FULL)).await;

    let report = http.get_json(&format!("/v1/addresses/{JO}")).await;
    assert_eq!(
        (&report["address"], &report["standing"]),
        (&json!(JO), &json!("active"))
    );
    let job = &report["job"];
    assert_eq!(
        (&job["attempt"], &job["max_attempts"], &job["status"]),
        (&json!(1), &json!(4), &json!("4.3.1"))
    );
    assert_eq!(job["due"], world.job(JO).await.due.unwrap().to_string());
    assert_eq!(job["leased_until"], json!(null));
    assert_eq!(
        (
            &job["messages"][0]["message_id"],
            &job["messages"][1]["message_id"]
        ),
        (&json!("m1"), &json!("m2"))
    );
    let tries: Vec<_> = job["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["attempt"], &one["reply"]))
        .collect();
    assert_eq!(
        tries,
        [(&json!(0), &json!(FULL)), (&json!(1), &json!(FULL))]
    );

    world.clock.set(world.job(JO).await.due.unwrap());
    let leased = world.claim_one().await;
    let report = http.get_json(&format!("/v1/addresses/{JO}")).await;
    assert_eq!(
        report["job"]["leased_until"],
        leased.claimed_at.plus(LEASE).to_string()
    );
    assert_eq!(report["job"]["due"], json!(null));
}

#[tokio::test]
async fn the_reason_of_an_operator_is_kept_with_the_suppressed_address_and_in_its_event() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let reason = "asked by phone, \"never again\"";
    let suppress = ["addresses", "suppress", JO, "--api", http.base()];
    let output = process::run(&[&suppress as &[&str], &["--reason", reason]].concat()).await;
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(reason), "{printed}");
    let shown = http.get_json("/v1/addresses/jo@example.com").await;
    assert_eq!(
        (&shown["reason"], &shown["evidence"]["note"]),
        (&json!("operator"), &json!(reason))
    );
    let event = world
        .events_of(EventKind::AddressSuppressed)
        .await
        .remove(0);
    assert_eq!(event.note.as_deref(), Some(reason));

    // Without a reason nothing is noted, and a wrong one changes nothing.
    let wrong = http
        .post("/v1/addresses/sam@example.com/suppress")
        .json(&json!({"reason": "two\nlines"}));
    assert_eq!(
        problem(wrong.send().await.unwrap(), 400).await["field"],
        "reason"
    );
    assert_eq!(world.standing(SAM).await, Standing::Active);
    let none = http.post("/v1/addresses/sam@example.com/suppress");
    let shown = json(none.send().await.unwrap()).await;
    assert_eq!(
        (&shown["standing"], &shown["evidence"]["note"]),
        (&json!("suppressed"), &json!(null))
    );
}

#[tokio::test]
async fn an_unknown_address_is_active_and_has_no_job() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let report = http
        .get_json(&format!("/v1/addresses/{JO}?account=acme"))
        .await;
    let conversation = world.store.ids().hash(&format!("acme/{JO}"));
    assert_eq!(
        report,
        json!({"address": JO, "account": "acme", "standing": "active",
            "conversation_id": conversation, "job": null})
    );
    for (path, field) in [
        ("/v1/addresses/nobody", "address"),
        ("/v1/addresses/a@b.example?account=a%2Fb", "account"),
    ] {
        assert_eq!(
            problem(http.get(path).send().await.unwrap(), 400).await["field"],
            field
        );
    }
}

#[tokio::test]
async fn upkeep_makes_an_unavailable_address_active_again_when_its_time_is_over() {
    let world = World::new().await;
    let _http = Http::serve(&world).await;
    retire_as_unavailable(&world, SAM).await;
    let until = world.standing_record(SAM).await.unwrap().until.unwrap();

    world.clock.set(until);
    assert_eq!(
        world.standing(SAM).await,
        Standing::Active,
        "before upkeep has run"
    );
    world.clock.advance(HOUR);
    let reinstated = eventually("its reinstatement", async || {
        world.events_of(EventKind::AddressReinstated).await.pop()
    });
    assert_eq!(*reinstated.await.job, format!("default/{SAM}"));
    let record = world.standing_record(SAM).await.unwrap();
    assert_eq!(
        (record.standing, record.until, record.strikes),
        (Standing::Active, None, 1),
        "its history is kept"
    );
}

#[tokio::test]
async fn an_unavailable_address_is_not_reinstated_before_its_time_is_over() {
    let world = World::new().await;
    retire_as_unavailable(&world, SAM).await;
    world.post_bounce(bounce(JO, "m1", UNKNOWN)).await;
    let until = world.standing_record(SAM).await.unwrap().until.unwrap();
    world.clock.advance(30 * DAY - MS);
    assert_eq!(world.store.reinstate().await.unwrap(), 0);
    assert_eq!(world.standing(SAM).await, Standing::Unavailable);
    world.clock.set(until.plus(365 * DAY));
    assert_eq!(world.store.reinstate().await.unwrap(), 1);
    assert_eq!(
        world.store.reinstate().await.unwrap(),
        0,
        "nothing is left to reinstate"
    );
    assert_eq!(
        world.standing(JO).await,
        Standing::Inactive,
        "an inactive address is never reinstated by upkeep"
    );
}

/// Lets every try of the schedule for 4.3.2 fail, so that the address is retired.
async fn retire_as_unavailable(world: &World, address: &str) {
    world.post_bounce(bounce(address, "m1", MAINTENANCE)).await;
    world.mail.reply_with(MAINTENANCE);
    while let Some(job) = world.job_if_any(address).await {
        world.clock.set(job.due.unwrap());
        world.work().await;
    }
    assert_eq!(world.standing(address).await, Standing::Unavailable);
}
