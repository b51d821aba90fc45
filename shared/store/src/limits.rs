//! Limits that destinations have from the configuration. A bounce carries the limits of its
//! destination. This file covers limits that changed while no bounce came, and rules that were
//! removed.

use deadpool_redis::redis::pipe;
use domain::pace::limits_for;

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::over_shards::SumOverShards;
use crate::raw::Text;
use crate::scripts::LIMIT;

impl Store {
    /// Sets the limits of every destination of the agenda by the rules of this process, and removes
    /// limits that no rule has any more. Returns how many destinations changed.
    pub async fn limit(&self) -> Result<u64, StoreError> {
        let mut changed = SumOverShards::default();
        for shard in 0..self.shards() {
            changed.add(self.limit_on(shard).await);
        }
        changed.end()
    }

    async fn limit_on(&self, shard: u16) -> Result<u64, StoreError> {
        let mut changed = 0;
        let mut cursor = "0".to_owned();
        loop {
            let mut page = pipe();
            page.cmd("ZSCAN")
                .arg(self.keys.shard(shard).agenda())
                .arg(&cursor)
                .arg("COUNT")
                .arg(BATCH_MAX);
            let ((next, found),): ((String, Vec<(Text, f64)>),) =
                self.connections.pipeline(&page).await?;
            // A page of a small set is the whole set, even if it is larger than requested.
            let is_text =
                |(Text(name), _): &(Text, f64)| !name.contains(char::REPLACEMENT_CHARACTER);
            let found: Vec<(Text, f64)> = found.into_iter().filter(is_text).collect();
            for destinations in found.chunks(BATCH_MAX) {
                let mut call = self.call(&LIMIT, shard);
                for (Text(destination), _) in destinations {
                    let limits = limits_for(&self.rules, destination);
                    let limits = limits.map(|limits| limits.to_string());
                    call.arg("destination", destination)
                        .arg("limits", limits.unwrap_or_default());
                }
                let (_, of_batch): (i64, u64) = self.connections.script(&call).await?;
                changed += of_batch;
            }
            if next == "0" {
                break;
            }
            cursor = next;
        }
        Ok(changed)
    }
}
