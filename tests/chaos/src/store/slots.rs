//! Moving one shard's slot of a Cluster to another master while it is in use, key by key, as
//! operators do.

use anyhow::{Context, bail};

use super::{SHARDS, Store};

/// How many keys are moved at once.
const KEYS_AT_ONCE: &str = "20";

/// How many rounds of keys a slot may take: new ones come while it moves.
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
        let heir = *others
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
        let heir_id: String = self.ask(heir, &["CLUSTER", "MYID"]).await?;
        self.ask::<()>(heir, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &owner_id])
            .await?;
        self.ask::<()>(owner, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &heir_id])
            .await?;
        self.move_keys(owner, heir, &slot).await?;
        for port in [heir, owner] {
            self.ask::<()>(port, &["CLUSTER", "SETSLOT", &slot, "NODE", &heir_id])
                .await?;
        }
        Ok(())
    }

    async fn move_keys(&self, owner: u16, heir: u16, slot: &str) -> anyhow::Result<()> {
        let heir = heir.to_string();
        for _ in 0..ROUNDS_MAX {
            let keys: Vec<String> = self
                .ask(owner, &["CLUSTER", "GETKEYSINSLOT", slot, KEYS_AT_ONCE])
                .await?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &heir, "", "0", "2000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            self.ask::<()>(owner, &words).await?;
        }
        bail!("the slot still has keys after {ROUNDS_MAX} rounds")
    }

    /// Ends moves that a fault has cut short: slots that are half moved are finished.
    pub(crate) async fn finish_moves(&self) {
        let Some(port) = self.masters().await.first().copied() else {
            return;
        };
        let node = format!("127.0.0.1:{port}");
        // It repairs what it finds; what it says is of no use to us.
        let _ = self
            .servers()
            .cli_with(&[], &["--cluster", "fix", &node, "--cluster-yes"]);
    }
}
