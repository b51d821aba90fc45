//! A scheduler in a process of its own, with what the system knows of its CPU time and memory.

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

use crate::bench::smtp::free_address;

/// How long it may take to be ready.
const READY_MAX: Duration = Duration::from_secs(20);

/// Ticks of the clock in which Linux tells CPU times, per second (proc(5)).
const TICKS: u64 = 100;

/// A running scheduler. It is killed when this is dropped.
pub(super) struct Server {
    child: Child,
    id: u32,
    address: SocketAddr,
    _folder: TempDir,
}

impl Server {
    /// Starts the scheduler of this very program on loopback, with the defaults that ship, and
    /// waits until it is ready.
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
            // The terminal's Ctrl-C is for us.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the bench's own scheduler")?;
        let id = child
            .id()
            .context("the bench's own scheduler ended as it started")?;
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

    /// Where bounces are posted.
    pub(super) fn url(&self) -> String {
        format!("http://{}/v1/bounces", self.address)
    }

    /// The CPU time that it has used so far, to the hundredth of a second.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let stat = self.proc("stat")?;
        // The name, in parentheses, may have spaces. Behind it user time is the 12th field and
        // system time the 13th.
        let (_, fields) = stat
            .rsplit_once(')')
            .context("the system tells CPU times in another way")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Duration::from_millis(ticks * 1_000 / TICKS))
    }

    /// The most memory that it ever had, in bytes.
    pub(super) fn peak_memory(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = kibibytes.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Ok(number.context("the system does not tell how much memory a process had")? << 10)
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.id.cast_signed()), Signal::SIGTERM)?;
        self.child.wait().await?;
        Ok(())
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.id);
        fs::read_to_string(&path)
            .with_context(|| format!("cannot read {path}; this mode needs Linux"))
    }
}
