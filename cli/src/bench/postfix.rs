//! A Postfix of our own with a deferred queue: what its queue manager and its smtp client make of the messages that
//! `smtp` delivers. It runs in a folder of its own and touches no other Postfix.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::smtp::{SESSIONS, feed, free_address, tool};

/// How long filling or draining the queue may take.
const MOST: Duration = Duration::from_secs(900);

/// As Postfix ships, but for as many connections to the sink as we have ourselves, and no limits on who fills the queue.
const MAIN: &str = "\
compatibility_level = 3.6
maillog_file = /dev/stdout
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = bench.example
mydestination =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
alias_maps =
alias_database =
local_recipient_maps =
in_flow_delay = 0
smtp_tls_security_level = none
";

/// The services that this needs (master(5)), none of them in a changed root.
const SERVICES: &str = "\
pickup   unix n - n 60 1 pickup
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 300 1 qmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp     unix - - n - - smtp
error    unix - - n - - error
retry    unix - - n - - error
anvil    unix - - n - 1 anvil
scache   unix - - n - 1 scache
postlog  unix-dgram n - n - 1 postlogd
";

/// How long Postfix takes to bring so many deferred messages to the sink, from `postqueue -f` to an empty queue.
pub(crate) async fn drained(sink: SocketAddr, messages: usize) -> Result<Duration> {
    let address = free_address()?;
    let folder = TempDir::with_prefix("redeliver-postfix-")?;
    let postfix = Postfix::start(folder.path(), address, sink).await?;
    feed(address, messages).await?;
    postfix.wait_until("has deferred them all", |queue| queue.deferred == messages && queue.rest == 0).await?;
    // From here on it may send.
    postfix.write_main("")?;
    postfix.run("postfix", &["reload"]).await?;
    let start = Instant::now();
    postfix.run("postqueue", &["-f"]).await?;
    postfix.wait_until("has sent them all", |queue| queue.deferred + queue.rest == 0).await?;
    let took = start.elapsed();
    postfix.run("postfix", &["stop"]).await?;
    Ok(took)
}

struct Postfix {
    config: PathBuf,
    queue: PathBuf,
    main: String,
    _master: Child,
}

/// How many messages are in the queue.
struct Queue {
    deferred: usize,
    rest: usize,
}

impl Postfix {
    async fn start(folder: &Path, address: SocketAddr, sink: SocketAddr) -> Result<Self> {
        let [config, queue, data] = ["config", "queue", "data"].map(|name| folder.join(name));
        for made in [&config, &queue, &data] {
            fs::create_dir(made)?;
        }
        // Its processes run as another user, who has to get there.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        let asked = tool("id").args(["-u", "postfix"]).output().await?;
        let owner = String::from_utf8_lossy(&asked.stdout).trim().parse().context("there is no user postfix")?;
        chown(&data, Some(owner), None).context("Postfix starts only as root")?;
        let main = format!(
            "{MAIN}queue_directory = {}\ndata_directory = {}\nrelayhost = [{}]:{}\n\
             smtp_destination_concurrency_limit = {SESSIONS}\n",
            queue.display(),
            data.display(),
            sink.ip(),
            sink.port(),
        );
        fs::write(config.join("master.cf"), format!("{address} inet n - n - - smtpd\n{SERVICES}"))?;
        fs::write(config.join("main.cf"), format!("{main}defer_transports = smtp\n"))?;
        let check = tool("postfix").arg("-c").arg(&config).arg("check").status().await?;
        ensure!(check.success(), "postfix check failed");
        let asked = tool("postconf").arg("-c").arg(&config).args(["-h", "daemon_directory"]).output().await?;
        let daemons = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
        let master = tool("env")
            .arg(format!("MAIL_CONFIG={}", config.display()))
            .arg(daemons.join("master"))
            .arg("-c")
            .arg(&config)
            .arg("-d")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let postfix = Self { config, queue, main, _master: master };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).await.is_err() {
            ensure!(Instant::now() < deadline, "Postfix does not listen at {address}");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(postfix)
    }

    fn write_main(&self, more: &str) -> Result<()> {
        Ok(fs::write(self.config.join("main.cf"), format!("{}{more}", self.main))?)
    }

    async fn run(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let mut command = tool(name);
        let command = command.arg("-c").arg(&self.config).args(arguments).stderr(Stdio::null());
        ensure!(command.status().await?.success(), "{name} {} failed", arguments.join(" "));
        Ok(())
    }

    async fn wait_until(&self, what: &str, is_so: impl Fn(&Queue) -> bool) -> Result<()> {
        let deadline = Instant::now() + MOST;
        loop {
            let rest = ["maildrop", "incoming", "active"].map(|name| files(&self.queue.join(name)));
            let queue = Queue { deferred: files(&self.queue.join("deferred")), rest: rest.iter().sum() };
            if is_so(&queue) {
                return Ok(());
            }
            let Queue { deferred, rest } = queue;
            ensure!(Instant::now() < deadline, "Postfix has not: {what}; {deferred} deferred, {rest} others");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The files in a folder and those below it.
fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            Ok(_) => 1,
            Err(_) => 0,
        })
        .sum()
}
