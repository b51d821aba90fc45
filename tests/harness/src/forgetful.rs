//! A Redis that loses its last writes: it is killed, and comes back from the last snapshot that the
//! test had it take.

use crate::servers::Servers;

/// The server. It writes nothing to its disk but what [`Forgetful::remember`] asks for.
pub struct Forgetful {
    /// The server, and what else the test starts.
    pub servers: Servers,
    /// Its port.
    pub port: u16,
}

impl Forgetful {
    /// Starts one of this program.
    pub async fn start(program: &str) -> Self {
        let servers = Servers::new(program);
        let port = servers.start(&[]).await;
        Self { servers, port }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Takes a snapshot of all that it has now.
    ///
    /// # Panics
    /// If it cannot.
    pub fn remember(&self) {
        assert_eq!(self.ask(&["SAVE"]), "OK");
    }

    /// Loses all writes since the last snapshot, as a server does that crashes before they reach
    /// its disk.
    pub async fn forget(&self) {
        self.servers.kill(self.port);
        self.servers.start_on(self.port, &[]).await;
    }

    /// What it answers to a command.
    ///
    /// # Panics
    /// If it does not.
    pub fn ask(&self, command: &[&str]) -> String {
        self.servers
            .cli(self.port, command)
            .expect("the server runs")
    }
}
