//! The network of a run. With namespaces of its own the run has addresses that it can take away and
//! folders that it can fill, harms nothing else on the machine, and leaves no process behind.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};

/// The program that makes namespaces, of util-linux.
const UNSHARE: &str = "unshare";

/// What is made for the run: its own network, mounts, and processes that end with it.
const NAMESPACES: [&str; 6] = [
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// How the run is kept apart from the machine.
#[derive(Clone, Debug)]
pub(crate) enum Isolation {
    /// It has namespaces of its own.
    Full,
    /// It has none, for this reason: faults that need them are left out.
    None(String),
}

/// Starts this program once more in namespaces of its own and waits for its end. An error says why
/// there can be none.
pub(crate) fn run_isolated() -> Result<ExitCode, String> {
    let mut arguments: Vec<&str> = Vec::new();
    if !is_root() {
        arguments.push("--map-root-user");
    }
    arguments.extend(NAMESPACES);
    let probe = Command::new(UNSHARE)
        .args(&arguments)
        .arg("true")
        .stdin(Stdio::null())
        .output();
    match probe {
        Err(err) => return Err(format!("{UNSHARE} cannot be run: {err}")),
        Ok(output) if !output.status.success() => {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(_) => {}
    }
    let program =
        env::current_exe().map_err(|err| format!("this program cannot be found: {err}"))?;
    let status = Command::new(UNSHARE)
        .args(&arguments)
        .arg(program)
        .args(env::args_os().skip(1))
        .arg("--isolated")
        .status()
        .map_err(|err| format!("{UNSHARE} cannot be run: {err}"))?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| code.try_into().ok())
            .unwrap_or(1),
    ))
}

fn is_root() -> bool {
    Path::new("/proc/self")
        .metadata()
        .is_ok_and(|metadata| metadata.uid() == 0)
}

/// The addresses of the peers.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) isolation: Isolation,
}

impl Network {
    /// Sets up loopback and the peers' addresses, if the run has a network of its own.
    pub(crate) fn prepare(isolation: Isolation, peers: usize) -> anyhow::Result<Self> {
        let network = Self { isolation };
        if network.is_own() {
            ip(&["link", "set", "lo", "up"])?;
            for peer in 0..peers {
                network.restore(peer)?;
            }
        }
        Ok(network)
    }

    /// Whether the run has namespaces of its own.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.isolation, Isolation::Full)
    }

    /// The address of a peer.
    pub(crate) fn peer(&self, number: usize) -> IpAddr {
        let last = number as u8 + 1;
        // An address of 127.0.0.0/8 can always be reached; another one only as long as it is ours.
        IpAddr::V4(if self.is_own() {
            Ipv4Addr::new(10, 99, 0, last)
        } else {
            Ipv4Addr::new(127, 99, 0, last)
        })
    }

    /// From now on nothing reaches this peer: the network has no route to it.
    pub(crate) fn take_away(&self, peer: usize) -> anyhow::Result<()> {
        ip(&[
            "address",
            "del",
            &format!("{}/32", self.peer(peer)),
            "dev",
            "lo",
        ])
    }

    /// The peer can be reached again.
    pub(crate) fn restore(&self, peer: usize) -> anyhow::Result<()> {
        ip(&[
            "address",
            "add",
            &format!("{}/32", self.peer(peer)),
            "dev",
            "lo",
        ])
    }
}

/// Makes `folder` a small file system of its own.
pub(crate) fn mount_small(folder: &Path) -> anyhow::Result<()> {
    run(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=1m",
            "tmpfs",
            &folder.to_string_lossy(),
        ],
    )
    .map(|_| ())
}

/// Lets a running process open no more than it has open now and `more` beside; `None`: as many as
/// it may.
pub(crate) fn limit_descriptors(process: u32, more: Option<usize>) -> anyhow::Result<()> {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits"))
        .context("the process is gone")?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .context("the system tells no limits")?;
    let hard = line
        .split_whitespace()
        .nth(4)
        .context("the system tells no hard limit")?;
    let open = std::fs::read_dir(format!("/proc/{process}/fd"))
        .context("the process is gone")?
        .count();
    let soft = more.map_or_else(|| hard.to_owned(), |more| (open + more).to_string());
    run(
        "prlimit",
        &[
            "--pid",
            &process.to_string(),
            &format!("--nofile={soft}:{hard}"),
        ],
    )
    .map(|_| ())
}

/// Cuts all connections of a process to these ports of loopback.
pub(crate) fn cut_connections(process: u32, ports: &[u16]) -> anyhow::Result<()> {
    let listed = run("ss", &["--tcp", "--numeric", "--processes", "--no-header"])?;
    let owner = format!("pid={process},");
    for line in listed.lines().filter(|line| line.contains(&owner)) {
        let places: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
        let [Some(own), Some(peer)] =
            [0, 1].map(|n| places.get(n).and_then(|place| place.rsplit_once(':')))
        else {
            continue;
        };
        if ports.iter().any(|port| port.to_string() == peer.1) {
            let (own, peer) = (format!(":{}", own.1), format!(":{}", peer.1));
            run(
                "ss",
                &["--tcp", "--kill", "sport", "=", &own, "dport", "=", &peer],
            )?;
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run("ip", arguments).map(|_| ())
}

/// Runs a program of the system and gives what it prints.
fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output
        .with_context(|| format!("{program} cannot be run; install util-linux and iproute2"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        errors.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
