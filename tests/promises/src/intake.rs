//! Every posted bounce gets its own answer, in the form and order of the request. An error in one
//! bounce affects no other.

use config::model::Config;
use harness::bounce::{FULL, TOO_BIG, UNKNOWN, bounce};
use harness::http::{Http, NDJSON, json, json_lines, problem};
use harness::world::World;
use serde_json::{Value, json};

const JO: &str = "jo@example.com";

#[tokio::test]
async fn a_single_object_is_answered_with_an_object() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let response = http.post_json(&bounce(JO, "m1", FULL)).await;
    assert_eq!(response.status(), 202);
    let answer = json(response).await;
    let due = world.job(JO).await.due.unwrap().to_string();
    assert_eq!(
        answer,
        json!({"answer": "scheduled", "job": "default/jo@example.com", "due": due,
            "policy": "system-full"})
    );
}

#[tokio::test]
async fn each_item_of_an_array_is_answered_at_its_position() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let bounces = json!([
        bounce(JO, "m1", FULL),
        bounce(JO, "m2", FULL),
        bounce("jo@@example.com", "m1", FULL),
        bounce(JO, "m1", FULL),
        bounce("gone@example.net", "m1", UNKNOWN),
        bounce("big@example.org", "m1", TOO_BIG),
    ]);
    let response = http.post_json(&bounces).await;
    assert_eq!(response.status(), 202);
    let answers = json(response).await;
    assert_eq!(
        answer_names(answers.as_array().unwrap()),
        [
            "scheduled",
            "joined",
            "refused",
            "duplicate",
            "retired",
            "dropped"
        ]
    );
    assert_eq!(
        (&answers[2]["field"], &answers[2]["value"]),
        (&json!("recipient"), &json!("jo@@example.com"))
    );
    assert_eq!(answers[4]["standing"], "inactive");
}

#[tokio::test]
async fn each_line_is_answered_by_a_line_and_a_wrong_line_affects_no_other() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.line_max = 512;
    let http = Http::serve_with(&world, &config).await;
    let good = |n: u32| bounce(&format!("user{n}@example.com"), "m1", FULL).to_string();
    let lines = [
        good(1),
        r#"{"recipient":"jo@example.com","reply""#.to_owned(),
        good(2),
        bounce("no address", "m1", FULL).to_string(),
        r#"{"recipient":7,"reply":"452 full"}"#.to_owned(),
        r#"{"recipent":"jo@example.com","reply":"452 full"}"#.to_owned(),
        r#"["jo@example.com"]"#.to_owned(),
        format!(
            "{{\"recipient\":\"jo@example.com\",\"reply\":\"{}\"}}",
            "x".repeat(512)
        ),
        r#"{"recipient":"jo@example.com","reply":"452 full","status":"4.3"}"#.to_owned(),
        "\u{0}\u{1}".to_owned(),
        good(3),
    ];
    let response = http.post_lines(lines.join("\n")).await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["content-type"], NDJSON);
    let answers = json_lines(response).await;
    let mut wanted = vec!["refused"; lines.len()];
    for place in [0, 2, 10] {
        wanted[place] = "scheduled";
    }
    assert_eq!(answer_names(&answers), wanted);
    let blamed: Vec<&str> = answers
        .iter()
        .filter(|one| one["answer"] == "refused")
        .map(|one| one["field"].as_str().unwrap_or(""))
        .collect();
    assert_eq!(
        blamed,
        [
            "",
            "recipient",
            "recipient",
            "recipent",
            "",
            "",
            "status",
            ""
        ]
    );
    assert!(
        answers
            .iter()
            .all(|one| one["answer"] != "refused" || one["reason"].is_string())
    );
    for n in 1..=3 {
        assert_eq!(world.waiting(&format!("user{n}@example.com")).await, ["m1"]);
    }
    assert!(
        world.job_if_any(JO).await.is_none(),
        "no wrong line started a job"
    );
}

#[tokio::test]
async fn lines_of_one_request_take_effect_in_order_even_across_batches() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.batch = 3;
    config.scheduler.answers_in_memory = 1 << 10;
    let http = Http::serve_with(&world, &config).await;
    let lines: Vec<String> = (0..50)
        .map(|n| bounce(JO, &format!("m{}", n % 10), FULL).to_string())
        .collect();
    let answers = json_lines(http.post_lines(lines.join("\r\n") + "\r\n\r\n").await).await;
    assert_eq!(answers.len(), 50);
    assert_eq!(
        answer_names(&answers)[..10],
        [["scheduled"].as_slice(), &["joined"; 9]].concat()
    );
    assert!(
        answer_names(&answers)[10..]
            .iter()
            .all(|word| *word == "duplicate")
    );
}

