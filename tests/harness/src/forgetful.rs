//! A Redis that loses its last writes: it is killed, and restarts from the last snapshot that the
//! test took.

use crate::servers::Servers;

/// The server. It writes to disk only when [`SnapshotRedis::take_snapshot`] is called.
pub struct SnapshotRedis {
    /// The server, and any other servers that the test starts.
    pub servers: Servers,
    /// The port of the server.
    pub port: u16,
}

impl SnapshotRedis {
    /// Starts a server of this program.
    pub async fn start(program: &str) -> Self {
        let servers = Servers::new(program);
        let port = servers.start(&[]).await;
        Self { servers, port }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Takes a snapshot of all its data.
    ///
    /// # Panics
    /// If the server cannot write the snapshot.
    pub fn take_snapshot(&self) {
        assert_eq!(self.ask(&["SAVE"]), "OK");
    }

    /// Loses all writes since the last snapshot, like a server that crashes before they are on
    /// disk.
    pub async fn lose_last_writes(&self) {
        self.servers.kill(self.port);
        self.servers.start_on(self.port, &[]).await;
    }

    /// Sends a command, and returns the answer.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn ask(&self, command: &[&str]) -> String {
        self.servers
            .cli(self.port, command)
            .expect("the server runs")
    }
}
