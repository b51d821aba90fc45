//! Real Redis servers on loopback, in the forms that Redeliver supports: one server with TLS and
//! users, three sentinels, a Cluster. They end when their value is dropped, or when the test's
//! process ends in any way.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use private_servers::redis::{PROGRAM_VARIABLE, PROGRAMS};
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::faketime::FakeClock;
use crate::port::{TLS_BELOW, free_port};
use crate::wait::eventually;

/// A shell script that reads process ids from its pipe, and kills these processes when the pipe is
/// closed. That happens when the test's process ends, even if it is killed.
const GUARD: &str = "trap '' INT TERM HUP; ids=; while read -r id; do ids=\"$ids $id\"; done; \
                     kill -KILL $ids 2>/dev/null; rm -rf \"$1\"";

/// The directives of a node of a Cluster. A node that does not answer counts as failed after a
/// second.
const CLUSTER_NODE: [&str; 2] = ["cluster-enabled yes", "cluster-node-timeout 1000"];

/// The password of the sentinels.
pub const SENTINEL_PASSWORD: &str = "wachsam";

/// Returns the programs to run a test with, one after the other: all installed ones, or only the
/// one in [`PROGRAM_VARIABLE`].
///
/// # Panics
/// If none is installed.
pub fn programs() -> Vec<String> {
    let programs: Vec<String> = match env::var(PROGRAM_VARIABLE) {
        Ok(program) => vec![program],
        Err(_) => PROGRAMS
            .iter()
            .filter(|program| is_installed(program))
            .map(|program| (*program).to_owned())
            .collect(),
    };
    assert!(
        !programs.is_empty(),
        "install a server with `apt-get install redis-server`"
    );
    programs
}

fn is_installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// The servers of one test, in their own folder.
pub struct Servers {
    program: String,
    /// Their environment variables, in addition to those of the test.
    environment: Vec<(&'static str, OsString)>,
    folder: TempDir,
    /// The TLS directives except the port. Empty without TLS.
    tls: Vec<String>,
    children: Mutex<Vec<(u16, Child)>>,
    guard: Mutex<Child>,
}

impl Servers {
    /// An empty set of servers, of this program.
    pub fn new(program: &str) -> Self {
        let folder = TempDir::with_prefix("redeliver-servers-").expect("a folder can be made");
        let guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        Self {
            program: program.to_owned(),
            environment: Vec::new(),
            folder,
            tls: Vec::new(),
            children: Mutex::default(),
            guard: Mutex::new(guard),
        }
    }

    /// An empty set of Redis servers whose wall clock is `clock`. Valkey does not start with
    /// libfaketime.
    pub fn with_clock(clock: &FakeClock) -> Self {
        let mut servers = Self::new("redis-server");
        servers.environment = clock.environment();
        servers
    }

    /// An empty set of servers of this program with TLS. They use TLS among themselves, and clients
    /// use TLS on a separate port. Their authority is `ca.pem` in their folder.
    pub fn encrypted(program: &str) -> Self {
        let mut servers = Self::new(program);
        let made = Certificates::make(servers.folder());
        let files = [
            ("ca-cert", &made.authority),
            ("cert", &made.certificate),
            ("key", &made.key),
        ];
        let files = files.map(|(name, path)| format!("tls-{name}-file {}", path.display()));
        let rest = [
            "tls-auth-clients optional",
            "tls-replication yes",
            "tls-cluster yes",
        ]
        .map(str::to_owned);
        servers.tls = files.into_iter().chain(rest).collect();
        servers
    }

    /// Returns the port at which clients and other servers reach the server on `port`: its TLS
    /// port, if it has one. The harness itself uses `port`, without TLS.
    pub fn reached_at(&self, port: u16) -> u16 {
        if self.tls.is_empty() {
            port
        } else {
            port - TLS_BELOW
        }
    }

    /// A folder for files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a server on a free port with these directives, and waits until it answers. Returns
    /// the port.
    pub async fn start(&self, directives: &[&str]) -> u16 {
        let port = free_port();
        self.start_on(port, directives).await;
        port
    }

    /// Like [`Self::start`], but on this port, which may have been used before.
    pub async fn start_on(&self, port: u16, directives: &[&str]) {
        let own = format!("port {port}");
        let usual = [
            own.as_str(),
            "bind 127.0.0.1",
            "save \"\"",
            "enable-debug-command yes",
            "repl-diskless-sync-delay 0",
        ];
        let tls = self.tls_directives(port);
        let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
        self.spawn(port, &[&usual, directives, &tls].concat(), &[]);
        eventually("the server to answer", async || {
            self.cli(port, &["PING"]).filter(|answer| answer == "PONG")
        })
        .await;
    }

    fn tls_directives(&self, port: u16) -> Vec<String> {
        if self.tls.is_empty() {
            return Vec::new();
        }
        [
            vec![format!("tls-port {}", self.reached_at(port))],
            self.tls.clone(),
        ]
        .concat()
    }

