//! A Postfix of our own with a deferred queue: what its queue manager and its smtp client make of
//! the messages that `smtp` delivers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use private_servers::postfix::{PrivatePostfix, Queue};
use tokio::time::{Instant, sleep};

use super::smtp::{SESSIONS, feed, free_address};

/// How long filling or draining the queue may take.
const MOST: Duration = Duration::from_secs(900);

/// As Postfix ships, but for as many connections to the sink as we have ourselves, and no limits on
/// who fills the queue.
const MAIN: &str = "\
myhostname = bench.example
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
smtp_tls_security_level = none
";

/// How long Postfix takes to bring so many deferred messages to the sink, from `postqueue -f` to an
/// empty queue.
pub(crate) async fn drained(sink: SocketAddr, messages: usize) -> Result<Duration> {
    let address = free_address()?;
    let main = format!(
        "{MAIN}relayhost = [{}]:{}\nsmtp_destination_concurrency_limit = {SESSIONS}\n",
        sink.ip(),
        sink.port(),
    );
    let postfix =
        PrivatePostfix::start(address, &format!("{main}defer_transports = smtp\n"), "").await?;
    feed(address, messages).await?;
    wait_until(&postfix, "has deferred them all", |queue| {
        queue.deferred == messages && queue.rest == 0
    })
    .await?;
    // From here on it may send.
    postfix.write_main(&main)?;
    postfix.run("postfix", &["reload"]).await?;
    let start = Instant::now();
    postfix.run("postqueue", &["-f"]).await?;
    wait_until(&postfix, "has sent them all", |queue| {
        queue.deferred + queue.rest == 0
    })
    .await?;
    let took = start.elapsed();
    postfix.run("postfix", &["stop"]).await?;
    Ok(took)
}

async fn wait_until(
    postfix: &PrivatePostfix,
    what: &str,
    is_so: impl Fn(Queue) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + MOST;
    loop {
        let queue = postfix.queue();
        if is_so(queue) {
            return Ok(());
        }
        let Queue { deferred, rest } = queue;
        ensure!(
            Instant::now() < deadline,
            "Postfix has not: {what}; {deferred} deferred, {rest} others"
        );
        sleep(Duration::from_millis(50)).await;
    }
}
