//! A Postfix of our own, for benches and tests: its configuration, queue and log are in a folder of
//! its own, and it listens on loopback alone. The system's Postfix, if there is one, is not
//! touched. It ends with the value that stands for it.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// Where Postfix keeps its tools, which are in few people's path.
const PATH: &str = "/usr/sbin:/usr/local/sbin:/usr/bin:/bin";

/// How long it may take until it listens.
const START_MAX: Duration = Duration::from_secs(60);

/// What all have: it takes mail from loopback, and delivers nothing on this machine.
const MAIN: &str = "\
compatibility_level = 3.6
maillog_file = /dev/stdout
inet_interfaces = loopback-only
inet_protocols = ipv4
mydestination =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
alias_maps =
alias_database =
local_recipient_maps =
";

/// The services that all have (master(5)), none of them in a changed root. The queue manager looks
/// around each second: what it meets while it is still being delivered waits in the incoming queue
/// until then.
const SERVICES: &str = "\
pickup   unix n - n 60 1 pickup
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 1 1 qmgr
tlsmgr   unix - - n 1000? 1 tlsmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
verify   unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp     unix - - n - - smtp
lmtp     unix - - n - - lmtp
virtual  unix - n n - - virtual
error    unix - - n - - error
retry    unix - - n - - error
anvil    unix - - n - 1 anvil
scache   unix - - n - 1 scache
postlog  unix-dgram n - n - 1 postlogd
";

/// Why there is no Postfix.
#[derive(Debug, thiserror::Error)]
pub enum PostfixError {
    /// It is not installed.
    #[error(
        "there is no Postfix on this machine; install it with `apt-get install postfix` (\"No configuration\" will do; \
         it need not run)"
    )]
    NotInstalled,
    /// Postfix starts only as root.
    #[error("Postfix starts only as root: run this as root, in a container say")]
    NotRoot,
    /// Its folder cannot be made, or written to.
    #[error("Postfix's folder cannot be written: {0}")]
    Folder(#[from] io::Error),
    /// One of its tools failed, or it does not listen; with what it has logged.
    #[error("{what} failed: {log}")]
    Failed {
        /// What failed.
        what: String,
        /// What it has logged.
        log: String,
    },
}

/// A running Postfix. It is ended, with all its processes, when this is dropped.
pub struct PrivatePostfix {
    folder: TempDir,
    _master: Child,
    _guard: Child,
}

/// How many messages are in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Those that wait for their next try.
    pub deferred: usize,
    /// All others.
    pub rest: usize,
}

impl PrivatePostfix {
    /// Starts one that takes mail at `address`, with these lines of `main.cf` and `master.cf`
    /// beside those that all have, and waits until it does.
    pub async fn start(
        address: SocketAddr,
        main: &str,
        services: &str,
    ) -> Result<Self, PostfixError> {
        let folder = TempDir::with_prefix("redeliver-postfix-")?;
        // Its processes run as another user, who has to get there.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        for name in ["config", "queue", "data"] {
            fs::create_dir(folder.path().join(name))?;
        }
        let owner = Some(owner().await?);
        chown(folder.path().join("data"), owner, None).map_err(|_| PostfixError::NotRoot)?;
        let config = folder.path().join("config");
        write_main(folder.path(), main)?;
        fs::write(
            config.join("master.cf"),
            format!("{address} inet n - n - - smtpd\n{SERVICES}{services}\n"),
        )?;
        // Makes the folders of the queue, with their owners.
        run(folder.path(), "postfix", &["check"]).await?;
        let asked = tool("postconf")
            .arg("-c")
            .arg(&config)
            .args(["-h", "daemon_directory"])
            .output()
            .await?;
        let daemons = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
        let mut master = Command::new(daemons.join("master"));
        let log = log_file(folder.path())?;
        let master = master
            .env("MAIL_CONFIG", &config)
            .arg("-c")
            .arg(&config)
            .args(["-d", "-s"]);
        let master = master
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let master = master.process_group(0).kill_on_drop(true).spawn()?;
        let guard = end_with_this_process(&master, folder.path())?;
        let postfix = Self {
            folder,
            _master: master,
            _guard: guard,
        };
        postfix.listens(address).await?;
        Ok(postfix)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        log_of(self.folder.path())
    }

    /// Its folder, which ends with it; what is put there can be read by its processes if it may be
    /// read by all.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Changes the lines of `main.cf` that are its own; `postfix reload` makes them count.
    pub fn write_main(&self, main: &str) -> Result<(), PostfixError> {
        Ok(write_main(self.folder.path(), main)?)
    }

    /// Runs one of its tools on it.
    pub async fn run(&self, name: &str, arguments: &[&str]) -> Result<(), PostfixError> {
        run(self.folder.path(), name, arguments).await
    }

    /// How many messages are in its queue.
    pub fn queue(&self) -> Queue {
        let files = |name: &str| files(&self.folder.path().join("queue").join(name));
        Queue {
            deferred: files("deferred"),
            rest: ["maildrop", "incoming", "active"].map(files).iter().sum(),
        }
    }

    async fn listens(&self, address: SocketAddr) -> Result<(), PostfixError> {
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(address).await.is_err() {
            if Instant::now() > deadline {
                return Err(PostfixError::Failed {
                    what: format!("listening at {address}"),
                    log: self.log(),
                });
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// One of Postfix's tools, wherever it keeps them.
pub fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command
        .env("PATH", format!("{path}:{PATH}"))
        .stdin(Stdio::null());
    command
}

async fn run(folder: &Path, name: &str, arguments: &[&str]) -> Result<(), PostfixError> {
    let mut command = tool(name);
    let command = command
        .arg("-c")
        .arg(folder.join("config"))
        .args(arguments)
        .stderr(log_file(folder)?);
    match command.status().await {
        Ok(ended) if ended.success() => Ok(()),
        Ok(_) => Err(PostfixError::Failed {
            what: format!("{name} {}", arguments.join(" ")),
            log: log_of(folder),
        }),
        Err(_) => Err(PostfixError::NotInstalled),
    }
}

/// The user that Postfix's own processes run as.
async fn owner() -> Result<u32, PostfixError> {
    let id = tool("id").args(["-u", "postfix"]).output().await?;
    String::from_utf8_lossy(&id.stdout)
        .trim()
        .parse()
        .map_err(|_| PostfixError::NotInstalled)
}

fn write_main(folder: &Path, main: &str) -> io::Result<()> {
    let [queue, data] = ["queue", "data"].map(|name| folder.join(name));
    let folders = format!(
        "queue_directory = {}\ndata_directory = {}\n",
        queue.display(),
        data.display()
    );
    fs::write(
        folder.join("config/main.cf"),
        format!("{MAIN}{folders}{main}\n"),
    )
}

fn log_file(folder: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .open(folder.join("log"))
}

fn log_of(folder: &Path) -> String {
    fs::read(folder.join("log"))
        .map(|log| String::from_utf8_lossy(&log).into_owned())
        .unwrap_or_default()
}

/// A shell that ends the master and all that it started when this process ends, however it does, or
/// drops its end of the pipe.
fn end_with_this_process(master: &Child, folder: &Path) -> io::Result<Child> {
    let group = master.id().map(|id| id.to_string()).unwrap_or_default();
    Command::new("sh")
        .args([
            "-c",
            "trap '' INT TERM HUP; read _; kill -KILL -- \"-$1\"; rm -rf \"$2\"",
            "sh",
            &group,
        ])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
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
