//! Slots of a Cluster may move from one master to another while mail is sent. Calls that fail
//! meanwhile succeed afterwards. No script ends halfway, no settlement is lost, and no message is
//! sent twice.

// Slots move key by key here, with SETSLOT and MIGRATE. The atomic migration of Valkey 9 is not
// tested: no distribution that the tests run on has it yet.

use domain::destination::Destination;
use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::Http;
use harness::servers::{Cluster, programs};
use harness::wait::eventually;
use harness::world::{HOUR, SHARDS, World};
use store::error::StoreError;
use store::keys::Keys;
use store::lease::ReleaseReason;

use super::world_on;

const JOBS: usize = 40;
const JO: &str = "jo@example.com";
const SAM: &str = "sam@example.com";

/// The slot of one shard, and the masters between which it moves.
struct Moving<'c> {
    cluster: &'c Cluster,
    slot: String,
    from: u16,
    to: u16,
}

impl<'c> Moving<'c> {
    /// Begins to move the slot of a shard to another master.
    fn begin(cluster: &'c Cluster, world: &World, shard: u16) -> Self {
        let keys = Keys::new(&world.prefix, SHARDS);
        let ask = |port: u16, words: &[&str]| cluster.servers.cli(port, words).unwrap();
        let slot = ask(
            cluster.ports[0],
            &["CLUSTER", "KEYSLOT", keys.shard(shard).jobs()],
        );
        let masters: Vec<u16> = cluster
            .ports
            .iter()
            .copied()
            .filter(|port| cluster.is_master(*port))
            .collect();
        let has =
            |port: &u16| !ask(*port, &["EXISTS", keys.shard(shard).jobs()]).starts_with("MOVED");
        let from = *masters
            .iter()
            .find(|port| has(port))
            .expect("a master has the slot");
        let to = *masters
            .iter()
            .find(|port| **port != from)
            .expect("the cluster has three masters");
        let moving = Self {
            cluster,
            slot,
            from,
            to,
        };
        moving.set_slot(to, "IMPORTING", from);
        moving.set_slot(from, "MIGRATING", to);
        moving
    }

    fn set_slot(&self, port: u16, state: &str, other: u16) {
        let node = self
            .cluster
            .servers
            .cli(other, &["CLUSTER", "MYID"])
            .unwrap();
        let answer = self
            .cluster
            .servers
            .cli(port, &["CLUSTER", "SETSLOT", &self.slot, state, &node])
            .unwrap();
        assert_eq!(answer, "OK");
    }

    /// Moves these keys.
    fn move_keys(&self, keys: &[&str]) {
        let to = self.to.to_string();
        let begin = ["MIGRATE", "127.0.0.1", &to, "", "0", "10000", "KEYS"];
        let answer = self
            .cluster
            .servers
            .cli(self.from, &[&begin, keys].concat())
            .unwrap();
        assert_eq!(answer, "OK", "{keys:?}");
    }

