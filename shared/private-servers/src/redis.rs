//! A Redis server of our own: for `redeliver dev`, the demo, benches and tests. It listens on a
//! Unix socket that only its user can open, and ends with the value that stands for it.

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

/// The variable that names the program to start, where it is to be another one than the first that
/// is installed.
pub const PROGRAM_VARIABLE: &str = "REDELIVER_REDIS_SERVER";

/// Programs that can serve, in order of preference.
pub const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// From how many entries on a sorted set is no longer a list that is walked through for each of
/// them. The server's own 128 makes taking in dearer by a fifth where many destinations have some
/// dozens of jobs each.
const LISTPACK_ENTRIES_MAX: &str = "16";

/// Where a socket's path would be longer than what the system takes (108 bytes on Linux, 104 on
/// macOS).
const SOCKET_PATH_MAX: usize = 100;

/// How long a server may take to start, reading its append-only file included.
const START_MAX: Duration = Duration::from_secs(60);

/// How long to wait for a folder that another process seems to use.
const LOCK_MAX: Duration = Duration::from_millis(500);

/// How long it may take to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PrivateRedisError {
    /// The program is not installed.
    #[error(
        "there is no {0} on this machine; install one with `apt-get install redis-server` (Debian, Ubuntu) or `brew \
         install redis` (macOS), or name it by {PROGRAM_VARIABLE}"
    )]
    NotInstalled(String),
    /// Another process uses the folder.
    #[error("another redeliver is running on {0}; stop it, or name another folder with --data")]
    InUse(PathBuf),
    /// It ended while it was starting.
    #[error("redis-server ended as it started; its last words, from {log}: {tail}")]
    Ended {
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// It did not answer in time.
    #[error("redis-server did not answer within {START_MAX:?}; see {0}")]
    Silent(PathBuf),
    /// The system said no.
    #[error("cannot start redis-server in {0}: {1}")]
    Io(PathBuf, io::Error),
}

/// A running server of our own.
#[derive(Debug)]
pub struct PrivateRedis {
    child: Child,
    socket: PathBuf,
    // Held for as long as the server runs: the lock tells others that the folder is in use, and the
    // temporary folder goes with it.
    _lock: File,
    _temporary: Option<TempDir>,
}

impl PrivateRedis {
    /// Starts a server that keeps an append-only file in `folder`, which is made where it is
    /// missing. A server that an earlier process left behind there is stopped first.
    pub async fn durable(folder: &Path) -> Result<Self, PrivateRedisError> {
        let io = |err| PrivateRedisError::Io(folder.to_owned(), err);
        fs::create_dir_all(folder).map_err(io)?;
        let folder = folder.canonicalize().map_err(io)?;
        let persistence = ["--appendonly", "yes", "--appendfsync", "everysec"];
        Self::start(&folder, &persistence, None).await
    }

    /// Starts a server that keeps nothing.
    pub async fn volatile() -> Result<Self, PrivateRedisError> {
        let temporary = TempDir::with_prefix("redeliver-")
            .map_err(|err| PrivateRedisError::Io("/tmp".into(), err))?;
        let folder = temporary.path().to_owned();
        Self::start(&folder, &["--appendonly", "no"], Some(temporary)).await
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// Its process id.
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Stops it in order, with everything written.
    pub async fn stop(mut self) {
        // A server that does not heed is ended as the value is dropped.
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
            // Always the same for one folder, so that a server that was left behind is found again.
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

/// Takes the lock of a folder. One that was just let go can still be held for a moment by a process
/// that is being started by another thread, until it has closed what it inherited.
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

/// The programs that a server of our own may be, in order of preference.
fn programs() -> Vec<String> {
    match env::var(PROGRAM_VARIABLE) {
        Ok(program) => vec![program],
        Err(_) => PROGRAMS.map(str::to_owned).into(),
    }
}

/// Name and version of the server that would be started, "Redis 7.0.15" say; nothing where there is
/// none.
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
            // A group of its own: the terminal's Ctrl-C is for us, and the server has to outlive
            // our last settles.
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

/// Whoever holds the folder's lock is alone, so a server that still answers has outlived a process
/// that was killed.
async fn stop_left_behind(socket: &Path) {
    let deadline = Instant::now() + STOP_MAX;
    while answers(socket).await && Instant::now() < deadline {
        let _ = command(socket, "SHUTDOWN").await;
        sleep(Duration::from_millis(50)).await;
    }
    let _ = fs::remove_file(socket);
}

async fn answers(socket: &Path) -> bool {
    // A server that is still loading its file answers with an error, and is not ready.
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