    /// Starts a server with exactly these directives.
    pub fn spawn(&self, port: u16, directives: &[&str], arguments: &[&str]) {
        let folder = self.folder.path().join(port.to_string());
        fs::create_dir_all(&folder).expect("the folder can be written to");
        let file = folder.join("server.conf");
        let text = format!(
            "{}\ndir {}\nlogfile server.log\n",
            directives.join("\n"),
            folder.display()
        );
        fs::write(&file, text).expect("the folder can be written to");
        self.run(port, &file, arguments);
    }

    /// Starts the server on `port` again with its current configuration file, including what a
    /// sentinel has written into it. Does not wait until it answers.
    pub fn restart(&self, port: u16) {
        self.run(
            port,
            &self
                .folder
                .path()
                .join(port.to_string())
                .join("server.conf"),
            &[],
        );
    }

    /// Removes an incomplete transaction, cut off by a kill, from the end of the append-only file
    /// of the server on `port`, if there is such a file. Otherwise the first commands of the
    /// transaction stay in the file, and the server executes them at its second start from now.
    pub fn mend_append_only_file(&self, port: u16) {
        let folder = self.folder.path().join(port.to_string());
        let manifest = folder.join("appendonlydir/appendonly.aof.manifest");
        if !manifest.exists() {
            return;
        }
        let mut check = Command::new(self.program.replace("-server", "-check-aof"))
            .args(["--fix".as_ref(), manifest.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the check program is installed with the server");
        let mut answer = check.stdin.take().expect("stdin is a pipe");
        // If nothing has to be removed, the program asks nothing and may have ended by now.
        let _ = answer.write_all(b"y\n");
        drop(answer);
        check.wait().expect("it is our child process");
    }

    fn run(&self, port: u16, file: &Path, arguments: &[&str]) {
        let child = Command::new(&self.program)
            .arg(file)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|err| panic!("cannot start {}: {err}", self.program));
        let mut guard = self
            .guard
            .lock()
            .expect("no task panics while it holds this lock");
        let pipe = guard.stdin.as_mut().expect("the pipe is open until drop");
        writeln!(pipe, "{}", child.id()).expect("the guard reads");
        self.children
            .lock()
            .expect("no task panics while it holds this lock")
            .push((port, child));
    }

    /// Sends a command to the server on `port`. Returns its answer, or `None` if it does not
    /// answer.
    pub fn cli(&self, port: u16, command: &[&str]) -> Option<String> {
        self.cli_with(&["-p", &port.to_string()], command)
    }

    /// Like [`Self::cli`], with options for the command line client instead of a port.
    pub fn cli_with(&self, options: &[&str], command: &[&str]) -> Option<String> {
        let client = self.program.replace("-server", "-cli");
        let output = Command::new(client)
            .args(options)
            .args(command)
            .stderr(Stdio::null())
            .output();
        let output = output.expect("the client is installed with the server");
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Kills the server on `port`, like a crash.
    pub fn kill(&self, port: u16) {
        let mut children = self
            .children
            .lock()
            .expect("no task panics while it holds this lock");
        let place = children
            .iter()
            .position(|(of, _)| *of == port)
            .expect("the server was started here");
        let (_, mut child) = children.remove(place);
        child.kill().expect("it is our child process");
        child.wait().expect("it is our child process");
    }

    /// Sends a signal to the server on `port`, for example to stop it or to continue it.
    pub fn signal(&self, port: u16, signal: &str) {
        let children = self
            .children
            .lock()
            .expect("no task panics while it holds this lock");
        let (_, child) = children
            .iter()
            .find(|(of, _)| *of == port)
            .expect("the server was started here");
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .expect("there is a kill command");
        assert!(sent.success(), "cannot signal the server on port {port}");
    }

    /// Starts a replica of the server on `master`, and waits until it has all data.
    pub async fn start_replica(&self, master: u16, directives: &[&str]) -> u16 {
        let port = self
            .start(
                &[
                    directives,
                    &[&format!("replicaof 127.0.0.1 {}", self.reached_at(master))],
                ]
                .concat(),
            )
            .await;
        eventually("the replica to be in step", async || {
            self.is_linked(port).then_some(())
        })
        .await;
        port
    }

    /// Whether the replica on `port` is connected to its master.
    pub fn is_linked(&self, port: u16) -> bool {
        self.cli(port, &["INFO", "replication"])
            .is_some_and(|info| info.contains("master_link_status:up"))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Ok(guard) = self.guard.get_mut() {
            // The guard kills the servers now. Their process ids cannot be in use by other
            // processes yet, because nothing has waited for the servers.
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
        for (_, child) in self.children.get_mut().into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A master, a replica of it, and three sentinels that watch them.
pub struct Sentinel {
    /// All of them.
    pub servers: Servers,
    /// The ports of the sentinels.
    pub sentinels: [u16; 3],
    /// The port of the first master.
    pub master: u16,
    /// The port of its replica.
    pub replica: u16,
}

impl Sentinel {
    /// Starts all of them, and waits until each sentinel knows the others. The directives are for
    /// the master and the replica.
    pub async fn start(program: &str, directives: &[&str]) -> Self {
        Self::start_with(Servers::new(program), directives).await
    }

    /// Like [`Self::start`], but in this set of servers, of which none may be running yet.
    pub async fn start_with(servers: Servers, directives: &[&str]) -> Self {
        let master = servers.start(directives).await;
        let replica = servers.start_replica(master, directives).await;
        let sentinels = [free_port(), free_port(), free_port()];
        for port in sentinels {
            let own = format!("port {port}");
            let monitor = format!(
                "sentinel monitor mail 127.0.0.1 {} 2",
                servers.reached_at(master)
            );
            let limits = [
                "sentinel down-after-milliseconds mail 500",
                "sentinel failover-timeout mail 2000",
            ];
            let [required, sent] = ["requirepass", "sentinel sentinel-pass"]
                .map(|key| format!("{key} {SENTINEL_PASSWORD}"));
            let tls = servers.tls_directives(port);
            let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
            let directives = [
                &[own.as_str(), "bind 127.0.0.1", &monitor, &required, &sent],
                limits.as_slice(),
                &tls,
            ]
            .concat();
            servers.spawn(port, &directives, &["--sentinel"]);
        }
        let know_all = |port: u16| {
            let master =
                ask_sentinel(&servers, port, &["SENTINEL", "MASTER", "mail"]).unwrap_or_default();
            let value = |key| {
                master
                    .lines()
                    .skip_while(|line| *line != key)
                    .nth(1)
                    .map(str::to_owned)
            };
            value("num-other-sentinels").as_deref() == Some("2")
                && value("num-slaves").as_deref() == Some("1")
        };
        eventually("the sentinels to know each other", async || {
            sentinels.into_iter().all(know_all).then_some(())
        })
        .await;
        Self {
            servers,
            sentinels,
            master,
            replica,
        }
    }

    /// Returns the port of the master that the sentinels name. `None` if they do not agree.
    pub fn named_master(&self) -> Option<u16> {
        let ask = |port| {
            ask_sentinel(
                &self.servers,
                port,
                &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mail"],
            )
        };
        let named: Vec<u16> = self
            .sentinels
            .iter()
            .map(|port| ask(*port)?.lines().nth(1)?.parse().ok())
            .collect::<Option<_>>()?;
        named.iter().all(|port| *port == named[0]).then(|| named[0])
    }
}

fn ask_sentinel(servers: &Servers, port: u16, command: &[&str]) -> Option<String> {
    servers.cli_with(
        &[
            "-p",
            &port.to_string(),
            "--no-auth-warning",
            "-a",
            SENTINEL_PASSWORD,
        ],
        command,
    )
}

/// Three masters and three replicas in a Cluster.
pub struct Cluster {
    /// All of them.
    pub servers: Servers,
    /// Their ports. The first three were started as masters.
    pub ports: Vec<u16>,
}

impl Cluster {
    /// Starts the nodes with these directives, and waits until each of them knows the whole
    /// Cluster.
    pub async fn start(program: &str, directives: &[&str]) -> Self {
        Self::start_with(Servers::new(program), directives).await
    }

    /// Like [`Self::start`], but in this set of servers, of which none may be running yet.
    pub async fn start_with(servers: Servers, directives: &[&str]) -> Self {
        let mut ports = Vec::new();
        for _ in 0..6 {
            ports.push(servers.start(&[&CLUSTER_NODE, directives].concat()).await);
        }
        let nodes: Vec<String> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(nodes.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        servers
            .cli_with(&[], &create)
            .expect("the cluster can be created");
        let whole = |port: u16| {
            let info = servers.cli(port, &["CLUSTER", "INFO"]).unwrap_or_default();
            let nodes = servers.cli(port, &["CLUSTER", "NODES"]).unwrap_or_default();
            let replicas = nodes
                .lines()
                .filter(|line| line.contains("slave") && line.contains("connected"))
                .count();
            info.contains("cluster_state:ok") && replicas == 3
        };
        eventually("the cluster to be complete", async || {
            ports.iter().all(|port| whole(*port)).then_some(())
        })
        .await;
        let cluster = Self { servers, ports };
        eventually("the replicas to be in step", async || {
            let replicas = cluster
                .ports
                .iter()
                .filter(|port| !cluster.is_master(**port));
            replicas
                .clone()
                .all(|port| cluster.servers.is_linked(*port))
                .then_some(())
        })
        .await;
        cluster
    }

    /// Starts the node on `port` again, with these directives in addition to those of a node.
    pub async fn restart(&self, port: u16, directives: &[&str]) {
        self.servers
            .start_on(port, &[&CLUSTER_NODE, directives].concat())
            .await;
    }

    /// Whether the node on `port` is a master now.
    pub fn is_master(&self, port: u16) -> bool {
        self.servers
            .cli(port, &["ROLE"])
            .is_some_and(|role| role.starts_with("master"))
    }
}
