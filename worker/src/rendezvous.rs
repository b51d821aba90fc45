//! Decides which worker owns which shard, by rendezvous hashing (highest random weight). Every
//! worker computes the same result by itself. If a worker joins or leaves, only its own shards
//! change owner. Pure. Workers may see different fleets for a time, so correctness does not depend
//! on the result.

use std::cmp::Reverse;

use store::workers::WorkerId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One shard in a worker's round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The shard.
    pub shard: u16,
    /// Whether this worker owns the shard, because no live worker has a higher weight there. The
    /// owner has to visit the shard on time.
    pub is_own: bool,
}

/// Returns the order in which a worker visits all shards, given the live workers. Its own shards
/// come first. Its own shards, and then the others, are ordered by its weight there, highest first.
pub fn round(me: WorkerId, live: &[WorkerId], shards: u16) -> Vec<Turn> {
    let is_own = |shard| {
        live.iter()
            .all(|other| weight(*other, shard) <= weight(me, shard))
    };
    let mut turns: Vec<Turn> = (0..shards)
        .map(|shard| Turn {
            shard,
            is_own: is_own(shard),
        })
        .collect();
    turns.sort_by_key(|turn| Reverse((turn.is_own, weight(me, turn.shard))));
    turns
}

/// Returns a worker's weight at a shard. No two workers have the same weight at one shard.
fn weight(worker: WorkerId, shard: u16) -> (u64, WorkerId) {
    (
        xxh3_64_with_seed(worker.as_bytes(), u64::from(shard)),
        worker,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: u16 = 1_024;

    /// Returns the ids of this many workers, the same in each run. They are like v7 ids that were
    /// created one after another.
    fn fleet(size: u128) -> Vec<WorkerId> {
        let id = |n| {
            format!("0199aaaa-0000-7000-8000-{n:012x}")
                .parse()
                .expect("the text is a UUID")
        };
        (1..=size).map(id).collect()
    }

    fn owned(me: WorkerId, live: &[WorkerId]) -> Vec<u16> {
        let mut owned: Vec<_> = round(me, live, SHARDS)
            .into_iter()
            .filter(|turn| turn.is_own)
            .map(|turn| turn.shard)
            .collect();
        owned.sort_unstable();
        owned
    }

    #[test]
    fn every_shard_has_one_owner_and_shares_are_about_equal() {
        for size in [1, 2, 3, 8, 16] {
            let fleet = fleet(size);
            let shares: Vec<Vec<u16>> = fleet.iter().map(|worker| owned(*worker, &fleet)).collect();
            let mut all = shares.concat();
            all.sort_unstable();
            assert_eq!(all, (0..SHARDS).collect::<Vec<_>>(), "{size} workers");
            let fair = usize::from(SHARDS) / fleet.len();
            for share in shares {
                assert!(
                    (fair / 2..=fair * 2).contains(&share.len()),
                    "{} of {size} workers",
                    share.len()
                );
            }
        }
    }

    #[test]
    fn only_the_shards_of_a_worker_that_leaves_change_owner() {
        let fleet = fleet(8);
        for leaver in &fleet {
            let left: Vec<_> = fleet
                .iter()
                .copied()
                .filter(|worker| worker != leaver)
                .collect();
            let orphans = owned(*leaver, &fleet);
            for worker in &left {
                let before = owned(*worker, &fleet);
                let after = owned(*worker, &left);
                assert!(before.iter().all(|shard| after.contains(shard)));
                assert!(
                    after
                        .iter()
                        .all(|shard| before.contains(shard) || orphans.contains(shard))
                );
            }
        }
    }

    #[test]
    fn a_round_contains_every_shard_and_starts_with_those_that_the_worker_owns() {
        let fleet = fleet(3);
        let round = round(fleet[0], &fleet, 16);
        let mut shards: Vec<_> = round.iter().map(|turn| turn.shard).collect();
        shards.sort_unstable();
        assert_eq!(shards, (0..16).collect::<Vec<_>>());
        assert!(round.is_sorted_by_key(|turn| !turn.is_own));
        assert_ne!(
            round[0].shard,
            super::round(fleet[1], &fleet, 16)[0].shard,
            "the workers start with different shards"
        );
    }

    #[test]
    fn a_worker_that_is_not_listed_yet_owns_the_same_shards_as_if_it_were() {
        let fleet = fleet(3);
        assert_eq!(owned(fleet[0], &fleet[1..]), owned(fleet[0], &fleet));
        assert_eq!(owned(fleet[0], &[]).len(), usize::from(SHARDS));
    }
}
