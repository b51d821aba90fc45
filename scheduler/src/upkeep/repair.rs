//! Puts right what should never be wrong, and says so: lost jobs, destinations that nobody would
//! visit, counts of attempts under way. Beside that it forgets what is over, and lets destinations
//! follow the configured rules.

use async_trait::async_trait;
use store::error::StoreError;
use store::handle::Store;
use store::over_shards::OverShards;
use store::repair::Repaired;

use super::Task;

/// How many destinations are named per pass and shard; of the others only the number is told.
const NAMED_MAX: usize = 100;

/// The task. It passes over the whole store, one shard after the other.
#[derive(Debug)]
pub struct Repair;

#[async_trait]
impl Task for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    async fn run_once(&self, store: &Store) -> Result<u64, StoreError> {
        let mut dealt_with = OverShards::default();
        dealt_with.add(store.limit().await);
        for shard in 0..store.shards() {
            dealt_with.add(repair(store, shard).await);
        }
        dealt_with.end()
    }
}

async fn repair(store: &Store, shard: u16) -> Result<u64, StoreError> {
    let repaired = store.repair(shard).await?;
    alert(&repaired);
    // After the repair, which removes leases that such a mark is still of use against.
    Ok(count(&repaired) + store.trim_marks(shard).await? + store.trim_trouble(shard).await?)
}

fn count(
    Repaired {
        recovered,
        woken,
        recounted,
        swept,
    }: &Repaired,
) -> u64 {
    recovered.values().sum::<u64>() + (woken.len() + recounted.len()) as u64 + swept
}

/// None of this can happen by what we know, so somebody has to look at it. No address is named.
fn alert(
    Repaired {
        recovered,
        woken,
        recounted,
        swept,
    }: &Repaired,
) {
    for (destination, jobs) in recovered.iter().take(NAMED_MAX) {
        tracing::error!(%destination, jobs, "jobs were lost, and are due again; this is a fault, please report it");
    }
    for destination in woken.iter().take(NAMED_MAX) {
        tracing::error!(%destination, "due jobs were not in the agenda, and are now; this is a fault, please report it");
    }
    for recount in recounted.iter().take(NAMED_MAX) {
        let (destination, said, counted) = (&recount.destination, recount.said, recount.counted);
        tracing::error!(%destination, said, counted, "attempts under way were miscounted; this is a fault, please report it");
    }
    if *swept > 0 {
        tracing::error!(
            leases = swept,
            "leases had jobs and no end, and are removed; this is a fault, please report it"
        );
    }
    for (what, found) in [
        ("lost jobs", recovered.len()),
        ("no agenda", woken.len()),
        ("miscounted", recounted.len()),
    ] {
        if found > NAMED_MAX {
            tracing::error!(
                what,
                destinations = found - NAMED_MAX,
                "and at more destinations, which are not named"
            );
        }
    }
}
