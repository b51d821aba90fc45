//! The processes of the fleet. Each is restarted again and again. Every life of a process has a
//! separate name, which peers see as the HELO name.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use harness::proxy::RedisProxy;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::config::Settings;
use crate::net;
use crate::record::{Ms, now_ms};

/// How long a process may take to end after SIGTERM: its grace period, and the rest of its work on
/// a busy machine.
const END_MAX: Duration = Duration::from_secs(25);

/// The kind of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Scheduler,
    Worker,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }
}

/// The settings that all processes share.
pub(crate) struct Surroundings {
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) durability: &'static str,
    pub(crate) peers: Vec<SocketAddr>,
    pub(crate) has_direct: bool,
    pub(crate) resolver: SocketAddr,
    pub(crate) authority: PathBuf,
    /// Whether the run has separate namespaces. Then all ports are free, and each process has a
    /// small disk for temporary files.
    pub(crate) isolated: bool,
}

/// A scheduler or a worker.
pub(crate) struct Process {
    pub(crate) role: Role,
    number: usize,
    surroundings: Arc<Surroundings>,
    servers: String,
    pub(crate) http: SocketAddr,
    pub(crate) lmtp: SocketAddr,
    /// Its link to the server, if it has a separate one.
    pub(crate) link: Option<RedisProxy>,
    life: Mutex<Life>,
}

struct Life {
    number: u32,
    child: Child,
    began: Ms,
}

impl Process {
    /// Starts the first life.
    pub(crate) async fn start(
        role: Role,
        number: usize,
        surroundings: &Arc<Surroundings>,
        servers: String,
        link: Option<RedisProxy>,
    ) -> anyhow::Result<Self> {
        let port = |offset: u16| SocketAddr::from(([127, 0, 0, 1], offset + number as u16));
        // A run without a separate network uses ports that are free.
        let [http, lmtp] = match role {
            Role::Scheduler if surroundings.isolated => [port(8_100), port(8_200)],
            Role::Worker if surroundings.isolated => [port(8_300), port(8_400)],
            _ => [0, 1].map(|_| SocketAddr::from(([127, 0, 0, 1], harness::port::free_port()))),
        };
        let surroundings = surroundings.clone();
        let temporary = surroundings
            .folder
            .join(format!("{}{number}.tmp", role.name()));
        fs::create_dir_all(&temporary)
            .with_context(|| format!("cannot create {}", temporary.display()))?;
        if surroundings.isolated {
            net::mount_small(&temporary)?;
        }
        let starter = Starter {
            role,
            number,
            surroundings: &surroundings,
            servers: &servers,
            http,
            lmtp,
        };
        let life = Mutex::new(starter.start(1)?);
        Ok(Self {
            role,
            number,
            surroundings,
            servers,
            http,
            lmtp,
            link,
            life,
        })
    }

