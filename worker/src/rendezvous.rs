//! Which worker looks after which shard, by highest random weight: every worker comes to the same
//! answer by itself, and when one comes or goes only its own shards change hands. Pure; nothing
//! relies on all workers seeing the same fleet.

use std::cmp::Reverse;

use store::workers::WorkerId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One shard in a worker's round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The shard.
    pub shard: u16,
    /// Whether no live worker has more weight there: then it is this one that has to be there in
    /// time.
    pub own: bool,
}

/// The order in which a worker visits all shards, given who is alive: its own first, then those
/// where it has more weight.
pub fn round(me: WorkerId, live: &[WorkerId], shards: u16) -> Vec<Turn> {
    let own = |shard| {
        live.iter()
            .all(|other| weight(*other, shard) <= weight(me, shard))
    };
    let mut turns: Vec<Turn> = (0..shards)
        .map(|shard| Turn {
            shard,
            own: own(shard),
        })
        .collect();
    turns.sort_by_key(|turn| Reverse((turn.own, weight(me, turn.shard))));
    turns
}

/// No two workers have the same at one shard.
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

    /// Workers that are the same in each run: v7 ids as they are made one after the other.
    fn fleet(size: u128) -> Vec<WorkerId> {
        let id = |n| {
            format!("0199aaaa-0000-7000-8000-{n:012x}")
                .parse()
                .expect("it is a UUID")
        };
        (1..=size).map(id).collect()
    }

    fn owned(me: WorkerId, live: &[WorkerId]) -> Vec<u16> {
        let mut owned: Vec<_> = round(me, live, SHARDS)
            .into_iter()
            .filter(|turn| turn.own)
            .map(|turn| turn.shard)
            .collect();
        owned.sort_unstable();
        owned
    }

    #[test]
    fn every_shard_has_one_owner_and_owners_have_about_as_many() {
        for size in [1, 2, 3, 8, 16] {
            let fleet = fleet(size);
            let shares: Vec<Vec<u16>> = fleet.iter().map(|worker| owned(*worker, &fleet)).collect();
            let mut all = shares.concat();
            all.sort_unstable();
            assert_eq!(all, (0..SHARDS).collect::<Vec<_>>(), "of {size} workers");
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
    fn only_the_shards_of_a_worker_that_goes_change_hands() {
        let fleet = fleet(8);
        for gone in &fleet {
            let left: Vec<_> = fleet
                .iter()
                .copied()
                .filter(|worker| worker != gone)
                .collect();
            let orphans = owned(*gone, &fleet);
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
    fn a_round_visits_every_shard_its_own_first() {
        let fleet = fleet(3);
        let round = round(fleet[0], &fleet, 16);
        let mut shards: Vec<_> = round.iter().map(|turn| turn.shard).collect();
        shards.sort_unstable();
        assert_eq!(shards, (0..16).collect::<Vec<_>>());
        assert!(round.is_sorted_by_key(|turn| !turn.own));
        assert_ne!(
            round[0].shard,
            super::round(fleet[1], &fleet, 16)[0].shard,
            "they keep off each other's shards"
        );
    }

    #[test]
    fn who_is_not_heard_of_yet_looks_after_what_would_be_its_own() {
        let fleet = fleet(3);
        assert_eq!(owned(fleet[0], &fleet[1..]), owned(fleet[0], &fleet));
        assert_eq!(owned(fleet[0], &[]).len(), usize::from(SHARDS));
    }
}
