//! A private Postfix for benches and tests. Its configuration, queue and log are in its own folder,
//! and it listens on loopback only. It does not touch the system's Postfix. It ends when its value
//! is dropped.

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

/// The folders of Postfix's tools. They are often not in a user's `PATH`.
const PATH: &str = "/usr/sbin:/usr/local/sbin:/usr/bin:/bin";

/// How long Postfix may take until it listens.
const START_MAX: Duration = Duration::from_secs(60);

/// The lines of `main.cf` that every private Postfix has: Postfix accepts mail from loopback, and
/// delivers nothing on this machine.
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

/// The services that every private Postfix has (master(5)), without chroot. The queue manager scans
/// the incoming queue each second: a message that was not complete at one scan waits for the next.
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
        "there is no Postfix on this machine; install it with `apt-get install postfix` \
         (choose \"No configuration\"; it need not run)"
    )]
    NotInstalled,
    /// Postfix starts only as root.
    #[error("Postfix starts only as root: run this as root, for example in a container")]
    NotRoot,
    /// Its folder cannot be made, or written to.
    #[error("cannot write Postfix's folder: {0}")]
    Folder(#[from] io::Error),
    /// One of its tools failed, or it does not listen.
    #[error("{what} failed: {log}")]
    Failed {
        /// What failed.
        what: String,
        /// Postfix's log so far.
        log: String,
    },
}

/// A running Postfix. When this is dropped, all its processes are killed.
pub struct PrivatePostfix {
    folder: TempDir,
    _master: Child,
    _guard: Child,
}

/// How many messages are in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Messages that wait for their next attempt.
    pub deferred: usize,
    /// All other messages.
    pub rest: usize,
}

impl PrivatePostfix {
    /// Starts a Postfix that accepts mail at `address`, and waits until it listens. The lines for
    /// `main.cf` and `master.cf` (`main`, `services`) are added to those that every private Postfix
    /// has.
    pub async fn start(
        address: SocketAddr,
        main: &str,
        services: &str,
    ) -> Result<Self, PostfixError> {
        let folder = TempDir::with_prefix("redeliver-postfix-")?;
        // Postfix's processes run as another user, which must be able to enter the folder.
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
        let postconf = tool("postconf")
            .arg("-c")
            .arg(&config)
            .args(["-h", "daemon_directory"])
            .output()
            .await?;
        let daemons = PathBuf::from(String::from_utf8_lossy(&postconf.stdout).trim());
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
        postfix.wait_until_it_listens(address).await?;
        Ok(postfix)
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        log_of(self.folder.path())
    }

    /// Returns its folder, which is removed with it. Its processes run as another user, so they can
    /// read only those files in the folder that all users may read.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the lines of `main.cf` that [`Self::start`] was given. The new ones take effect
    /// with `postfix reload`.
    pub fn write_main(&self, main: &str) -> Result<(), PostfixError> {
        Ok(write_main(self.folder.path(), main)?)
    }

    /// Runs one of Postfix's tools on this server.
    pub async fn run(&self, name: &str, arguments: &[&str]) -> Result<(), PostfixError> {
        run(self.folder.path(), name, arguments).await
    }

    /// Returns how many messages are in its queue.
    pub fn queue(&self) -> Queue {
        let files = |name: &str| files(&self.folder.path().join("queue").join(name));
        Queue {
            deferred: files("deferred"),
            rest: ["maildrop", "incoming", "active"].map(files).iter().sum(),
        }
    }

    async fn wait_until_it_listens(&self, address: SocketAddr) -> Result<(), PostfixError> {
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

/// Returns a command that runs one of Postfix's tools, even if the tool is not in `PATH`.
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

/// Returns the id of the user that Postfix's own processes run as.
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

/// Starts a shell that kills the master and all its processes when the pipe to this process closes.
/// So they end with this process, even if it is killed.
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

/// Counts the files in a folder and in its subfolders.
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
