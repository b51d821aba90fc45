//! One Cluster per test process, for all tests that need no more than that there is one: they stop
//! no node, and each has a key prefix of its own.

use std::sync::LazyLock;
use std::thread;

use store::connection::pool::Connections;
use store::connection::servers::Servers;
use tokio::runtime;

use crate::redis;
use crate::servers::{Cluster, programs};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(start);

/// Connections to this process's Cluster, which is started on the first call.
///
/// # Panics
/// Where no server is installed; the text says how to install it.
pub fn connections() -> Connections {
    let nodes = CLUSTER
        .ports
        .iter()
        .take(2)
        .map(|port| Servers::single(&format!("redis://127.0.0.1:{port}")));
    let nodes = nodes.flat_map(|node| node.expect("it is a URL").nodes().to_vec());
    Connections::new(&Servers::Cluster(nodes.collect()), redis::settings())
        .expect("nothing contradicts itself")
}

/// Asks the node that has the key one thing, and gives the answer as `redis-cli` writes it.
///
/// # Panics
/// Where nothing answers.
pub fn ask(words: &[&str]) -> String {
    let port = CLUSTER.ports[0].to_string();
    CLUSTER
        .servers
        .cli_with(&["-c", "-p", &port], words)
        .expect("it answers")
}

/// How many masters have keys of the store under this prefix.
pub fn masters_with(prefix: &str) -> usize {
    let has_keys = |port: &u16| {
        let keys = CLUSTER
            .servers
            .cli(*port, &["KEYS", &format!("{prefix}:{{*")]);
        !keys.unwrap_or_default().is_empty()
    };
    CLUSTER
        .ports
        .iter()
        .filter(|port| CLUSTER.is_master(**port))
        .filter(|port| has_keys(port))
        .count()
}

/// Each test has a runtime of its own, so it is started by one that nothing has to outlive: the
/// servers are processes.
fn start() -> Cluster {
    let starting = thread::spawn(|| {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let program = programs().remove(0);
        runtime.block_on(Cluster::start(&program, &[]))
    });
    starting
        .join()
        .expect("no servers, no tests; what is wrong is said above")
}
