//! A real Postfix, private to one test, on a port of its own on loopback.

use std::net::SocketAddr;
use std::path::Path;

use private_servers::postfix::PrivatePostfix;

use crate::lmtp::LmtpClient;
use crate::process::free_port;
use crate::wait::eventually;

/// What a test wants of its Postfix, beside what all have.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its address of loopback; any port will do.
    pub at: SocketAddr,
    /// Where mail for a domain goes, as `transport:nexthop` (transport(5)).
    pub transports: Vec<(String, String)>,
    /// More lines of `main.cf`.
    pub main: Vec<String>,
    /// More lines of `master.cf`.
    pub services: Vec<String>,
}

impl Default for Settings {
    /// Any port of loopback, and nothing of its own.
    fn default() -> Self {
        Self {
            at: ([127, 0, 0, 1], 0).into(),
            transports: Vec::new(),
            main: Vec::new(),
            services: Vec::new(),
        }
    }
}

/// A running Postfix. It is ended, with all its processes, when this is dropped.
pub struct Postfix {
    /// Where it takes mail by SMTP.
    pub address: SocketAddr,
    private: PrivatePostfix,
}

/// What those of tests have: it sends mail where the transports say, and tries again soon.
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
    /// Starts one, and waits until it takes mail.
    ///
    /// # Panics
    /// Where Postfix is not installed, or the test does not run as root; the text says what to do.
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

    /// Hands a message in, as a sender that asks for reports does.
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

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.private.log()
    }

    /// Its folder, which ends with it.
    pub fn folder(&self) -> &Path {
        self.private.folder()
    }

    /// Waits until it has logged a line that holds `words`.
    pub async fn logs(&self, words: &str) {
        eventually(words, async || self.log().contains(words).then_some(())).await;
    }
}
