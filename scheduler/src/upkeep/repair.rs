//! Repairs what should never be wrong, and logs it: lost jobs, destinations that no worker would
//! visit, wrong counts of attempts in progress. Also removes data that is no longer needed, and
//! applies the configured rules to destinations.

use async_trait::async_trait;
use store::error::StoreError;
use store::handle::Store;
use store::over_shards::SumOverShards;
use store::repair::Repaired;

use super::Task;

/// How many destinations are logged by name per pass and shard. Of the others only the number is
/// logged.
const NAMED_MAX: usize = 100;

/// The upkeep task `repair`. It goes through the whole store, one shard after the other.
#[derive(Debug)]
pub struct Repair;

#[async_trait]
impl Task for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    async fn run_once(&self, store: &Store) -> Result<u64, StoreError> {
        let mut repaired = SumOverShards::default();
        repaired.add(store.limit().await);
        for shard in 0..store.shards() {
            repaired.add(repair(store, shard).await);
        }
        repaired.end()
    }
}

async fn repair(store: &Store, shard: u16) -> Result<u64, StoreError> {
    let repaired = store.repair(shard).await?;
    alert(&repaired);
    // Marks are trimmed after the repair, because a mark is still needed against leases that the
    // repair removes.
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

/// Logs what was repaired. As far as we know none of it can happen, so a person has to look at it.
/// No address is logged.
fn alert(
    Repaired {
        recovered,
        woken,
        recounted,
        swept,
    }: &Repaired,
) {
    for (destination, jobs) in recovered.iter().take(NAMED_MAX) {
        tracing::error!(
            %destination,
            jobs,
            "jobs were lost, and are due again; this is a fault, please report it"
        );
    }
    for destination in woken.iter().take(NAMED_MAX) {
        tracing::error!(
            %destination,
            "due jobs were not in the agenda, and are now; this is a fault, please report it"
        );
    }
    for recount in recounted.iter().take(NAMED_MAX) {
        tracing::error!(
            destination = %recount.destination,
            recorded = recount.recorded,
            counted = recount.counted,
            "attempts in progress were miscounted; this is a fault, please report it"
        );
    }
    if *swept > 0 {
        tracing::error!(
            leases = swept,
            "leases without a deadline were removed; this is a fault, please report it"
        );
    }
    for (what, found) in [
        ("lost jobs", recovered.len()),
        ("not in the agenda", woken.len()),
        ("miscounted", recounted.len()),
    ] {
        if found > NAMED_MAX {
            tracing::error!(
                what,
                destinations = found - NAMED_MAX,
                "the same at more destinations, which are not logged by name"
            );
        }
    }
}