    /// The keys that have not moved yet.
    fn keys_left(&self) -> Vec<String> {
        let keys = self
            .cluster
            .servers
            .cli(self.from, &["CLUSTER", "GETKEYSINSLOT", &self.slot, "1000"])
            .unwrap();
        keys.lines()
            .filter(|key| !key.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Moves the remaining keys, and informs all masters.
    fn end(self) {
        for key in self.keys_left() {
            self.move_keys(&[&key]);
        }
        let masters = self
            .cluster
            .ports
            .iter()
            .filter(|port| self.cluster.is_master(**port));
        // The new master comes first, so that the slot always has a master.
        let mut masters: Vec<u16> = masters.copied().collect();
        masters.sort_by_key(|port| *port != self.to);
        for port in masters {
            self.set_slot(port, "NODE", self.to);
        }
    }
}

async fn cluster_and_world(program: &str) -> (Cluster, World) {
    let cluster = Cluster::start(program, &[]).await;
    let nodes = cluster.ports[..2]
        .iter()
        .map(|port| format!("\"redis://127.0.0.1:{port}\""));
    let world = world_on(&format!(
        "cluster = [{}]\n",
        nodes.collect::<Vec<_>>().join(", ")
    ))
    .await;
    (cluster, world)
}

#[tokio::test]
async fn no_script_ends_halfway_because_one_of_its_keys_has_moved() {
    for program in programs() {
        let (cluster, world) = cluster_and_world(&program).await;
        let shard = Destination::named("example.com").shard(SHARDS);
        let keys = Keys::new(&world.prefix, SHARDS);
        let keys = keys.shard(shard);
        // Every key that a shard can have exists, as after other failures.
        let ask = |words: &[&str]| {
            cluster
                .servers
                .cli_with(&["-c", "-p", &cluster.ports[0].to_string()], words)
                .unwrap()
        };
        for (name, words) in [
            ("meanwhile", ["HSET", "default/gone@example.com", "1 0"]),
            ("lapses", ["HSET", "default/gone@example.com", "1"]),
            ("quarantine", ["ZADD", "1", "default/gone@example.com"]),
            (
                "standing",
                [
                    "HSET",
                    "default/gone@example.com",
                    r#"{"s":"active","t":1,"r":"x","n":0}"#,
                ],
            ),
            ("unavailable", ["ZADD", "9e15", "default/gone@example.com"]),
            ("inactive", ["ZADD", "1", "default/gone@example.com"]),
        ] {
            ask(&[
                words[0],
                &format!("{}{name}", keys.prefix),
                words[1],
                words[2],
            ]);
        }
        for address in [JO, SAM] {
            world.post_bounce(bounce(address, "m1", FULL)).await;
        }
        world.clock.advance(30 * HOUR);
        let lease = world
            .claim_near("example.com", 1)
            .await
            .jobs
            .remove(0)
            .lease;
        let moving = Moving::begin(&cluster, &world, shard);
        // A release takes the job out of its lease, and then reads this key, which has moved.
        moving.move_keys(&[&keys.pace("example.com")]);
        let release = async || {
            world
                .store
                .release(std::slice::from_ref(&lease), ReleaseReason::Untried)
                .await
        };
        let released = release().await;
        assert!(
            matches!(&released, Err(StoreError::Unavailable(_))),
            "{released:?}"
        );
        moving.end();
        eventually("the release", async || {
            let released = release().await;
            released
                .ok()
                .map(|count| assert_eq!(count, 1, "the release had not ended halfway"))
        })
        .await;
        assert!(world.job(lease.recipient()).await.due.is_some());
        assert_eq!(world.pace("example.com").await.in_flight, 0);
        for of_shard in 0..SHARDS {
            assert_eq!(
                world.store.repair(of_shard).await.unwrap().recovered.len(),
                0,
                "no job is lost"
            );
        }
    }
}

#[tokio::test]
async fn no_message_is_lost_or_sent_twice_while_slots_move() {
    for program in programs() {
        let (cluster, world) = cluster_and_world(&program).await;
        let http = Http::serve(&world).await;
        let post = async |n: usize| {
            let bounce = bounce(&format!("user{n}@host{}.example", n % 12), "m1", FULL);
            eventually("an answer", async || {
                let status = http.post_json(&bounce).await.status();
                assert!(status == 202 || status == 503, "bounce {n}: {status}");
                (status == 202).then_some(())
            })
            .await;
        };
        for n in 0..JOBS / 2 {
            post(n).await;
        }
        world.clock.advance(30 * HOUR);
        world.mail.hold();
        let worker = world.start_worker(|settings| settings.concurrency = 8);
        world.mail.wait_for_attempts(8).await;
        let moving: Vec<Moving<'_>> = (0..SHARDS)
            .map(|shard| Moving::begin(&cluster, &world, shard))
            .collect();
        // Half of the keys of each slot have moved when the attempts in flight end.
        for slot in &moving {
            let keys_left = slot.keys_left();
            for key in &keys_left[..keys_left.len() / 2] {
                slot.move_keys(&[key]);
            }
        }
        world.mail.release_held();
        eventually("attempts to end", async || {
            (world.mail.in_flight() == 0).then_some(())
        })
        .await;
        moving.into_iter().for_each(Moving::end);
        let delivered = async |count| {
            (world.events_of(EventKind::MessageDelivered).await.len() == count).then_some(())
        };
        eventually("the first half", || delivered(JOBS / 2)).await;
        for n in JOBS / 2..JOBS {
            post(n).await;
        }
        world.clock.advance(30 * HOUR);
        eventually("all messages", || delivered(JOBS)).await;
        worker.stopped().await;
        assert_eq!(world.mail.tried().len(), JOBS, "each message was sent once");
    }
}
