//! Slots of a Cluster move from one master to another while mail is under way, key by key (SETSLOT
//! and MIGRATE). What cannot be done meanwhile is done afterwards. No script ends halfway, no
//! settlement is lost, nothing is sent twice.
//!
//! The atomic way of Valkey 9 is not tried: no distribution that the tests run on has it yet.

use domain::destination::Destination;
use domain::event::EventKind;
use harness::bounce::{FULL, bounce};
use harness::http::Http;
use harness::servers::{Cluster, programs};
use harness::wait::eventually;
use harness::world::{HOUR, SHARDS, World};
use store::error::StoreError;
use store::keys::Keys;
use store::lease::GivenBack;

use super::world_on;

const JOBS: usize = 40;
const JO: &str = "jo@example.com";
const SAM: &str = "sam@example.com";

/// The slot of one shard, and the masters that it moves between.
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
            .expect("a master has it");
        let to = *masters
            .iter()
            .find(|port| **port != from)
            .expect("there are three");
        let moving = Self {
            cluster,
            slot,
            from,
            to,
        };
        moving.tell(to, "IMPORTING", from);
        moving.tell(from, "MIGRATING", to);
        moving
    }

    fn tell(&self, port: u16, state: &str, other: u16) {
        let node = self
            .cluster
            .servers
            .cli(other, &["CLUSTER", "MYID"])
            .unwrap();
        let told = self
            .cluster
            .servers
            .cli(port, &["CLUSTER", "SETSLOT", &self.slot, state, &node])
            .unwrap();
        assert_eq!(told, "OK");
    }

    /// Moves these keys.
    fn carry(&self, keys: &[&str]) {
        let to = self.to.to_string();
        let begin = ["MIGRATE", "127.0.0.1", &to, "", "0", "10000", "KEYS"];
        let told = self
            .cluster
            .servers
            .cli(self.from, &[&begin, keys].concat())
            .unwrap();
        assert_eq!(told, "OK", "{keys:?}");
    }

    /// The keys that have not moved yet.
    fn left(&self) -> Vec<String> {
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

    /// Moves what is left, and tells all masters.
    fn end(self) {
        for key in self.left() {
            self.carry(&[&key]);
        }
        let masters = self
            .cluster
            .ports
            .iter()
            .filter(|port| self.cluster.is_master(**port));
        // The new master first, so that at no time none has it.
        let mut masters: Vec<u16> = masters.copied().collect();
        masters.sort_by_key(|port| *port != self.to);
        for port in masters {
            self.tell(port, "NODE", self.to);
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
        let there = Destination::named("example.com");
        let shard = there.shard(SHARDS);
        let keys = Keys::new(&world.prefix, SHARDS);
        let keys = keys.shard(shard);
        // Each key that a shard always has is there, as it may be on a bad day.
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
            world.take_in(bounce(address, "m1", FULL)).await;
        }
        world.clock.advance(30 * HOUR);
        let lease = world
            .claim_near("example.com", 1)
            .await
            .jobs
            .remove(0)
            .lease;
        let moving = Moving::begin(&cluster, &world, shard);
        // A release takes the job out of its lease, and then looks for this key: it has moved.
        moving.carry(&[&keys.pace("example.com")]);
        let release = async || {
            world
                .store
                .release(std::slice::from_ref(&lease), GivenBack::Untried)
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
                .map(|count| assert_eq!(count, 1, "it had ended halfway"))
        })
        .await;
        assert!(world.job(lease.recipient()).await.due.is_some());
        assert_eq!(world.pace("example.com").await.in_flight, 0);
        for of_shard in 0..SHARDS {
            assert_eq!(
                world.store.repair(of_shard).await.unwrap().recovered.len(),
                0,
                "nothing is lost"
            );
        }
    }
}

#[tokio::test]
async fn while_slots_move_nothing_is_lost_and_nothing_is_sent_twice() {
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
        world.mail.has_been_tried(8).await;
        let moving: Vec<Moving<'_>> = (0..SHARDS)
            .map(|shard| Moving::begin(&cluster, &world, shard))
            .collect();
        // Half of the keys of each have moved when the attempts under way end.
        for slot in &moving {
            let left = slot.left();
            for key in &left[..left.len() / 2] {
                slot.carry(&[key]);
            }
        }
        world.mail.let_go();
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
        eventually("all of them", || delivered(JOBS)).await;
        worker.stopped().await;
        assert_eq!(world.mail.tried().len(), JOBS, "each was sent once");
    }
}
