//! Measures how fast a private Postfix delivers from its deferred queue the same messages that the
//! mode `smtp` delivers. Its queue manager and its SMTP client are measured together.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use private_servers::postfix::{PrivatePostfix, Queue};
use tokio::time::{Instant, sleep};

use super::feed::{SESSIONS, feed};
use super::rig::free_address;

/// How long filling or draining the queue may take.
const DRAIN_MAX: Duration = Duration::from_secs(900);

/// The settings in `main.cf` that differ from Postfix's defaults. The client that fills the queue
/// has no limits. [`time_to_drain`] sets the number of connections to the sink to ours.
const MAIN: &str = "\
myhostname = bench.example
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
smtp_tls_security_level = none
";

/// Returns how long Postfix takes to deliver `messages` deferred messages to the sink, from
/// `postqueue -f` to an empty queue.
pub(crate) async fn time_to_drain(sink: SocketAddr, messages: usize) -> Result<Duration> {
    let address = free_address()?;
    let main = format!(
        "{MAIN}relayhost = [{}]:{}\nsmtp_destination_concurrency_limit = {SESSIONS}\n",
        sink.ip(),
        sink.port(),
    );
    let postfix =
        PrivatePostfix::start(address, &format!("{main}defer_transports = smtp\n"), "").await?;
    feed(address, messages).await?;
    wait_until(&postfix, "defer all messages", |queue| {
        queue.deferred == messages && queue.rest == 0
    })
    .await?;
    // From here on Postfix may send.
    postfix.write_main(&main)?;
    postfix.run("postfix", &["reload"]).await?;
    let start = Instant::now();
    postfix.run("postqueue", &["-f"]).await?;
    wait_until(&postfix, "send all messages", |queue| {
        queue.deferred + queue.rest == 0
    })
    .await?;
    let took = start.elapsed();
    postfix.run("postfix", &["stop"]).await?;
    Ok(took)
}

async fn wait_until(
    postfix: &PrivatePostfix,
    goal: &str,
    is_reached: impl Fn(Queue) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + DRAIN_MAX;
    loop {
        let queue = postfix.queue();
        if is_reached(queue) {
            return Ok(());
        }
        let Queue { deferred, rest } = queue;
        ensure!(
            Instant::now() < deadline,
            "Postfix did not {goal} in time; {deferred} deferred, {rest} others"
        );
        sleep(Duration::from_millis(50)).await;
    }
}
