//! A private Redis server for `redeliver dev`, the demo, benches and tests. It listens on a Unix
//! socket that only its user can open. It ends when its value is dropped.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

/// The environment variable with the program to start. Without it, the first installed one of
/// [`PROGRAMS`] is started.
pub const PROGRAM_VARIABLE: &str = "REDELIVER_REDIS_SERVER";

/// The server programs, in order of preference.
pub const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// The largest number of entries of a sorted set that Redis stores as a list. Each operation on
/// such a list reads all of it. With the server's default of 128, intake costs a fifth more if many
/// destinations have some dozens of jobs each.
const LISTPACK_ENTRIES_MAX: &str = "16";

/// The longest path of a socket in its folder, in bytes. The system's limit is a little higher: 108
/// bytes on Linux, 104 on macOS.
const SOCKET_PATH_MAX: usize = 100;

/// How long a server may take to start, including the time to read its append-only file.
const START_MAX: Duration = Duration::from_secs(60);

/// How long to wait for the lock of a folder.
const LOCK_MAX: Duration = Duration::from_millis(500);

/// How long the server may take to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PrivateRedisError {
    /// The program is not installed.
    #[error(
        "there is no {0} on this machine; install one with `apt-get install redis-server` \
         (Debian, Ubuntu) or `brew install redis` (macOS), or set {PROGRAM_VARIABLE} to its path"
    )]
    NotInstalled(String),
    /// Another process uses the folder.
    #[error("another redeliver uses the folder {0}; stop it, or name another folder with --data")]
    InUse(PathBuf),
    /// The server ended during its start.
    #[error("redis-server ended during its start; the end of its log {log}: {tail}")]
    Ended {
        /// The path of its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The server did not answer in time.
    #[error("redis-server did not answer within {START_MAX:?}; see {0}")]
    Silent(PathBuf),
    /// An error of the system.
    #[error("cannot start redis-server in {0}: {1}")]
    Io(PathBuf, io::Error),
}

/// A running private server.
#[derive(Debug)]
pub struct PrivateRedis {
    child: Child,
    socket: PathBuf,
    // Both are kept for as long as the server runs. The lock shows other processes that the folder
    // is in use. The temporary folder is removed when it is dropped.
    _lock: File,
    _temporary: Option<TempDir>,
}

impl PrivateRedis {
    /// Starts a server with an append-only file in `folder`. The folder is created if it is
    /// missing. If a killed process has left a server running there, that server is stopped first.
    pub async fn durable(folder: &Path) -> Result<Self, PrivateRedisError> {
        let io = |err| PrivateRedisError::Io(folder.to_owned(), err);
        fs::create_dir_all(folder).map_err(io)?;
        let folder = folder.canonicalize().map_err(io)?;
        let persistence = ["--appendonly", "yes", "--appendfsync", "everysec"];
        Self::start(&folder, &persistence, None).await
    }

