//! The LMTP listener (RFC 2033): the mail server of the return path's domain delivers reports here. It says yes to a
//! message only when Redis has what it reports, so that the mail server keeps it where the store is away.

use std::sync::Arc;
use std::time::Duration;

use shared::account::Account;
use shared::config::Lmtp;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dsn::Reports;

pub mod dialogue;
mod lines;
mod session;

use session::Session;

/// How long to wait where the system gives no connection, because it has none left, say.
const PAUSE: Duration = Duration::from_millis(100);

/// How long one connection may last, however busy it is.
const SESSION_MAX: Duration = Duration::from_secs(3_600);

/// Takes reports from a mail server.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
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
    connections: usize,
    idle_max: Duration,
}

impl Listener {
    /// Listens on this socket, and hands what comes to `reports`.
    pub fn new(listener: TcpListener, reports: Reports, config: &Lmtp) -> Self {
        let Lmtp { host, account, message_max, recipients_max, connections, idle_max, .. } = config.clone();
        let settings = Settings { reports, host, account, message_max, recipients_max, connections, idle_max };
        Self { listener, settings: Arc::new(settings) }
    }

    /// Serves until `stop` is cancelled, and then until the messages under way have been answered.
    pub async fn run(self, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(self.settings.connections));
        let sessions = TaskTracker::new();
        while let Some(Ok(permit)) = stop.run_until_cancelled(room.clone().acquire_owned()).await {
            match stop.run_until_cancelled(self.listener.accept()).await {
                None => break,
                Some(Ok((stream, _))) => {
                    let (settings, stop) = (self.settings.clone(), stop.clone());
                    sessions.spawn(async move {
                        let _permit = permit;
                        let session = Session::new(stream, settings).run(stop);
                        // A client that goes away in the midst of it has been promised nothing.
                        let _ = timeout(SESSION_MAX, session).await;
                    });
                }
                Some(Err(err)) => {
                    tracing::warn!(%err, "an LMTP connection could not be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
        sessions.close();
        sessions.wait().await;
    }
}
