//! The names of all keys, made in one place. All keys of a shard carry its number as hash tag, so they share a slot.

/// Makes keys.
#[derive(Debug)]
pub struct Keys {
    prefix: String,
    shards: Vec<Shard>,
}

/// The keys of one shard.
#[derive(Debug)]
pub struct Shard {
    /// What every key of the shard starts with: `rd:{n}:`.
    pub prefix: String,
    /// What every script gets, in the order that `prelude.lua` names them.
    pub all: [String; 8],
}

impl Shard {
    fn new(prefix: &str, n: u16) -> Self {
        let prefix = format!("{prefix}:{{{n}}}:");
        let names = ["agenda", "jobs", "leases", "standing", "unavailable", "inactive", "delivered", "journal"];
        let all = names.map(|name| format!("{prefix}{name}"));
        Self { prefix, all }
    }

    /// job id → record.
    pub fn jobs(&self) -> &str {
        &self.all[1]
    }

    /// job id → the lease's deadline in ms.
    pub fn leases(&self) -> &str {
        &self.all[2]
    }

    /// address → JSON.
    pub fn standing(&self) -> &str {
        &self.all[3]
    }

    /// address → when we last delivered to it, in ms.
    pub fn delivered(&self) -> &str {
        &self.all[6]
    }

    /// The stream of events.
    pub fn journal(&self) -> &str {
        &self.all[7]
    }

    /// job id → due in ms, for one destination.
    pub fn due(&self, destination: &str) -> String {
        format!("{}due:{destination}", self.prefix)
    }
}

impl Keys {
    /// The keys of a store with `shards` shards under `prefix`.
    pub fn new(prefix: &str, shards: u16) -> Self {
        Self { prefix: prefix.to_owned(), shards: (0..shards.max(1)).map(|n| Shard::new(prefix, n)).collect() }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("it was made from a u16")
    }

    /// The keys of one shard.
    ///
    /// # Panics
    /// Where there is no such shard.
    pub fn shard(&self, n: u16) -> &Shard {
        &self.shards[usize::from(n)]
    }

    /// recipient domain → destination, for the domains of one shard. In the slot of that shard's other keys.
    pub fn place(&self, n: u16) -> String {
        format!("{}:place:{{{n}}}", self.prefix)
    }

    /// The store's shape.
    pub fn meta(&self) -> String {
        format!("{}:meta", self.prefix)
    }

    /// The claim on one occurrence of one upkeep task.
    pub fn upkeep(&self, task: &str, occurrence_ms: i64) -> String {
        format!("{}:upkeep:{task}:{occurrence_ms}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_the_documents_say() {
        let keys = Keys::new("rd", 4);
        let shard = keys.shard(3);
        assert_eq!(shard.jobs(), "rd:{3}:jobs");
        assert_eq!(shard.leases(), "rd:{3}:leases");
        assert_eq!(shard.standing(), "rd:{3}:standing");
        assert_eq!(shard.delivered(), "rd:{3}:delivered");
        assert_eq!(shard.journal(), "rd:{3}:journal");
        assert_eq!(shard.due("example.com"), "rd:{3}:due:example.com");
        assert_eq!(keys.place(3), "rd:place:{3}");
        assert_eq!(keys.meta(), "rd:meta");
        assert_eq!(keys.upkeep("reinstate", 60_000), "rd:upkeep:reinstate:60000");
    }

    #[test]
    fn all_keys_of_a_shard_have_its_hash_tag() {
        let keys = Keys::new("rd", 16);
        for n in 0..16 {
            assert!(keys.shard(n).all.iter().all(|key| key.starts_with(&format!("rd:{{{n}}}:"))));
        }
    }
}
