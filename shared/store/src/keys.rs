//! The names of the keys that Rust uses, made in one place. All keys of a shard carry its number as
//! hash tag, so they share a slot.

/// The keys that a shard has once, in the order in which `prelude.lua` names them.
const SHARED: [&str; 13] = [
    "agenda",
    "jobs",
    "leases",
    "meanwhile",
    "lapses",
    "quarantine",
    "standing",
    "unavailable",
    "inactive",
    "journal",
    "serial",
    "leased",
    "whole",
];

/// Builds the names of keys.
#[derive(Debug)]
pub struct Keys {
    prefix: String,
    shards: Vec<Shard>,
}

/// The keys of one shard.
#[derive(Debug)]
pub struct Shard {
    /// The start of every key of the shard: `rd:{n}:`.
    pub prefix: String,
    /// The keys that every script gets, in the order in which `prelude.lua` names them.
    pub all: [String; 13],
}

impl Shard {
    fn new(prefix: &str, n: u16) -> Self {
        let prefix = format!("{prefix}:{{{n}}}:");
        let all = SHARED.map(|name| format!("{prefix}{name}"));
        Self { prefix, all }
    }

    /// destination → the instant in ms from which it is worth visiting.
    pub fn agenda(&self) -> &str {
        &self.all[0]
    }

    /// job id → record.
    pub fn jobs(&self) -> &str {
        &self.all[1]
    }

    /// token → the lease's deadline in ms.
    pub fn leases(&self) -> &str {
        &self.all[2]
    }

    /// job id → what happened to it while it was leased.
    pub fn meanwhile(&self) -> &str {
        &self.all[3]
    }

    /// job id → how many times in a row its lease ran out.
    pub fn lapses(&self) -> &str {
        &self.all[4]
    }

    /// job id → since when it is in quarantine, in ms.
    pub fn quarantine(&self) -> &str {
        &self.all[5]
    }

    /// address → its standing as JSON.
    pub fn standing(&self) -> &str {
        &self.all[6]
    }

    /// token → the jobs of the lease: see `lease.lua`.
    pub fn leased(&self) -> &str {
        &self.all[11]
    }

    /// address → since when it is suppressed, in ms.
    pub fn suppressed(&self) -> String {
        format!("{}suppressed", self.prefix)
    }

    /// The stream of events.
    pub fn journal(&self) -> &str {
        &self.all[9]
    }

    /// The key that is written to when a write must be waited for. It holds no data.
    pub fn barrier(&self) -> String {
        format!("{}barrier", self.prefix)
    }

    /// job id → due in ms, for one destination.
    pub fn due(&self, destination: &str) -> String {
        format!("{}due:{destination}", self.prefix)
    }

    /// destination → since when it is held or its breaker is not closed, in ms.
    pub fn trouble(&self) -> String {
        format!("{}trouble", self.prefix)
    }

    /// One destination's pace.
    pub fn pace(&self, destination: &str) -> String {
        format!("{}pace:{destination}", self.prefix)
    }

    /// address → ms of its last delivery in one week, counted from the Unix epoch.
    pub fn delivered(&self, week: i64) -> String {
        format!("{}delivered:{week}", self.prefix)
    }

    /// The ids of the requests that mail services sent in one week, counted from the Unix epoch.
    pub fn seen(&self, week: i64) -> String {
        format!("{}heard:{week}", self.prefix)
    }

    /// The claim on a mail service's request while it is being processed, by the hash of the
    /// request's id.
    pub fn request_claim(&self, digest: u128) -> String {
        format!("{}hearing:{digest:032x}", self.prefix)
    }

    /// The claim on one step of processing one incident: see `losses`.
    pub fn incident(&self, step: &str, incident: &str) -> String {
        format!("{}incident:{step}:{incident}", self.prefix)
    }

    /// The counts of what was tried at one destination on one day, counted from the Unix epoch.
    pub fn tally(&self, day: i64, destination: &str) -> String {
        format!("{}tally:{day}:{destination}", self.prefix)
    }
}

impl Keys {
    /// Creates the keys of a store with `shards` shards under `prefix`.
    pub fn new(prefix: &str, shards: u16) -> Self {
        Self {
            prefix: prefix.to_owned(),
            shards: (0..shards.max(1)).map(|n| Shard::new(prefix, n)).collect(),
        }
    }

    /// Returns how many shards there are.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("it was made from a u16")
    }

    /// Returns the keys of one shard.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard(&self, n: u16) -> &Shard {
        &self.shards[usize::from(n)]
    }

    /// The stream that mail systems may add bounces to.
    pub fn intake(&self) -> String {
        format!("{}:intake", self.prefix)
    }

    /// The stream of entries that were added to the intake but are no bounces.
    pub fn intake_aside(&self) -> String {
        format!("{}:intake:aside", self.prefix)
    }

    /// recipient domain → destination, for the domains of one shard. It is in the slot of that
    /// shard's other keys.
    pub fn place(&self, n: u16) -> String {
        format!("{}:place:{{{n}}}", self.prefix)
    }

    /// The store's schema version and number of shards.
    pub fn meta(&self) -> String {
        format!("{}:meta", self.prefix)
    }

    /// The figures of the fleet, as JSON: see `fleet.rs`.
    pub fn fleet(&self) -> String {
        format!("{}:fleet", self.prefix)
    }

    /// The part of a process in the fleet, its policy and its id → when it was last seen, in ms.
    pub fn policies(&self) -> String {
        format!("{}:policies", self.prefix)
    }

    /// worker id → its last heartbeat, in ms.
    pub fn workers(&self) -> String {
        format!("{}:workers", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_documented_names() {
        let keys = Keys::new("rd", 4);
        let shard = keys.shard(3);
        assert_eq!(shard.jobs(), "rd:{3}:jobs");
        assert_eq!(shard.leases(), "rd:{3}:leases");
        assert_eq!(shard.standing(), "rd:{3}:standing");
        assert_eq!(shard.delivered(2951), "rd:{3}:delivered:2951");
        assert_eq!(shard.seen(2951), "rd:{3}:heard:2951");
        assert_eq!(
            shard.request_claim(0xff),
            format!("rd:{{3}}:hearing:{:032x}", 0xff)
        );
        assert_eq!(shard.journal(), "rd:{3}:journal");
        assert_eq!(shard.agenda(), "rd:{3}:agenda");
        assert_eq!(shard.meanwhile(), "rd:{3}:meanwhile");
        assert_eq!(shard.lapses(), "rd:{3}:lapses");
        assert_eq!(shard.quarantine(), "rd:{3}:quarantine");
        assert_eq!(shard.suppressed(), "rd:{3}:suppressed");
        assert_eq!(shard.trouble(), "rd:{3}:trouble");
        assert_eq!(shard.pace("example.com"), "rd:{3}:pace:example.com");
        assert_eq!(
            shard.tally(20_777, "example.com"),
            "rd:{3}:tally:20777:example.com"
        );
        assert_eq!(shard.due("example.com"), "rd:{3}:due:example.com");
        assert_eq!(keys.place(3), "rd:place:{3}");
        assert_eq!(keys.meta(), "rd:meta");
        assert_eq!(keys.workers(), "rd:workers");
        assert_eq!(keys.fleet(), "rd:fleet");
    }

    #[test]
    fn all_keys_of_a_shard_have_its_hash_tag() {
        let keys = Keys::new("rd", 16);
        for n in 0..16 {
            assert!(
                keys.shard(n)
                    .all
                    .iter()
                    .all(|key| key.starts_with(&format!("rd:{{{n}}}:")))
            );
        }
    }
}
