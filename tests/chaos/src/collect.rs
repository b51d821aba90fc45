//! Collects the data at the end of a run: the journal, the standings, the keys that are left in
//! Redis, and how the processes end.

use std::time::Duration;

use anyhow::Context;
use deadpool_redis::redis::{self, RedisResult, Value};
use domain::standing::Standing;
use serde_json::Value as Json;

use crate::follow;
use crate::record::{Ended, Evidence, Ms, Rest, Run, now_ms};
use crate::world::World;

/// How long reading the journal through the API may take.
const READ_MAX: Duration = Duration::from_secs(90);

/// The keys that must not exist when all work is done. Of each name, this is the part after the
/// shard.
const GONE: [&str; 11] = [
    "agenda",
    "due",
    "due_of",
    "accounts",
    "jobs",
    "leases",
    "leased",
    "meanwhile",
    "lapses",
    "quarantine",
    "hearing",
];

/// Collects everything and stops the fleet.
pub(crate) async fn collect(world: &World, run: Run, drained_ms: Ms) -> anyhow::Result<Evidence> {
    let recorder = &world.recorder;
    let stored = stored_ids(world)
        .await
        .context("not every shard has a master that answers, so there is no verdict")?;
    let events = follow::read_all(world, stored.len(), READ_MAX).await?;
    let standings = standings(world)
        .await
        .context("not every shard has a master that answers")?;
    let left = left_over(world)
        .await
        .context("the keys cannot be listed")?;
    stop(world).await?;
    for process in world.processes() {
        check_log(world, &process.log()?);
    }
    let rest = Rest {
        followed: recorder.followed.all(),
        stored,
        standings,
        left,
        wrong: recorder.wrong.all(),
        crowded: recorder.crowded.all(),
        leased_twice: recorder.leased_twice.all(),
        drained_ms,
    };
    Ok(Evidence {
        run,
        bounced: recorder.bounced.all(),
        facts: recorder.facts.all(),
        held: recorder.held.all(),
        asked: recorder.asked.all(),
        taken: recorder.taken.all(),
        crowds: recorder.crowds.all(),
        refuted: recorder.refuted.all(),
        faults: recorder.faults.all(),
        ended: recorder.ended.all(),
        events,
        skews: recorder.skews.all(),
        rest,
    })
}

/// The ids of all events on the servers. `None` if some shard has no master that answers.
pub(crate) async fn stored_ids(world: &World) -> Option<Vec<String>> {
    let mut ids = Vec::new();
    for (shard, port) in world.store.shards().await?.into_iter().enumerate() {
        let key = format!("rd:{{{shard}}}:journal");
        let entries: Vec<(String, Vec<String>)> = world
            .store
            .ask(port, &["XRANGE", &key, "-", "+"])
            .await
            .ok()?;
        for (entry, fields) in entries {
            let events = fields
                .chunks(2)
                .find(|field| field[0] == "e")
                .map_or("[]", |field| field[1].as_str());
            let count = serde_json::from_str::<Vec<Json>>(events).map_or(0, |events| events.len());
            ids.extend((0..count).map(|number| format!("{shard}:{entry}:{number}")));
        }
    }
    Some(ids)
}

async fn standings(world: &World) -> Option<Vec<(String, Standing)>> {
    let mut standings = Vec::new();
    for (shard, port) in world.store.shards().await?.into_iter().enumerate() {
        let key = format!("rd:{{{shard}}}:standing");
        let records: Vec<(String, String)> =
            world.store.ask(port, &["HGETALL", &key]).await.ok()?;
        for (job, record) in records {
            let record: Json = serde_json::from_str(&record).ok()?;
            standings.push((job, serde_json::from_value(record["s"].clone()).ok()?));
        }
    }
    Some(standings)
}

/// The keys that should not exist any more, each with its content.
async fn left_over(world: &World) -> RedisResult<Vec<String>> {
    let mut left = Vec::new();
    for port in world.store.masters().await {
        let keys: Vec<String> = world.store.ask(port, &["KEYS", "rd:*"]).await?;
        for key in keys {
            let name = key
                .split('}')
                .next_back()
                .unwrap_or(&key)
                .trim_start_matches(':');
            let what = name.split(':').next().unwrap_or_default();
            if GONE.contains(&what) {
                left.push(format!("{key}: {}", describe(world, port, &key).await));
            } else if what == "pace" {
                let under_way: Option<i64> =
                    world.store.ask(port, &["HGET", &key, "in_flight"]).await?;
                if under_way.unwrap_or_default() != 0 {
                    left.push(format!(
                        "{key} has {} attempts in flight",
                        under_way.unwrap_or_default()
                    ));
                }
            }
        }
    }
    for stream in ["rd:intake", "rd:intake:aside"] {
        let length: usize = world
            .store
            .ask_anywhere(&["XLEN", stream])
            .await
            .unwrap_or_default();
        if length > 0 {
            left.push(format!("{stream} has {length} entries"));
        }
    }
    Ok(left)
}

async fn describe(world: &World, port: u16, key: &str) -> String {
    let kind: String = world
        .store
        .ask(port, &["TYPE", key])
        .await
        .unwrap_or_default();
    let read: &[&str] = match kind.as_str() {
        "hash" => &["HGETALL", key],
        "zset" => &["ZRANGE", key, "0", "4", "WITHSCORES"],
        _ => &["TYPE", key],
    };
    let content: RedisResult<Value> = world.store.ask(port, read).await;
    let text: Vec<String> = content
        .ok()
        .and_then(|content| redis::from_redis_value(content).ok())
        .unwrap_or_default();
    text.join(" ").chars().take(300).collect()
}

/// Ends all processes with SIGTERM, and records how they end.
async fn stop(world: &World) -> anyhow::Result<()> {
    for process in world.processes() {
        let (life, at) = (process.life().await, now_ms());
        let status = process.stop().await?;
        world.recorder.ended.push(Ended {
            at,
            life,
            was_asked: true,
            age_ms: Ms::MAX,
            is_success: status.is_some_and(|status| status.success()),
            status: status.map(|status| status.to_string()),
        });
    }
    Ok(())
}

/// Checks that a log contains no panic and no address.
fn check_log(world: &World, log: &str) {
    if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
        world
            .recorder
            .wrong
            .push(format!("a process panicked: {line}"));
    }
    if let Some(line) = log.lines().find(|line| shows_address(line)) {
        world
            .recorder
            .wrong
            .push(format!("a log shows a full address: {line}"));
    }
}

/// Whether a line contains an address of the run: `u…@n….test`.
fn shows_address(line: &str) -> bool {
    line.match_indices("@n").any(|(place, _)| {
        let local = line[..place].trim_end_matches(|letter: char| letter.is_ascii_digit());
        local.len() < place && local.ends_with('u') && line[place..].contains(".test")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_a_log_is_found_and_a_destination_is_not_mistaken_for_one() {
        assert!(shows_address("WARN u12@n3.plain.test is full"));
        assert!(!shows_address("WARN …@n3.plain.test is full"));
        assert!(!shows_address("WARN destination=n3.plain.test"));
    }
}