#[tokio::test]
async fn a_request_without_any_readable_item_is_answered_with_400() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let response = http.post_lines("no\njson\n").await;
    assert_eq!(response.status(), 400);
    assert_eq!(
        answer_names(&json_lines(response).await),
        ["refused", "refused"],
        "each line still gets its own reason"
    );
    let one = problem(http.post_json(&bounce("nobody", "m1", FULL)).await, 400).await;
    assert_eq!(
        (&one["answer"], &one["field"], &one["value"]),
        (&json!("refused"), &json!("recipient"), &json!("nobody"))
    );
    assert_eq!(one["detail"], one["reason"]);
    for empty in [
        http.post_json(&json!([])).await,
        http.post_lines("\n \n").await,
    ] {
        problem(empty, 400).await;
    }
    let request = http
        .post("/v1/bounces")
        .header("content-type", "application/json")
        .body("{");
    problem(request.send().await.unwrap(), 400).await;
}

#[tokio::test]
async fn an_unreadable_request_gets_an_error_that_names_what_is_allowed() {
    let world = World::new().await;
    let mut config = Config::embedded();
    config.scheduler.body_max = 1 << 10;
    let http = Http::serve_with(&world, &config).await;

    let too_large = problem(
        http.post_json(&bounce(JO, "m1", &"x".repeat(1 << 10)))
            .await,
        413,
    )
    .await;
    assert!(
        too_large["detail"].as_str().unwrap().contains("1024"),
        "{too_large}"
    );
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let mut request = http.post("/v1/bounces").body("{}");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let unsupported = problem(request.send().await.unwrap(), 415).await;
        assert!(
            unsupported["detail"]
                .as_str()
                .unwrap()
                .contains("application/json"),
            "{unsupported}"
        );
    }
    problem(http.get("/v1/nothing").send().await.unwrap(), 404).await;
    problem(http.get("/v1/bounces").send().await.unwrap(), 405).await;
}

/// The name of each answer.
fn answer_names(answers: &[Value]) -> Vec<&str> {
    answers
        .iter()
        .map(|answer| answer["answer"].as_str().unwrap_or("none"))
        .collect()
}

#[tokio::test]
async fn an_item_of_an_array_that_is_not_json_affects_no_other() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let half = bounce(JO, "m1", "452 4.3.1 full").to_string();
    let half = half.replace("full", r"cut emoji \ud83d");
    let sam = bounce("sam@example.com", "m1", FULL);
    let body = format!("\u{feff}[{half}, {{oh}}, {sam}]");
    let response = http
        .post("/v1/bounces")
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 202);
    let answers = json(response).await;
    assert_eq!(
        answer_names(answers.as_array().unwrap()),
        ["scheduled", "refused", "scheduled"]
    );
    assert!(answers[1]["reason"].as_str().unwrap().contains("not JSON"));
}

#[tokio::test]
async fn a_side_field_that_cannot_be_used_costs_a_warning_and_not_the_bounce() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    let mut item = bounce(JO, "m1", FULL);
    item["traceparent"] = "".into();
    item["remote_mta"] = json!(7);
    let answer = json(http.post_json(&item).await).await;
    assert_eq!(answer["answer"], "scheduled");
    let warnings = answer["warnings"].as_array().unwrap();
    let mut fields: Vec<&str> = warnings
        .iter()
        .map(|warning| warning["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    assert_eq!(fields, ["remote_mta", "traceparent"]);
}

#[tokio::test]
async fn an_address_that_was_mailed_before_is_read_even_if_new_addresses_may_not_look_so() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    for (address, quoted) in [
        ("jo..x@example.com", "\"jo..x\"@example.com"),
        ("jo.@example.com", "\"jo.\"@example.com"),
        ("jo@mail_host.example", "jo@mail_host.example"),
    ] {
        let answer = json(http.post_json(&bounce(address, "m1", FULL)).await).await;
        assert_eq!(answer["answer"], "scheduled", "{address}: {answer}");
        assert_eq!(answer["job"], format!("default/{quoted}"));
        let complaint = json!({"type": "complaint", "recipient": address});
        let response = http
            .post("/v1/facts")
            .json(&complaint)
            .send()
            .await
            .unwrap();
        assert_eq!(json(response).await["answer"], "suppressed", "{address}");
    }
}

#[tokio::test]
async fn an_encoded_body_is_refused_with_the_encodings_that_are_possible() {
    let world = World::new().await;
    let http = Http::serve(&world).await;
    for path in ["/v1/bounces", "/v1/facts", "/v1/dsn", "/v1/hooks/sparkpost"] {
        let request = http
            .post(path)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
            .body(b"\x1f\x8b".to_vec());
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 415, "{path}");
        assert_eq!(response.headers()["accept-encoding"], "identity");
    }
    let plain = http
        .post("/v1/bounces")
        .header("content-encoding", "identity");
    let response = plain.json(&bounce(JO, "m1", FULL)).send().await.unwrap();
    assert_eq!(response.status(), 202);
}