    fn starter(&self) -> Starter<'_> {
        let Self {
            role,
            number,
            surroundings,
            servers,
            http,
            lmtp,
            ..
        } = self;
        Starter {
            role: *role,
            number: *number,
            surroundings,
            servers,
            http: *http,
            lmtp: *lmtp,
        }
    }

    /// The folder for the temporary files of the process.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.starter().temporary()
    }

    /// The name of its current life.
    pub(crate) async fn life(&self) -> String {
        life_name(self.role, self.number, self.life.lock().await.number)
    }

    /// Kills the process with SIGKILL and starts the next life.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let mut life = self.life.lock().await;
        life.child
            .kill()
            .await
            .context("cannot kill a process of the fleet")?;
        *life = self.starter().start(life.number + 1)?;
        Ok(())
    }

    /// Stops the process with SIGTERM and starts the next life. Returns how it ended, and how long
    /// it had lived. `None` if it did not end and had to be killed.
    pub(crate) async fn terminate(&self) -> anyhow::Result<(Option<ExitStatus>, Ms)> {
        let mut life = self.life.lock().await;
        let age = now_ms() - life.began;
        let status = life.end().await?;
        *life = self.starter().start(life.number + 1)?;
        Ok((status, age))
    }

    /// Stops the process with SIGTERM for good.
    pub(crate) async fn stop(&self) -> anyhow::Result<Option<ExitStatus>> {
        self.life.lock().await.end().await
    }

    /// Sends a signal to the process.
    pub(crate) async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        self.life.lock().await.signal(signal).await
    }

    /// Unmounts the folder for its temporary files, so that the folder can be removed. The process
    /// must have ended.
    pub(crate) async fn unmount(&self) -> anyhow::Result<()> {
        if !self.surroundings.isolated {
            return Ok(());
        }
        let folder = self.temporary();
        let output = Command::new("umount").arg(&folder).output().await;
        let output = output.context("cannot run umount: install util-linux")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let folder = folder.display();
        anyhow::ensure!(
            output.status.success(),
            "umount {folder} failed: {}",
            errors.trim()
        );
        Ok(())
    }

    /// The process id, while the process runs.
    pub(crate) async fn process_id(&self) -> Option<u32> {
        self.life.lock().await.child.id()
    }

    /// Starts the next life if this one has ended by itself. Returns how it ended.
    pub(crate) async fn restart_if_ended(&self) -> anyhow::Result<Option<(String, ExitStatus)>> {
        let mut life = self.life.lock().await;
        let Some(status) = life.child.try_wait()? else {
            return Ok(None);
        };
        let name = life_name(self.role, self.number, life.number);
        *life = self.starter().start(life.number + 1)?;
        Ok(Some((name, status)))
    }

    /// The logs of all its lives.
    pub(crate) fn log(&self) -> anyhow::Result<String> {
        let file = self.starter().log();
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The name of a life, which is its HELO name.
fn life_name(role: Role, number: usize, life: u32) -> String {
    format!("{}{number}-{life}.chaos.test", role.name())
}

impl Life {
    async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let id = self
            .child
            .id()
            .context("a process of the fleet has ended")?
            .to_string();
        let status = Command::new("kill")
            .args([signal, &id])
            .status()
            .await
            .context("there is no kill command")?;
        anyhow::ensure!(status.success(), "kill {signal} {id} failed");
        Ok(())
    }

    async fn end(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.child.id().is_some() {
            self.signal("-TERM").await?;
        }
        if let Ok(status) = timeout(END_MAX, self.child.wait()).await {
            return Ok(Some(status?));
        }
        self.child.kill().await?;
        Ok(None)
    }
}

/// The parts that are needed to start a life.
struct Starter<'a> {
    role: Role,
    number: usize,
    surroundings: &'a Surroundings,
    servers: &'a str,
    http: SocketAddr,
    lmtp: SocketAddr,
}

impl Starter<'_> {
    fn file(&self, extension: &str) -> PathBuf {
        self.surroundings
            .folder
            .join(format!("{}{}.{extension}", self.role.name(), self.number))
    }

    fn log(&self) -> PathBuf {
        self.file("log")
    }

    fn temporary(&self) -> PathBuf {
        self.file("tmp")
    }

    fn start(&self, life: u32) -> anyhow::Result<Life> {
        let Surroundings {
            program,
            folder,
            durability,
            peers,
            has_direct,
            resolver,
            authority,
            ..
        } = self.surroundings;
        let policy = policy_file(folder);
        let settings = Settings {
            servers: self.servers,
            durability,
            http: self.http,
            lmtp: self.lmtp,
            life: &life_name(self.role, self.number, life),
            peers,
            has_direct: *has_direct,
            resolver: *resolver,
            authority: &authority.to_string_lossy(),
            policy: &policy.to_string_lossy(),
        };
        let config = self.file("toml");
        fs::write(&config, settings.text())
            .with_context(|| format!("cannot write {}", config.display()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .context("cannot open a log")?;
        let child = Command::new(program)
            .arg(self.role.name())
            .arg("--config")
            .arg(&config)
            .current_dir(folder)
            .env("TMPDIR", self.temporary())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Life {
            number: life,
            child,
            began: now_ms(),
        })
    }
}

/// The path of the policy file.
pub(crate) fn policy_file(folder: &Path) -> PathBuf {
    folder.join("policy.toml")
}
