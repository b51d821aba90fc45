//! Moves the slot of one shard of a Cluster to another master while it is in use, key by key, as
//! operators do.

use anyhow::{Context, bail};

use super::{SHARDS, Store};

/// How many keys are moved at once.
const KEYS_AT_ONCE: &str = "20";

/// After how many rounds of keys the move of a slot fails. New keys are created while it moves.
const ROUNDS_MAX: usize = 2_000;

impl Store {
    /// Moves the slot of a shard to another master.
    pub(crate) async fn move_slot(&self, target: usize) -> anyhow::Result<()> {
        let masters = self.masters().await;
        let shard = target % SHARDS;
        let owner = self
            .shards()
            .await
            .context("not every shard has a master")?[shard];
        let others: Vec<u16> = masters.into_iter().filter(|port| *port != owner).collect();
        let new_owner = *others
            .get(target / SHARDS % others.len().max(1))
            .context("there is no other master")?;
        let slot: u64 = self
            .ask(
                owner,
                &["CLUSTER", "KEYSLOT", &format!("rd:{{{shard}}}:jobs")],
            )
            .await?;
        let slot = slot.to_string();
        let owner_id: String = self.ask(owner, &["CLUSTER", "MYID"]).await?;
        let new_owner_id: String = self.ask(new_owner, &["CLUSTER", "MYID"]).await?;
        self.ask::<()>(
            new_owner,
            &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &owner_id],
        )
        .await?;
        self.ask::<()>(
            owner,
            &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &new_owner_id],
        )
        .await?;
        self.move_keys(owner, new_owner, &slot).await?;
        for port in [new_owner, owner] {
            self.ask::<()>(port, &["CLUSTER", "SETSLOT", &slot, "NODE", &new_owner_id])
                .await?;
        }
        Ok(())
    }

    async fn move_keys(&self, owner: u16, new_owner: u16, slot: &str) -> anyhow::Result<()> {
        let new_owner = new_owner.to_string();
        for _ in 0..ROUNDS_MAX {
            let keys: Vec<String> = self
                .ask(owner, &["CLUSTER", "GETKEYSINSLOT", slot, KEYS_AT_ONCE])
                .await?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &new_owner, "", "0", "2000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            self.ask::<()>(owner, &words).await?;
        }
        bail!("the slot still has keys after {ROUNDS_MAX} rounds")
    }

    /// Finishes moves that a fault has interrupted.
    pub(crate) async fn finish_moves(&self) {
        let Some(port) = self.masters().await.first().copied() else {
            return;
        };
        let node = format!("127.0.0.1:{port}");
        // The command repairs what it finds. Its output is not needed.
        let _ = self
            .servers()
            .cli_with(&[], &["--cluster", "fix", &node, "--cluster-yes"]);
    }
}
