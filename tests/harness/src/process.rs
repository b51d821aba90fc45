//! The real program `redeliver`, run as a separate process.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::wait::eventually;

/// The file for the program's log.
const LOG: &str = "log";

/// The file for what the program prints.
const OUTPUT: &str = "output";

/// How many lines of the log are printed if a test fails.
const LINES_SHOWN: usize = 60;

/// A running `redeliver`. It is killed when this is dropped.
pub struct Redeliver {
    child: Child,
    folder: TempDir,
}

impl Redeliver {
    /// Starts `redeliver <command>` with this configuration.
    ///
    /// # Panics
    /// If the program has not been built.
    pub fn start(command: &str, config: &str) -> Self {
        Self::start_with(&[command], config)
    }

    /// Starts `redeliver` with these arguments and this configuration. It runs in its own folder,
    /// which is also its folder for temporary files. A scheduler closes its socket as soon as it is
    /// stopped.
    ///
    /// # Panics
    /// If the program has not been built.
    pub fn start_with(arguments: &[&str], config: &str) -> Self {
        Self::start_in(&[], arguments, config)
    }

    /// Like [`Self::start_with`], with these additional environment variables.
    ///
    /// # Panics
    /// If the program has not been built.
    pub fn start_in(environment: &[(&str, OsString)], arguments: &[&str], config: &str) -> Self {
        Self::start_by(&[], environment, arguments, config)
    }

    /// Like [`Self::start_in`], but started by another program that changes its limits or
    /// environment, for example `prlimit --nofile=96`.
    ///
    /// # Panics
    /// If the program has not been built.
    pub fn start_by(
        runner: &[&str],
        environment: &[(&str, OsString)],
        arguments: &[&str],
        config: &str,
    ) -> Self {
        let folder = TempDir::with_prefix("redeliver-test-").expect("a folder can be made");
        let file = folder.path().join("redeliver.toml");
        fs::write(&file, config).expect("the folder can be written to");
        let program = program();
        let mut words = runner.iter().map(OsStr::new).chain([program.as_os_str()]);
        let child = Command::new(words.next().expect("there is at least the program itself"))
            .args(words)
            .args(arguments)
            .arg("--config")
            .arg(file)
            .current_dir(folder.path())
            .env("TMPDIR", folder.path())
            .env("REDELIVER_SCHEDULER__DRAIN", "0s")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file_in(&folder, OUTPUT))
            .stderr(file_in(&folder, LOG))
            .kill_on_drop(true)
            .spawn()
            .expect("redeliver can be started");
        Self { child, folder }
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(LOG)).expect("the log was made at the start")
    }

    /// Returns what it has printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join(OUTPUT)).expect("the file was made at the start")
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it has ended.
    pub fn process_id(&self) -> u32 {
        self.child.id().expect("the process runs")
    }

    /// Kills it with SIGKILL, like a crash, and waits until it has ended.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the process runs");
    }

    /// Sends SIGTERM, and waits until it has ended by itself.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal("-TERM").await;
        self.child.wait().await.expect("it is our child process")
    }

    /// Sends it a signal.
    pub async fn signal(&self, signal: &str) {
        let id = self.process_id().to_string();
        let sent = Command::new("kill")
            .args([signal, &id])
            .status()
            .await
            .expect("there is a kill command");
        assert!(sent.success(), "cannot signal process {id}");
    }

    /// Freezes it with SIGSTOP, and waits until all its threads are stopped. SIGCONT makes it
    /// continue.
    pub async fn freeze(&self) {
        self.signal("-STOP").await;
        let id = self.process_id();
        eventually("the process to stop", async || is_stopped(id).then_some(())).await;
    }

    /// The folder that it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns its memory in bytes.
    pub async fn memory(&self) -> u64 {
        self.memory_of("VmRSS:").await
    }

    /// Returns its peak memory in bytes. If the system does not report that (macOS), returns its
    /// current memory.
    pub async fn peak_memory(&self) -> u64 {
        self.memory_of("VmHWM:").await
    }

    /// Returns a figure of `/proc/PID/status` in bytes, or its current memory if there is no
    /// `/proc`.
    async fn memory_of(&self, figure: &str) -> u64 {
        let id = self.process_id().to_string();
        let kibibytes = match fs::read_to_string(format!("/proc/{id}/status")) {
            Ok(status) => status
                .lines()
                .find_map(|line| line.strip_prefix(figure))
                .map(str::to_owned),
            Err(_) => {
                let ps = Command::new("ps")
                    .args(["-o", "rss=", "-p", &id])
                    .output()
                    .await
                    .expect("there is ps");
                String::from_utf8(ps.stdout).ok()
            }
        };
        let text = kibibytes.expect("the system reports the memory of its processes");
        let number = text
            .split_whitespace()
            .next()
            .and_then(|number| number.parse::<u64>().ok());
        number.expect("memory is a number of KiB") << 10
    }
}

impl Drop for Redeliver {
    /// If the test fails, prints the end of the program's log.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            eprintln!(
                "The last lines that `redeliver` logged:\n{}",
                last.join("\n")
            );
        }
    }
}

fn file_in(folder: &TempDir, name: &str) -> File {
    File::create(folder.path().join(name)).expect("the folder can be written to")
}

/// Whether all threads of a process are stopped. If the system has no `/proc` (macOS), whether the
/// process is stopped.
fn is_stopped(id: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else {
        let ps = std::process::Command::new("ps")
            .args(["-o", "state=", "-p", &id.to_string()])
            .output();
        return ps.is_ok_and(|ps| ps.stdout.starts_with(b"T"));
    };
    let state = |thread: PathBuf| fs::read_to_string(thread.join("stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses (proc(5)).
    let is_thread_stopped = |stat: &str| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    threads
        .flatten()
        .all(|thread| is_thread_stopped(&state(thread.path())))
}

/// Runs `redeliver` with these arguments to its end.
///
/// # Panics
/// If the program has not been built.
pub async fn run(arguments: &[&str]) -> Output {
    let run = Command::new(program())
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    run.await.expect("redeliver can be started")
}

/// Runs `redeliver` with these arguments and environment variables to its end, in this folder.
///
/// # Panics
/// If the program has not been built.
pub async fn run_in(folder: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let run = Command::new(program())
        .args(arguments)
        .current_dir(folder)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    run.await.expect("redeliver can be started")
}

/// Returns the path of the program. Cargo puts it into the parent of the running test's folder.
///
/// # Panics
/// If the program has not been built.
pub fn program() -> PathBuf {
    let test = env::current_exe().expect("the system reports the path of the test");
    let program = test
        .parent()
        .and_then(|folder| folder.parent())
        .expect("the test is in target/debug/deps");
    let program = program
        .join("redeliver")
        .with_extension(env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build` first, or `make test`",
        program.display()
    );
    program
}
