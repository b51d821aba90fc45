//! The LMTP listener (RFC 2033): the mail server of the return path's domain delivers reports here.
//! It says yes to a message only when Redis has what it reports, so that the mail server keeps it
//! where the store is away.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use config::returned::Lmtp;
use domain::account::Account;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dsn::Reports;
use crate::connections::accept::Acceptor;
use crate::connections::{Gate, Places};

pub mod dialogue;
mod lines;
mod session;

use session::Session;

/// How long one connection may last, however busy it is.
const SESSION_MAX: Duration = Duration::from_secs(3_600);

/// What a client hears if all connections are busy.
const FULL: &[u8] = b"421 4.3.2 there are too many connections; try again later\r\n";

/// Takes reports from a mail server.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    gate: Arc<Gate>,
    settings: Arc<Settings>,
}

/// What all sessions share.
#[derive(Debug)]
struct Settings {
    reports: Reports,
    host: String,
    account: Account,
    message_max: usize,
    recipients_max: usize,
    idle_max: Duration,
}

impl Listener {
    /// Listens on this socket, and hands what comes to `reports`.
    pub fn new(listener: TcpListener, reports: Reports, config: &Lmtp) -> Self {
        let Lmtp {
            host,
            account,
            message_max,
            recipients_max,
            idle_max,
            ..
        } = config.clone();
        let settings = Settings {
            reports,
            host,
            account,
            message_max,
            recipients_max,
            idle_max,
        };
        let (max, per_peer) = (config.connections, config.connections_per_peer);
        let gate = Gate::new(Places {
            max,
            per_peer,
            reserve: 0,
            trusted: Vec::new(),
        });
        Self {
            listener,
            gate,
            settings: Arc::new(settings),
        }
    }

    /// Serves until `stop` is cancelled, and then until the messages under way have been answered.
    pub async fn run(self, stop: CancellationToken) {
        let Self {
            listener,
            gate,
            settings,
        } = self;
        let mut acceptor = Acceptor::new(listener, "LMTP");
        let sessions = TaskTracker::new();
        while let Some((stream, address)) = stop.run_until_cancelled(acceptor.next(&gate)).await {
            let Some(seat) = gate.admit(address.ip()) else {
                turn_away(stream);
                continue;
            };
            let session = Session::new(stream, seat, settings.clone()).run(stop.clone());
            // A client that goes away in the midst of it has been promised nothing.
            sessions.spawn(timeout(SESSION_MAX, session));
        }
        sessions.close();
        sessions.wait().await;
    }
}

/// Says that there is no room, without waiting for a client that does not listen.
fn turn_away(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(FULL);
    }
}
