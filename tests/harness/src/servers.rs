//! Real servers on loopback in the shapes that Redeliver is deployed over: one server with TLS and
//! users, a Sentinel trio, a Cluster. They end with the value that stands for them, and with the
//! test's process, however that ends.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use private_servers::redis::{PROGRAM_VARIABLE, PROGRAMS};
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::faketime::FakeClock;
use crate::wait::eventually;

/// Kills what it was told of when its pipe is closed: that happens when the test's process ends,
/// even where it is killed.
const GUARD: &str = "trap '' INT TERM HUP; ids=; while read -r id; do ids=\"$ids $id\"; done; \
                     kill -KILL $ids 2>/dev/null; rm -rf \"$1\"";

/// The directives of a Cluster's node, which is missed soon.
const CLUSTER_NODE: [&str; 2] = ["cluster-enabled yes", "cluster-node-timeout 1000"];

/// How far below a server's port it listens for TLS.
const TLS_BELOW: u16 = 8_000;

/// What the sentinels want to hear from whoever asks them.
pub const SENTINEL_PASSWORD: &str = "wachsam";

/// The programs to run a test against, one after the other: each that is installed, or the one that
/// is named instead.
///
/// # Panics
/// Where none is installed.
pub fn programs() -> Vec<String> {
    let programs: Vec<String> = match env::var(PROGRAM_VARIABLE) {
        Ok(program) => vec![program],
        Err(_) => PROGRAMS
            .iter()
            .filter(|program| is_there(program))
            .map(|program| (*program).to_owned())
            .collect(),
    };
    assert!(
        !programs.is_empty(),
        "install a server with `apt-get install redis-server`"
    );
    programs
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// Servers of one test, in a folder of their own.
pub struct Servers {
    program: String,
    /// What is in their environment beside that of the test.
    environment: Vec<(&'static str, OsString)>,
    folder: TempDir,
    /// The directives of servers that encrypt, beside the port.
    tls: Vec<String>,
    children: Mutex<Vec<(u16, Child)>>,
    guard: Mutex<Child>,
}

impl Servers {
    /// None yet, of this program.
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

    /// None yet, of Redis, whose wall clock is `clock`. Valkey does not start by libfaketime.
    pub fn by_clock(clock: &FakeClock) -> Self {
        let mut servers = Self::new("redis-server");
        servers.environment = clock.environment();
        servers
    }

    /// None yet, of this program, which talk with each other over TLS, and with others on a port of
    /// its own. Their authority is `ca.pem` in their folder.
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

    /// The port that clients and other servers reach the one on `port` at. The harness itself asks
    /// in the clear.
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

    /// Starts a server on a free port with these directives, and waits until it answers. Tells the
    /// port.
    pub async fn start(&self, directives: &[&str]) -> u16 {
        let port = free_port();
        self.start_on(port, directives).await;
        port
    }

    /// The same on this port, which may have been used before.
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
        eventually("the server answers", async || {
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

    /// Starts the server on `port` again with its configuration as it is: what a sentinel has
    /// written into it is kept. Does not wait until it answers.
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

    /// Takes a transaction that a kill cut off out of the append-only file on `port`, if there is
    /// such a file. Otherwise the server keeps the first commands of the transaction in the file,
    /// and executes them at its next start but one.
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
            .expect("it is installed with the server");
        let mut answer = check.stdin.take().expect("it is a pipe");
        // It asks nothing if there is nothing to take away, and may have ended by now.
        let _ = answer.write_all(b"y\n");
        drop(answer);
        check.wait().expect("it is ours");
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
            .unwrap_or_else(|err| panic!("{} cannot be started: {err}", self.program));
        let mut guard = self.guard.lock().expect("nobody panics with it");
        let pipe = guard.stdin.as_mut().expect("it is a pipe until we end");
        writeln!(pipe, "{}", child.id()).expect("the guard reads");
        self.children
            .lock()
            .expect("nobody panics with it")
            .push((port, child));
    }

    /// What the server on `port` answers to a command; nothing where it does not.
    pub fn cli(&self, port: u16, command: &[&str]) -> Option<String> {
        self.cli_with(&["-p", &port.to_string()], command)
    }

    /// The same, with options for the command line client.
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

    /// Ends the server on `port` as a crash would.
    pub fn kill(&self, port: u16) {
        let mut children = self.children.lock().expect("nobody panics with it");
        let place = children
            .iter()
            .position(|(of, _)| *of == port)
            .expect("it was started here");
        let (_, mut child) = children.remove(place);
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    /// Lets the server on `port` stand still, or go on.
    pub fn signal(&self, port: u16, signal: &str) {
        let children = self.children.lock().expect("nobody panics with it");
        let (_, child) = children
            .iter()
            .find(|(of, _)| *of == port)
            .expect("it was started here");
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .expect("there is kill");
        assert!(sent.success(), "it runs, and is ours");
    }

    /// Starts a replica of the server on `master`, and waits until it has all of it.
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
        eventually("the replica is in step", async || {
            self.is_linked(port).then_some(())
        })
        .await;
        port
    }

    /// Whether the replica on `port` hears its master.
    pub fn is_linked(&self, port: u16) -> bool {
        self.cli(port, &["INFO", "replication"])
            .is_some_and(|info| info.contains("master_link_status:up"))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Ok(guard) = self.guard.get_mut() {
            // It ends them now, and nothing else can have their numbers before they are waited for.
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
    /// Starts them, and waits until each sentinel knows all others. The directives are for master
    /// and replica.
    pub async fn start(program: &str, directives: &[&str]) -> Self {
        Self::start_with(Servers::new(program), directives).await
    }

    /// The same with servers of which none has been started.
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
            let [asked, told] = ["requirepass", "sentinel sentinel-pass"]
                .map(|key| format!("{key} {SENTINEL_PASSWORD}"));
            let tls = servers.tls_directives(port);
            let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
            let directives = [
                &[own.as_str(), "bind 127.0.0.1", &monitor, &asked, &told],
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
        eventually("the sentinels know each other", async || {
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

    /// The port of whom the sentinels name as master, where they agree.
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
    /// Starts them with these directives, and waits until all of them know the whole.
    pub async fn start(program: &str, directives: &[&str]) -> Self {
        Self::start_with(Servers::new(program), directives).await
    }

    /// The same with servers of which none has been started.
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
        eventually("the cluster is whole", async || {
            ports.iter().all(|port| whole(*port)).then_some(())
        })
        .await;
        let cluster = Self { servers, ports };
        eventually("the replicas are in step", async || {
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

    /// Starts the node on `port` again, with these directives beside those of a node.
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

/// A port that nobody listens on, below those that the system gives to whoever asks for any: a
/// Cluster's node listens on the port 10,000 above its own as well, and one that encrypts on one
/// below.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time begin at different places.
    let start = (std::process::id() % 800) as u16 * 10;
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(port) && is_free(port + 10_000) && is_free(port - TLS_BELOW) {
            return port;
        }
    }
}