    /// Starts a server that stores nothing on disk.
    pub async fn volatile() -> Result<Self, PrivateRedisError> {
        let temporary = TempDir::with_prefix("redeliver-")
            .map_err(|err| PrivateRedisError::Io("/tmp".into(), err))?;
        let folder = temporary.path().to_owned();
        Self::start(&folder, &["--appendonly", "no"], Some(temporary)).await
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// Returns the process id of the server, if it is running.
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Stops the server with SHUTDOWN, so that all data are written.
    pub async fn stop(mut self) {
        // If the server does not stop in time, it is killed when this value is dropped.
        let _ = timeout(STOP_MAX, command(&self.socket, "SHUTDOWN")).await;
        let _ = timeout(STOP_MAX, self.child.wait()).await;
    }

    async fn start(
        folder: &Path,
        persistence: &[&str],
        temporary: Option<TempDir>,
    ) -> Result<Self, PrivateRedisError> {
        let io = |err| PrivateRedisError::Io(folder.to_owned(), err);
        let lock = File::create(folder.join("redis.lock")).map_err(io)?;
        take_lock(&lock).await.map_err(|err| match err {
            TryLockError::WouldBlock => PrivateRedisError::InUse(folder.to_owned()),
            TryLockError::Error(err) => io(err),
        })?;
        let mut socket = folder.join("redis.sock");
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            // The name depends only on the folder, so that a server that was left running is found.
            let name = format!(
                "redeliver-{:016x}.sock",
                xxh3_64(folder.as_os_str().as_encoded_bytes())
            );
            socket = env::temp_dir().join(name);
        }
        stop_left_behind(&socket).await;
        let log = folder.join("redis.log");
        let mut child =
            spawn(folder, &socket, &log, persistence).map_err(|err| match err.kind() {
                io::ErrorKind::NotFound => PrivateRedisError::NotInstalled(programs().join(" or ")),
                _ => io(err),
            })?;
        let deadline = Instant::now() + START_MAX;
        while !answers(&socket).await {
            if child.try_wait().map_err(io)?.is_some() {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let tail = text.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
                return Err(PrivateRedisError::Ended { log, tail });
            }
            if Instant::now() > deadline {
                return Err(PrivateRedisError::Silent(log));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self {
            child,
            socket,
            _lock: lock,
            _temporary: temporary,
        })
    }
}

/// Takes the lock of a folder. A lock that was just released can still be held for a moment:
/// another thread may be starting a process that has inherited the file, and closes it a little
/// later.
async fn take_lock(lock: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + LOCK_MAX;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await;
            }
            taken => return taken,
        }
    }
}

/// Returns the programs to try, in order of preference.
fn programs() -> Vec<String> {
    match env::var(PROGRAM_VARIABLE) {
        Ok(program) => vec![program],
        Err(_) => PROGRAMS.map(str::to_owned).into(),
    }
}

/// Returns the name and version of the server that would be started, for example "Redis 7.0.15".
/// `None` if no server is installed.
pub async fn version() -> Option<String> {
    for program in programs() {
        let Ok(output) = Command::new(program).arg("--version").output().await else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let (name, rest) = text.split_once(" server v=")?;
        return Some(format!("{name} {}", rest.split_whitespace().next()?));
    }
    None
}

fn spawn(folder: &Path, socket: &Path, log: &Path, persistence: &[&str]) -> io::Result<Child> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for program in programs() {
        let spawned = Command::new(program)
            .args([
                "--port",
                "0",
                "--unixsocketperm",
                "700",
                "--save",
                "",
                "--daemonize",
                "no",
            ])
            .args([
                "--zset-max-listpack-entries",
                LISTPACK_ENTRIES_MAX,
                "--maxmemory-policy",
                "noeviction",
            ])
            .arg("--unixsocket")
            .arg(socket)
            .arg("--dir")
            .arg(folder)
            .arg("--logfile")
            .arg(log)
            .args(persistence)
            // Its own process group: a Ctrl-C in the terminal must not reach the server, which is
            // needed until our last jobs are settled.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Err(err) if err.kind() == io::ErrorKind::NotFound => missing = err,
            other => return other,
        }
    }
    Err(missing)
}

/// Stops a server that still answers on this socket. The caller must hold the lock of the folder,
/// so no live process uses that server: the process that started it was killed.
async fn stop_left_behind(socket: &Path) {
    let deadline = Instant::now() + STOP_MAX;
    while answers(socket).await && Instant::now() < deadline {
        let _ = command(socket, "SHUTDOWN").await;
        sleep(Duration::from_millis(50)).await;
    }
    let _ = fs::remove_file(socket);
}

async fn answers(socket: &Path) -> bool {
    // A server that is still loading its file answers with an error: it is not ready.
    matches!(command(socket, "PING").await, Ok(answer) if answer.starts_with("+PONG"))
}

async fn command(socket: &Path, command: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream
        .write_all(format!("{command}\r\n").as_bytes())
        .await?;
    let mut answer = [0; 64];
    let length = timeout(Duration::from_secs(1), stream.read(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
