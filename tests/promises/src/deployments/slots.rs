//! Checks of a Cluster: all scripts have run, and all keys of a shard are in one slot.

use std::collections::{BTreeMap, BTreeSet};

use harness::servers::Cluster;
use harness::world::SHARDS;
use store::scripts;

/// Checks that every script has run here. A Cluster refuses a script that uses keys of two slots.
pub(super) fn every_script_has_run(cluster: &Cluster) {
    for (verb, hash) in scripts::hashes() {
        let is_known = |port: &u16| {
            cluster
                .servers
                .cli(*port, &["SCRIPT", "EXISTS", hash])
                .is_some_and(|is| is == "1")
        };
        assert!(cluster.ports.iter().any(is_known), "{verb} was not called");
    }
}

/// Checks that all keys of a shard are in one slot, and that every kind of key is among them.
pub(super) fn each_shard_has_one_slot(cluster: &Cluster, prefix: &str) {
    let (mut slots, mut kinds) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeSet::new());
    for port in cluster
        .ports
        .iter()
        .filter(|port| cluster.is_master(**port))
    {
        for key in cluster
            .servers
            .cli(*port, &["KEYS", &format!("{prefix}:*")])
            .unwrap()
            .lines()
        {
            let Some((tag, kind)) = key
                .split_once('{')
                .and_then(|(_, rest)| rest.split_once("}:"))
            else {
                continue;
            };
            let slot = cluster
                .servers
                .cli(*port, &["CLUSTER", "KEYSLOT", key])
                .unwrap();
            slots.entry(tag.to_owned()).or_default().insert(slot);
            kinds.insert(kind.split(':').next().unwrap().to_owned());
        }
    }
    assert_eq!(slots.len(), usize::from(SHARDS), "{slots:?}");
    assert!(
        slots.values().all(|of_shard| of_shard.len() == 1),
        "{slots:?}"
    );
    let spread: BTreeSet<_> = slots.values().collect();
    assert_eq!(
        spread.len(),
        slots.len(),
        "the shards are spread over the slots"
    );
    for kind in ["agenda", "barrier", "due", "jobs", "journal", "standing"] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
}
