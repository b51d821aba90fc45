//! The store's shape: its schema version and number of shards. Written once, checked at every
//! start.

use deadpool_redis::redis::pipe;
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::StoreError;
use crate::handle::Store;
use crate::scripts::SILENT;

/// The version of the key layout that this code reads and writes.
const SCHEMA: u32 = 6;

/// The version before, whose data this code reads too. It kept the jobs of all accounts in one due
/// set per destination; `repair` moves those that belong to others.
const SCHEMA_BEFORE: u32 = 5;

impl Store {
    /// Writes the shape if there is none yet, and compares it with the configuration. Returns the
    /// key of the hashes that stand for addresses in logs and traces: the first process of the
    /// fleet creates it, and all others use the same.
    pub(crate) async fn check_meta(&self) -> Result<String, StoreError> {
        let meta = self.keys.meta();
        let mut random = [0; 16];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| StoreError::Refused("this machine has no random numbers".to_owned()))?;
        let own_key = format!("{:032x}", u128::from_be_bytes(random));
        let (schema, shards, address_key): (u32, u16, String) = self
            .connections
            .pipeline(
                pipe()
                    .hset_nx(&meta, "schema", SCHEMA)
                    .ignore()
                    .hset_nx(&meta, "shards", self.shards())
                    .ignore()
                    .hset_nx(&meta, "address_key", own_key)
                    .ignore()
                    .hget(&meta, "schema")
                    .hget(&meta, "shards")
                    .hget(&meta, "address_key"),
            )
            .await?;
        if schema == SCHEMA_BEFORE {
            // From here on, processes of the version before do not start.
            let set_schema = &mut pipe();
            set_schema.hset(&meta, "schema", SCHEMA).ignore();
            self.connections.pipeline::<()>(set_schema).await?;
        } else if schema != SCHEMA {
            return Err(StoreError::Mismatch(format!(
                "{meta} has schema {schema}, this version of redeliver works with {SCHEMA}: \
                 run the version that wrote it"
            )));
        }
        if shards != self.shards() {
            return Err(StoreError::Mismatch(format!(
                "{meta} has {shards} shards, the configuration says {}: \
                 set redis.shards = {shards}, or another redis.prefix to start afresh",
                self.shards()
            )));
        }
        Ok(address_key)
    }

    /// Verifies that Redis takes in new jobs: that the memory of its first server is not full, and
    /// that the server can be written to. Changes nothing.
    ///
    /// # Errors
    /// If it does not. The text is that of the server.
    pub async fn check_intake(&self) -> Result<(), StoreError> {
        // Without destinations this script does nothing, but the server refuses it when it refuses
        // new jobs.
        let call = self.call(&SILENT, 0);
        let _: Vec<i64> = self.connections.script(&call).await?;
        Ok(())
    }

    /// Verifies that Redis answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        // In a Cluster any node could answer PING. This command goes to the node that holds a part
        // of the store.
        let (_,): (i64,) = self
            .connections
            .pipeline(pipe().exists(self.keys.meta()))
            .await?;
        Ok(())
    }
}
