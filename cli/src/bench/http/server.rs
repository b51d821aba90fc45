//! Runs a scheduler as a separate process, and reads its CPU time and memory from the system.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::bench::rig::free_address;

/// How long the scheduler may take until it is ready.
const READY_MAX: Duration = Duration::from_secs(20);

/// How many clock ticks a second has. Linux reports CPU times in clock ticks (proc(5)).
const TICKS_PER_SECOND: u64 = 100;

/// A running scheduler. It is killed when this is dropped.
pub(super) struct Server {
    child: Child,
    id: u32,
    address: SocketAddr,
    _folder: TempDir,
}

impl Server {
    /// Starts this same program as a scheduler on loopback, with the default settings. Waits until
    /// it is ready.
    pub(super) async fn start(redis: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("redeliver-bench-")?;
        let config = folder.path().join("redeliver.toml");
        fs::write(
            &config,
            format!("[redis]\nurl = \"{redis}\"\n[log]\nfilter = \"warn\"\n"),
        )?;
        let address = free_address()?;
        let child = Command::new(std::env::current_exe()?)
            .args(["scheduler", "--listen", &address.to_string(), "--config"])
            .arg(&config)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // A Ctrl-C in the terminal must reach only this process, which then stops the
            // scheduler.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the bench's own scheduler")?;
        let id = child
            .id()
            .context("the bench's own scheduler ended at once")?;
        let server = Self {
            child,
            id,
            address,
            _folder: folder,
        };
        server.wait_until_ready().await?;
        Ok(server)
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        let ready = format!("http://{}/readyz", self.address);
        while !reqwest::get(&ready)
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            if Instant::now() > deadline {
                bail!("the bench's own scheduler was not ready within {READY_MAX:?}");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Returns the URL to post bounces to.
    pub(super) fn url(&self) -> String {
        format!("http://{}/v1/bounces", self.address)
    }

    /// Returns the CPU time that the scheduler has used so far, to a hundredth of a second.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let stat = self.read_proc("stat")?;
        // The name of the program is in parentheses and may contain spaces. After it, the 12th
        // field is user time and the 13th is system time.
        let (_, fields) = stat
            .rsplit_once(')')
            .context("/proc/PID/stat has another format than expected")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
    }

    /// Returns the scheduler's peak memory so far, in bytes.
    pub(super) fn peak_memory(&self) -> Result<u64> {
        let status = self.read_proc("status")?;
        let kibibytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok())
            .context("/proc/PID/status reports no peak memory (VmHWM)")?;
        Ok(kibibytes << 10)
    }

    /// Stops the scheduler with SIGTERM, and waits until it has ended.
    pub(super) async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.id.cast_signed()), Signal::SIGTERM)?;
        self.child.wait().await?;
        Ok(())
    }

    /// Returns what a file in `/proc` reports about the scheduler.
    fn read_proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.id);
        fs::read_to_string(&path)
            .with_context(|| format!("cannot read {path}; this mode needs Linux"))
    }
}
