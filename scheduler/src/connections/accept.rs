//! Accepts connections. If the process has no file descriptors left, this closes an idle
//! connection and waits, instead of trying again at once without end.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::Gate;

/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// How long accepting must succeed until the trouble counts as over. A single success is not
/// enough, because each connection that is closed lets one in.
const OVER_AFTER: Duration = Duration::from_secs(1);

/// How long to wait for an idle connection to be closed.
const CLOSING: Duration = Duration::from_millis(5);

/// A listener. Errors of accepting a connection are handled here.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    /// The kind of connections, for the log.
    kind: &'static str,
    /// The time of the last failure, until the trouble is over.
    failed_at: Option<Instant>,
}

impl Acceptor {
    /// Accepts connections on this socket.
    pub fn new(listener: TcpListener, kind: &'static str) -> Self {
        Self {
            listener,
            kind,
            failed_at: None,
        }
    }

    /// Returns the next connection. Cancel-safe.
    pub async fn next(&mut self, gate: &Gate) -> (TcpStream, SocketAddr) {
        let kind = self.kind;
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    if self.failed_at.is_some_and(|at| at.elapsed() >= OVER_AFTER) {
                        tracing::info!(kind, "connections are accepted again");
                        self.failed_at = None;
                    }
                    return accepted;
                }
                Err(err) if is_about_one_connection(&err) => {}
                Err(err) => {
                    if self.failed_at.is_none() {
                        tracing::warn!(
                            kind,
                            %err,
                            "connections cannot be accepted for now; \
                             if there are too many open files, raise their limit (ulimit -n) \
                             or lower scheduler.connections"
                        );
                    }
                    self.failed_at = Some(Instant::now());
                    sleep(if gate.make_room() { CLOSING } else { PAUSE }).await;
                }
            }
        }
    }
}

/// Whether an error is only about one connection, which its client has closed already.
fn is_about_one_connection(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}
