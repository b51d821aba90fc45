//! The LMTP listener (RFC 2033). The mail server of the return path's domain delivers reports here.
//! A message is accepted only when Redis has what it reports. So if the store cannot be reached,
//! the mail server keeps the message.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use config::lmtp::Lmtp;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dsn::Reports;
use crate::connections::accept::Acceptor;
use crate::connections::{ConnectionLimits, Gate};

pub mod dialogue;
mod lines;
mod session;
mod settings;

use session::Session;
use settings::Settings;

/// How long one connection may last, even if it is busy.
const SESSION_MAX: Duration = Duration::from_secs(3_600);

/// The reply to a client if all connections are busy.
const TOO_MANY_CONNECTIONS: &[u8] =
    b"421 4.3.2 there are too many connections; try again later\r\n";

/// Accepts reports from a mail server.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    gate: Arc<Gate>,
    settings: Arc<Settings>,
}

impl Listener {
    /// Listens on this socket. Hands the messages that arrive to `reports`.
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
        let gate = Gate::new(ConnectionLimits {
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

    /// Serves until `stop` is cancelled, and then until the messages in progress are answered.
    pub async fn run(self, stop: CancellationToken) {
        let Self {
            listener,
            gate,
            settings,
        } = self;
        let mut acceptor = Acceptor::new(listener, "LMTP");
        let sessions = TaskTracker::new();
        while let Some((stream, address)) = stop.run_until_cancelled(acceptor.next(&gate)).await {
            let Some(place) = gate.admit(address.ip()) else {
                refuse_connection(stream);
                continue;
            };
            let session = Session::new(stream, place, settings.clone()).run(stop.clone());
            // An error is ignored: a client that disconnects midway has been promised nothing.
            sessions.spawn(timeout(SESSION_MAX, session));
        }
        sessions.close();
        sessions.wait().await;
    }
}

/// Answers that there is no room, without waiting for a client that does not read.
fn refuse_connection(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(TOO_MANY_CONNECTIONS);
    }
}
