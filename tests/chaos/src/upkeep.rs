//! The tasks that run in addition to inputs and faults: checking windows on the servers, releasing
//! jobs from quarantine, writing snapshots, and printing progress.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::{self, RedisResult};
use serde_json::Value;
use tokio::time::sleep;

use crate::options::Shape;
use crate::plan::{NARROW, ROUTES};
use crate::record::now_ms;
use crate::store::SHARDS;
use crate::world::World;

/// The pause between two checks of windows and leases.
const CHECK: Duration = Duration::from_millis(500);

/// The pause between two snapshots, so that a kill loses some of the writes since the last one.
const SNAPSHOT: Duration = Duration::from_secs(3);

/// The pause between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

/// Runs all these tasks until the run is closing.
pub(crate) async fn check_repeatedly(world: Arc<World>) {
    let checking = async {
        loop {
            check_windows(&world).await;
            check_leases(&world).await;
            sleep(CHECK).await;
        }
    };
    let releasing = async {
        loop {
            sleep(Duration::from_secs(2)).await;
            let _ = release_quarantine(&world).await;
        }
    };
    let saving = async {
        loop {
            sleep(SNAPSHOT).await;
            if world.options.shape != Shape::Snapshot {
                continue;
            }
            let began = now_ms();
            if let Some(port) = world.store.masters().await.first()
                && world.store.snapshot(*port).await
            {
                world.note_snapshot(began);
            }
        }
    };
    let printing = async {
        loop {
            sleep(PROGRESS).await;
            let recorder = &world.recorder;
            println!(
                "chaos: {} bounces in, {} recipients tried, {} messages accepted, {} faults",
                recorder.bounced.len(),
                recorder.asked.len(),
                recorder.taken.len(),
                recorder.faults.len()
            );
        }
    };
    let all = async { tokio::join!(checking, releasing, saving, printing) };
    world.closing.run_until_cancelled(all).await;
}

/// Checks that no narrow destination has more attempts in flight than its window.
async fn check_windows(world: &World) {
    let keys: Vec<String> = (0..ROUTES.len())
        .flat_map(|number| {
            (0..SHARDS).map(move |shard| format!("rd:{{{shard}}}:pace:n{number}.narrow.test"))
        })
        .collect();
    for port in world.store.masters().await {
        let Ok(mut connection) = world.store.connect(port).await else {
            continue;
        };
        for key in &keys {
            let mut command = redis::cmd("HGET");
            let asked: RedisResult<Option<usize>> = command
                .arg(key)
                .arg("in_flight")
                .query_async(&mut connection)
                .await;
            match asked {
                Ok(Some(under_way)) if under_way > NARROW => {
                    let what = format!("{key} had {under_way} attempts under way at {}", now_ms());
                    world.recorder.crowded.push(what);
                }
                _ => {}
            }
        }
    }
}

/// Checks that no job is in two valid leases.
async fn check_leases(world: &World) {
    for port in world.store.masters().await {
        let Ok(mut connection) = world.store.connect(port).await else {
            continue;
        };
        for shard in 0..SHARDS {
            let key = format!("rd:{{{shard}}}:leased");
            // Both at once, because a job may end and start again between two reads.
            let read: RedisResult<(HashMap<String, String>, HashMap<String, String>)> =
                redis::pipe()
                    .atomic()
                    .hgetall(&key)
                    .hgetall(format!("rd:{{{shard}}}:meanwhile"))
                    .query_async(&mut connection)
                    .await;
            let Ok((leased, meanwhile)) = read else {
                continue;
            };
            for job in jobs_in_two_leases(&leased, &meanwhile) {
                world
                    .recorder
                    .leased_twice
                    .push(format!("{job} is in two leases of {key} at {}", now_ms()));
            }
        }
    }
}

/// The jobs that are in two valid leases, from the hashes `leased` and `meanwhile` of one shard.
///
/// A lease has a mark for each of its jobs: `1` while the job is in the lease. The ids of the jobs
/// are in a separate field. If a job ended while it was leased, its entry in `meanwhile` starts
/// with the serial up to which its leases are void. Such a job may have started again, and so be
/// in a second lease.
fn jobs_in_two_leases(
    leased: &HashMap<String, String>,
    meanwhile: &HashMap<String, String>,
) -> Vec<String> {
    // A token is `<serial>-<nonce>`, an entry of `meanwhile` is `<serial> <bytes>`.
    let serial_of = |text: &str| -> u64 {
        let serial = text.split(['-', ' ']).next();
        serial.and_then(|serial| serial.parse().ok()).unwrap_or(0)
    };
    let mut valid: HashMap<&str, usize> = HashMap::new();
    for (token, marks) in leased {
        let Some(ids) = leased.get(&format!("{token} ids")) else {
            continue;
        };
        let jobs = ids.split('\n').skip(1).zip(marks.bytes());
        for (job, _) in jobs.filter(|(_, mark)| *mark == b'1') {
            let void = meanwhile.get(job).map_or(0, |entry| serial_of(entry));
            if serial_of(token) > void {
                *valid.entry(job).or_default() += 1;
            }
        }
    }
    valid
        .into_iter()
        .filter(|(_, leases)| *leases > 1)
        .map(|(job, _)| job.to_owned())
        .collect()
}

/// Releases jobs from quarantine, as an operator does.
async fn release_quarantine(world: &World) -> reqwest::Result<()> {
    let base = format!("http://{}", world.schedulers[0].http);
    let limit = Duration::from_secs(3);
    let page: Value = world
        .http
        .get(format!("{base}/v1/quarantine"))
        .timeout(limit)
        .send()
        .await?
        .json()
        .await?;
    for job in page["jobs"].as_array().into_iter().flatten() {
        let Some((account, address)) = job["job"].as_str().and_then(|id| id.split_once('/')) else {
            continue;
        };
        let url = format!("{base}/v1/quarantine/{address}/release?account={account}");
        world.http.post(url).timeout(limit).send().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash<const N: usize>(fields: [(&str, &str); N]) -> HashMap<String, String> {
        let owned = |(field, value): (&str, &str)| (field.to_owned(), value.to_owned());
        fields.into_iter().map(owned).collect()
    }

    /// The jobs in two leases if `b` is in lease 7 and the second lease has these marks.
    fn found(second: &str, meanwhile: &HashMap<String, String>) -> Vec<String> {
        let leased = hash([
            ("7-a0", "11"),
            ("7-a0 ids", "30000\na\nb"),
            ("9-b0", second),
            ("9-b0 ids", "30000\nb\nc"),
        ]);
        jobs_in_two_leases(&leased, meanwhile)
    }

    #[test]
    fn a_job_counts_as_leased_twice_only_if_both_leases_still_have_it() {
        assert_eq!(found("01", &HashMap::new()), Vec::<String>::new());
        assert_eq!(found("11", &HashMap::new()), ["b"]);
    }

    #[test]
    fn a_lease_that_is_void_for_a_job_does_not_count() {
        assert_eq!(found("11", &hash([("b", "7 0")])), Vec::<String>::new());
        assert_eq!(found("11", &hash([("b", "6 0")])), ["b"]);
        assert_eq!(found("11", &hash([("b", "0 400")])), ["b"]);
    }
}
