//! `redeliver destinations list`: lists the destinations in trouble first, then those with work. It
//! uses the API.

use anyhow::Result;
use domain::clock::{Clock, Timestamp};
use serde_json::Value;
use system::clock::SystemClock;

use super::{breaker, hold};
use crate::api::text;
use crate::figures::thousands;
use crate::instants::distance;
use crate::page::Page;

/// Prints a page of the list.
pub(super) async fn run(page: &Page) -> Result<()> {
    page.print("destinations", |answer| describe(answer, SystemClock.now()))
        .await
}

fn describe(answer: &Value, now: Timestamp) -> String {
    let listed = answer["destinations"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut lines = match listed {
        [] if !answer["next"].is_null() => String::new(),
        [] => "no destination is in trouble or has work\n".to_owned(),
        _ => row(["DESTINATION", "WAITING", "NEXT DUE", "IN FLIGHT", "TROUBLE"]),
    };
    for destination in listed {
        let next_due = match destination["next_due"].as_str().and_then(Timestamp::parse) {
            Some(due) if due <= now => "now".to_owned(),
            Some(due) => distance(due, now),
            None => "-".to_owned(),
        };
        let waiting = thousands(destination["waiting"].as_u64().unwrap_or_default());
        let in_flight = format!(
            "{}/{}",
            text(&destination["in_flight"]),
            text(&destination["window"])
        );
        lines.push_str(&row([
            &text(&destination["destination"]),
            &waiting,
            &next_due,
            &in_flight,
            &trouble(destination, now),
        ]));
    }
    if let Some(next) = answer["next"].as_str() {
        lines.push_str(&format!("there may be more: --after '{next}'\n"));
    }
    lines
}

fn row([destination, waiting, next_due, in_flight, trouble]: [&str; 5]) -> String {
    format!("{destination:<32} {waiting:>9}  {next_due:<12} {in_flight:>9}  {trouble}\n")
}

/// Returns what prevents attempts at a destination: its breaker and its hold.
fn trouble(destination: &Value, now: Timestamp) -> String {
    let hold = hold(&destination["hold"], now).map(|hold| format!("held {hold}"));
    let breaker = match destination["breaker"]["state"].as_str() {
        None | Some("closed") => None,
        Some(_) => Some(format!("breaker {}", breaker(&destination["breaker"], now))),
    };
    let all: Vec<String> = breaker.into_iter().chain(hold).collect();
    if all.is_empty() {
        "-".to_owned()
    } else {
        all.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_list_has_a_line_for_each_destination_and_aligned_columns() {
        let closed = json!({"state": "closed"});
        let due = "2026-11-23T02:41:11.904Z";
        let answer = json!({"next": "work/7/one.example", "destinations": [
            {
                "destination": "google",
                "waiting": 12_345,
                "next_due": due,
                "in_flight": 5,
                "window": 20,
                "breaker": {"state": "half_open", "times": 2},
                "hold": {"reason": "they asked", "until": null},
            },
            {
                "destination": "one.example",
                "waiting": 0,
                "next_due": null,
                "in_flight": 1,
                "window": 200,
                "breaker": closed,
                "hold": null,
            },
        ]});
        let now = Timestamp::parse("2026-11-22T00:00:00Z").unwrap();
        let wanted = [
            "DESTINATION                        WAITING  NEXT DUE     IN FLIGHT  TROUBLE",
            "google                              12,345  in 27h            5/20  \
             breaker one attempt is under way, the others wait for its result; \
             opened 2 in a row; \
             held until it is released: they asked",
            "one.example                              0  -                1/200  -",
            "there may be more: --after 'work/7/one.example'",
        ];
        assert_eq!(describe(&answer, now).lines().collect::<Vec<_>>(), wanted);
        assert!(
            describe(&answer, now.plus(std::time::Duration::from_secs(200_000)))
                .contains("  now  ")
        );
        let over = json!({"state": "open", "until": null, "times": 2});
        let wanted = "open, the next due job is its one attempt; 2 in a row";
        assert_eq!(breaker(&over, Timestamp::from_ms(0)), wanted);
        let nothing = json!({"destinations": [], "next": null});
        assert_eq!(
            describe(&nothing, now),
            "no destination is in trouble or has work\n"
        );
    }
}
