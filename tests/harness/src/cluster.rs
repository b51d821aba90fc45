//! One Cluster per test process. All tests that only need some Cluster share it: they stop no node,
//! and each test has its own key prefix.

use std::sync::LazyLock;
use std::thread;

use store::connection::pool::Connections;
use store::connection::servers::Servers;
use tokio::runtime;

use crate::redis;
use crate::servers::{Cluster, programs};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(start);

/// Returns connections to this process's Cluster. The first call starts the Cluster.
///
/// # Panics
/// If no server is installed. The message explains how to install it.
pub fn connections() -> Connections {
    let nodes = CLUSTER
        .ports
        .iter()
        .take(2)
        .map(|port| Servers::single(&format!("redis://127.0.0.1:{port}")));
    let nodes = nodes.flat_map(|node| node.expect("the URL is valid").nodes().to_vec());
    Connections::new(&Servers::Cluster(nodes.collect()), redis::settings())
        .expect("the connection settings are valid")
}

/// Sends a command to the node that has its key. Returns the answer as `redis-cli` prints it.
///
/// # Panics
/// If no node answers.
pub fn ask(words: &[&str]) -> String {
    let port = CLUSTER.ports[0].to_string();
    CLUSTER
        .servers
        .cli_with(&["-c", "-p", &port], words)
        .expect("the node answers")
}

/// Returns how many masters have keys of the store with this prefix.
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

/// Starts the Cluster in a separate runtime, because each test has its own runtime and the Cluster
/// must outlive the test. The servers are processes, so they outlive this runtime too.
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
        .expect("the Cluster did not start; the reason is printed above")
}
