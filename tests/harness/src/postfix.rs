//! A real Postfix that is private to one test, on its own port of loopback.

use std::net::SocketAddr;
use std::path::Path;

use private_servers::postfix::PrivatePostfix;

use crate::lmtp::LmtpClient;
use crate::port::free_port;
use crate::wait::eventually;

/// The settings of a test's Postfix, in addition to those that all have.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its address on loopback. Port 0 means any free port.
    pub at: SocketAddr,
    /// The domains, and where their mail goes, as `transport:nexthop` (transport(5)).
    pub transports: Vec<(String, String)>,
    /// More lines of `main.cf`.
    pub main: Vec<String>,
    /// More lines of `master.cf`.
    pub services: Vec<String>,
}

impl Default for Settings {
    /// Any port of loopback, and no other settings.
    fn default() -> Self {
        Self {
            at: ([127, 0, 0, 1], 0).into(),
            transports: Vec::new(),
            main: Vec::new(),
            services: Vec::new(),
        }
    }
}

/// A running Postfix. When this is dropped, all its processes are killed.
pub struct Postfix {
    /// The address that it accepts SMTP on.
    pub address: SocketAddr,
    private: PrivatePostfix,
}

/// The lines of `main.cf` that all tests have: only the transports decide where mail goes, and a
/// failed delivery is tried again soon.
const MAIN: &str = "\
myhostname = out.example.net
default_transport = error:5.4.4 the test names no transport for this domain
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
transport_retry_time = 1s
service_throttle_time = 1s
";

impl Postfix {
    /// Starts a Postfix, and waits until it accepts mail.
    ///
    /// # Panics
    /// If Postfix is not installed, or if the test does not run as root. The message explains what
    /// to do.
    pub async fn start(settings: Settings) -> Self {
        let mut address = settings.at;
        if address.port() == 0 {
            address.set_port(free_port());
        }
        let transports = settings
            .transports
            .iter()
            .map(|(domain, to)| format!("{{{domain}={to}}}"));
        let transports: Vec<String> = transports.collect();
        let mut main = format!("{MAIN}{}\n", settings.main.join("\n"));
        if !transports.is_empty() {
            main.push_str(&format!(
                "transport_maps = inline:{{ {} }}\n",
                transports.join(", ")
            ));
        }
        let private = PrivatePostfix::start(address, &main, &settings.services.join("\n")).await;
        Self {
            address,
            private: private.unwrap_or_else(|why| panic!("{why}")),
        }
    }

    /// Sends a message to it by SMTP, with `from` as the return path for reports.
    pub async fn send(&self, from: &str, to: &[&str], message: &str) {
        let mut client = LmtpClient::connect(self.address).await;
        let from = format!("MAIL FROM:<{from}>");
        for line in ["EHLO app.example.org", &from] {
            assert!(
                client.say(line).await.starts_with("250 "),
                "{line}: {}",
                self.log()
            );
        }
        for to in to {
            assert!(
                client
                    .say(&format!("RCPT TO:<{to}>"))
                    .await
                    .starts_with("250 "),
                "{}",
                self.log()
            );
        }
        assert!(client.say("DATA").await.starts_with("354 "));
        assert!(
            client
                .say(&format!("{message}\r\n."))
                .await
                .starts_with("250 ")
        );
        client.say("QUIT").await;
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        self.private.log()
    }

    /// Its folder, which is removed with it.
    pub fn folder(&self) -> &Path {
        self.private.folder()
    }

    /// Waits until its log contains `words`.
    pub async fn wait_for_log(&self, words: &str) {
        eventually(words, async || self.log().contains(words).then_some(())).await;
    }
}
