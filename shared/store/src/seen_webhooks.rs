//! The requests that mail services have sent already, by their events' ids, so that a replayed
//! request changes nothing. Ids are kept by week, counted from the Unix epoch: an id is known for
//! one to two weeks. A request's id can be claimed while the request is processed.

use std::collections::HashMap;

use deadpool_redis::redis::pipe;
use futures::future::try_join_all;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::scripts::RELEASE_REQUEST;

const WEEK_MS: i64 = 7 * 86_400_000;

/// For how long a week's ids are kept, in seconds: that week and the next, and some more.
const KEPT_S: i64 = 15 * 86_400;

/// For how long an id is claimed at most, in seconds. This is longer than any request takes to
/// process. It is shorter than services wait before they repeat a request that got no answer
/// because its scheduler crashed.
const CLAIMED_S: u64 = 60;

/// The claim on an id. Only its owner can release it.
#[derive(Debug)]
#[must_use = "no other process can claim the id until this is given to release_request"]
pub struct RequestClaim {
    digest: u128,
    owner: Uuid,
}

impl Store {
    /// Claims an id for the process that handles the request; none if another process has claimed
    /// it. The id is free again after [`Store::release_request`], and by itself after a minute.
    pub async fn claim_request(&self, id: &str) -> Result<Option<RequestClaim>, StoreError> {
        let claim = RequestClaim {
            digest: xxh3_128(id.as_bytes()),
            owner: Uuid::now_v7(),
        };
        let key = self
            .keys
            .shard(self.shard_of(claim.digest))
            .request_claim(claim.digest);
        let mut commands = pipe();
        commands
            .cmd("SET")
            .arg(key)
            .arg(claim.owner.to_string())
            .arg("NX")
            .arg("EX")
            .arg(CLAIMED_S);
        let (claimed,): (Option<String>,) = self.connections.pipeline(&commands).await?;
        Ok(claimed.map(|_| claim))
    }

    /// Releases the claim. Returns whether it still belonged to its owner: after a minute another
    /// process may have claimed the id. May be repeated.
    pub async fn release_request(&self, claim: &RequestClaim) -> Result<bool, StoreError> {
        let RequestClaim { digest, owner } = claim;
        let mut call = self.call(&RELEASE_REQUEST, self.shard_of(*digest));
        call.arg("digest", format!("{digest:032x}"))
            .arg("owner", owner.to_string());
        let (_, was_its_own): (i64, u8) = self.connections.script(&call).await?;
        Ok(was_its_own == 1)
    }

    /// Returns the shard that remembers an id.
    fn shard_of(&self, digest: u128) -> u16 {
        (digest % u128::from(self.shards())) as u16
    }

    /// Returns which of these ids were seen already, in the order given.
    pub async fn seen(&self, ids: &[String]) -> Result<Vec<bool>, StoreError> {
        let week = self.clock().now().ms().div_euclid(WEEK_MS);
        let asked = self
            .of_shards(ids)
            .into_iter()
            .map(async |(shard, places, digests)| {
                let keys = self.keys.shard(shard);
                let mut commands = pipe();
                for week in [week, week - 1] {
                    commands.cmd("SMISMEMBER").arg(keys.seen(week));
                    digests.iter().for_each(|digest| {
                        commands.arg(digest.as_slice());
                    });
                }
                let (this, last): (Vec<bool>, Vec<bool>) =
                    self.connections.pipeline(&commands).await?;
                let known = this.into_iter().zip(last).map(|(this, last)| this || last);
                Ok::<_, StoreError>(places.into_iter().zip(known).collect::<Vec<_>>())
            });
        let mut seen = vec![false; ids.len()];
        for (place, known) in try_join_all(asked).await?.into_iter().flatten() {
            seen[place] = known;
        }
        Ok(seen)
    }

    /// Records that these ids were seen. May be repeated.
    pub async fn mark_seen(&self, ids: &[String]) -> Result<(), StoreError> {
        let week = self.clock().now().ms().div_euclid(WEEK_MS);
        let recorded = self
            .of_shards(ids)
            .into_iter()
            .map(async |(shard, _, digests)| {
                let key = self.keys.shard(shard).seen(week);
                let mut commands = pipe();
                commands
                    .sadd(
                        &key,
                        digests.iter().map(<[u8; 16]>::as_slice).collect::<Vec<_>>(),
                    )
                    .expire(&key, KEPT_S);
                let _: (i64, i64) = self.connections.pipeline(&commands).await?;
                Ok::<_, StoreError>(())
            });
        try_join_all(recorded).await?;
        Ok(())
    }

    /// Spreads ids over the shards, in batches. Returns their places in `ids`, and their hashes.
    fn of_shards(&self, ids: &[String]) -> Vec<(u16, Vec<usize>, Vec<[u8; 16]>)> {
        let mut by_shard: HashMap<u16, Vec<(usize, [u8; 16])>> = HashMap::new();
        for (place, id) in ids.iter().enumerate() {
            let digest = xxh3_128(id.as_bytes());
            by_shard
                .entry(self.shard_of(digest))
                .or_default()
                .push((place, digest.to_be_bytes()));
        }
        let batches = |(shard, ids): (u16, Vec<(usize, [u8; 16])>)| {
            let batch = |ids: &[(usize, [u8; 16])]| {
                let (places, digests) = ids.iter().copied().unzip();
                (shard, places, digests)
            };
            ids.chunks(BATCH_MAX).map(batch).collect::<Vec<_>>()
        };
        by_shard.into_iter().flat_map(batches).collect()
    }
}
