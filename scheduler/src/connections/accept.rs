//! Accepting connections. If the process has no descriptors left it waits, instead of asking again
//! at once without end, and an idle connection gives its own up.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::Gate;

/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a connection takes to leave that has been told to.
const LEAVING: Duration = Duration::from_millis(5);

/// A listener that does not fail.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    /// What the connections are called in the log.
    kind: &'static str,
    is_failing: bool,
}

impl Acceptor {
    /// Accepts on this socket.
    pub fn new(listener: TcpListener, kind: &'static str) -> Self {
        Self { listener, kind, is_failing: false }
    }

    /// The next connection. It can be given up.
    pub async fn next(&mut self, gate: &Gate) -> (TcpStream, SocketAddr) {
        let kind = self.kind;
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    if self.is_failing {
                        tracing::info!(kind, "connections are accepted again");
                        self.is_failing = false;
                    }
                    return accepted;
                }
                Err(err) if is_over_already(&err) => {}
                Err(err) => {
                    if !self.is_failing {
                        tracing::warn!(
                            kind,
                            %err,
                            "connections cannot be accepted for now; if there are too many open files, raise their limit \
                             (ulimit -n) or lower scheduler.connections"
                        );
                        self.is_failing = true;
                    }
                    sleep(if gate.make_room() { LEAVING } else { PAUSE }).await;
                }
            }
        }
    }
}

/// Whether an error is about one connection that its client has given up.
fn is_over_already(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}
