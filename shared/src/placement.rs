//! Where an address belongs: its destination (whose pace and trouble it shares) and that destination's shard.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::address::Address;

/// What pace belongs to: the mail system that the attempts go to, here named by the recipient's domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Destination(String);

impl Destination {
    /// The destination of a recipient.
    pub fn of(recipient: &Address) -> Self {
        Self(recipient.domain().to_owned())
    }

    /// The destination of this name, as a record in Redis has it.
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard that holds all keys of this destination. It depends on nothing but the name and the number of shards,
    /// so every process and every version agrees on it.
    pub fn shard(&self, shards: u16) -> u16 {
        let shard = xxh3_64(self.0.as_bytes()) % u64::from(shards.max(1));
        u16::try_from(shard).expect("a remainder is smaller than its divisor, which is a u16")
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_the_same_for_ever() {
        // These are what stored data relies on: a change here strands every job in Redis.
        for (name, shard) in [("example.com", 3), ("example.net", 4), ("xn--bcher-kva.example", 6)] {
            assert_eq!(Destination::named(name).shard(16), shard, "{name}");
        }
    }
}
