//! Sends messages with Postfix's `smtp-source`: to the sink, and to the Postfix that delivers from
//! its deferred queue. Also defines the size of a message and the number of sessions, which are the
//! same in all comparisons.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use private_servers::postfix::tool;
use tokio::time::{Instant, timeout};

/// The size of a message, in bytes.
pub(super) const MESSAGE_SIZE: usize = 4 << 10;

/// How many sessions are open at once. It is the same for our sender, `smtp-source` and Postfix.
pub(super) const SESSIONS: usize = 64;

/// Sends `messages` messages of [`MESSAGE_SIZE`] bytes over [`SESSIONS`] sessions, which are
/// reused. Returns how long this takes.
pub(super) async fn feed(to: SocketAddr, messages: usize) -> Result<Duration> {
    const FEED_MAX: Duration = Duration::from_secs(600);
    let [sessions, size, messages] =
        [SESSIONS, MESSAGE_SIZE, messages].map(|number| number.to_string());
    let arguments = ["-d", "-s", &sessions, "-l", &size, "-m", &messages];
    let addresses = [
        "-f",
        "bounce@news.example.org",
        "-t",
        "jo@d0.example",
        "-M",
        "bench.example",
    ];
    let start = Instant::now();
    let mut source = tool("smtp-source");
    let source = source
        .args(arguments)
        .args(addresses)
        .arg(to.to_string())
        .kill_on_drop(true);
    let ended = timeout(FEED_MAX, source.status())
        .await
        .context("smtp-source did not end within 10 minutes")?;
    if !ended
        .context("cannot start smtp-source; it is part of Postfix: apt-get install postfix")?
        .success()
    {
        bail!("smtp-source failed");
    }
    Ok(start.elapsed())
}
