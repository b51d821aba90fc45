//! Accepting connections. If the process has no descriptors left it waits, instead of asking again
//! at once without end, and an idle connection gives its own up.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::Gate;

/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// How long nothing may have failed until trouble is over: each connection that leaves lets one in.
const OVER_AFTER: Duration = Duration::from_secs(1);

/// How long a connection takes to leave that has been told to.
const LEAVING: Duration = Duration::from_millis(5);

/// A listener that does not fail.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    /// What the connections are called in the log.
    kind: &'static str,
    /// When it failed last, until that is over.
    failed_at: Option<Instant>,
}

impl Acceptor {
    /// Accepts on this socket.
    pub fn new(listener: TcpListener, kind: &'static str) -> Self {
        Self {
            listener,
            kind,
            failed_at: None,
        }
    }

    /// The next connection. It can be given up.
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
                Err(err) if is_over_already(&err) => {}
                Err(err) => {
                    if self.failed_at.is_none() {
                        tracing::warn!(
                            kind,
                            %err,
                            "connections cannot be accepted for now; if there are too many open files, raise their limit \
                             (ulimit -n) or lower scheduler.connections"
                        );
                    }
                    self.failed_at = Some(Instant::now());
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
