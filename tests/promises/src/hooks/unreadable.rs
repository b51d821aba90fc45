//! What cannot be read of a request costs no more than itself, and is reported.

use config::hooks::Service;
use harness::http::json;
use harness::world::World;
use serde_json::json;

use super::{JO, SAM, accepted, answer_names, login, send, serve};

#[tokio::test]
async fn an_event_that_cannot_be_read_affects_no_other_and_unreadable_values_are_reported() {
    let world = World::new().await;
    let http = serve(&world, Service::SparkPost, login()).await;
    let event = |to: &str, id: u32, more: &str| {
        format!(
            r#"{{"msys":{{"message_event":{{"type":"bounce","event_id":"{id}","rcpt_to":"{to}",
            "raw_reason":"550 5.1.1 User unknown{more}","bounce_class":"10",
            "timestamp":"soon"}}}}}}"#
        )
    };
    let body = format!(
        "[{}, {}, {{oh}}]",
        event(JO, 1, ""),
        event(SAM, 2, r" \ud83d")
    );
    let request = http
        .post("/v1/hooks/sparkpost")
        .basic_auth("service", Some("geheim"))
        .header("content-type", "application/json")
        .body(body);
    let wire = accepted(send(request).await).await;
    assert_eq!(answer_names(&wire), ["retired", "retired", "refused"]);
    assert_eq!(wire["answers"][0]["warnings"][0]["field"], "occurred_at");
    let counts = json(http.get("/v1/hooks").send().await.unwrap()).await;
    assert_eq!(
        (
            &counts["sparkpost"]["refused"],
            &counts["sparkpost"]["warned"]
        ),
        (&json!(1), &json!(2))
    );
}
