//! What `redeliver submit` does with facts, with an account, and with deliveries in logs.

use super::*;

const SAM: &str = "sam@example.com";

fn fact(kind: &str, recipient: &str) -> Value {
    json!({"type": kind, "recipient": recipient})
}

/// One line of Postfix's log about the delivery of a message.
fn postfix_line(minute: u32, to: &str, status: &str) -> String {
    format!(
        "2025-11-21T09:{minute:02}:00Z out1 postfix/smtp[7]: 4fXk2m1Qz7: to=<{to}>, \
         relay=mx.example.com[192.0.2.7]:25, delay=1, dsn=4.3.1, status={status} \
         (452 4.3.1 full)\n"
    )
}

#[tokio::test]
async fn facts_and_bounces_of_one_file_are_submitted_in_their_order() {
    let world = World::new().await;
    let content = [
        bounce(JO, "m1", FULL),
        bounce(SAM, "m1", FULL),
        fact("delivered", JO),
        fact("complaint", SAM),
        fact("delivered", "al@example.com"),
        fact("nonsense", JO),
    ]
    .map(|item| format!("{item}\n"))
    .concat();
    let input = Input::new(&world, &content).await;
    let output = input.submit(&[]).await;
    let counted: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        counted,
        json!({
            "bounces": 2, "facts": 4, "line": 6,
            "answers": {"scheduled": 2, "closed": 1, "suppressed": 1, "noted": 1, "refused": 1},
        })
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("line 6: type: must be one of delivered"),
        "{stderr}"
    );
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.standing(SAM).await, Standing::Suppressed);
}

#[tokio::test]
async fn facts_keep_their_place_among_bounces_however_many_batches_there_are() {
    let world = World::new().await;
    // Each batch has 2,000 items, and four batches are under way at once.
    let numbers = 0..3_000;
    let facts: String = numbers
        .clone()
        .map(|n| format!("{}\n", fact("delivered", &format!("user{n}@example.com"))))
        .collect();
    let input = Input::new(
        &world,
        &(lines(numbers.clone()) + &facts + &lines(3_000..6_000)),
    )
    .await;
    let output = input.submit(&["--parallel", "4"]).await;
    assert_eq!(
        (output.status.code(), answers(&output)),
        (Some(0), json!({"scheduled": 6_000, "closed": 3_000}))
    );
}

#[tokio::test]
async fn an_account_is_given_to_the_lines_that_name_none() {
    let world = World::new().await;
    let mut of_beta = bounce(SAM, "m1", FULL);
    of_beta["account"] = "beta".into();
    let content = format!(
        "{}\n{of_beta}\n{}\n",
        bounce(JO, "m1", FULL),
        fact("engaged", JO)
    );
    let input = Input::new(&world, &content).await;
    let output = input.submit(&["--account", "acme"]).await;
    assert_eq!(answers(&output), json!({"scheduled": 2, "noted": 1}));
    let log = postfix_line(30, "al@example.com", "deferred");
    let input = Input::new(&world, &log).await;
    let output = input
        .submit(&["--account", "acme", "--format", "postfix"])
        .await;
    assert_eq!(answers(&output), json!({"scheduled": 1}));
    let mut jobs: Vec<String> = world
        .events_of(EventKind::JobScheduled)
        .await
        .iter()
        .map(|event| event.job.to_string())
        .collect();
    jobs.sort_unstable();
    assert_eq!(
        jobs,
        [
            "acme/al@example.com",
            "acme/jo@example.com",
            "beta/sam@example.com"
        ]
    );
    let wrong = input.submit(&["--account", "a/b"]).await;
    assert_eq!(
        wrong.status.code(),
        Some(2),
        "an account has a limited form"
    );
}

#[tokio::test]
async fn a_later_delivery_in_a_log_of_postfix_ends_what_waits_for_it() {
    let world = World::new().await;
    let log = [
        postfix_line(30, JO, "deferred"),
        postfix_line(31, SAM, "deferred"),
        postfix_line(32, "al@example.com", "sent"),
        postfix_line(45, JO, "sent"),
    ]
    .concat();
    let input = Input::new(&world, &log).await;
    let output = input.submit(&["--format", "postfix"]).await;
    assert_eq!(
        (output.status.code(), answers(&output)),
        (Some(0), json!({"scheduled": 2, "closed": 1})),
        "a delivery that nothing failed before is left out"
    );
    assert!(world.job_if_any(JO).await.is_none());
    assert_eq!(world.waiting(SAM).await, ["4fXk2m1Qz7"]);
    let delivered = world.events_of(EventKind::MessageDelivered).await;
    assert_eq!(delivered[0].reason.as_deref(), Some("reported"));
}

#[tokio::test]
async fn a_later_delivery_and_a_complaint_in_a_log_of_kumomta_are_facts() {
    let world = World::new().await;
    let response = json!({"code": 452, "content": "full"});
    let record = |kind: &str, second: u32| {
        json!({"type": kind, "id": "k1", "recipient": JO, "response": response,
            "timestamp": 1_763_717_400 + second})
    };
    let mut complaint = record("Feedback", 9);
    complaint["feedback_report"] = json!({"feedback_type": "abuse", "original_rcpt_to": [SAM]});
    let log = [
        record("TransientFailure", 0),
        record("Delivery", 5),
        complaint,
    ]
    .map(|record| format!("{record}\n"))
    .concat();
    let input = Input::new(&world, &log).await;
    let output = input.submit(&["--format", "kumomta"]).await;
    assert_eq!(
        answers(&output),
        json!({"scheduled": 1, "closed": 1, "suppressed": 1})
    );
}
