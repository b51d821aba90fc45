//! The network of a run. In separate namespaces the run can remove addresses and fill folders
//! without harm to the rest of the machine, and it leaves no process behind.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};

/// The program that makes namespaces, of util-linux.
const UNSHARE: &str = "unshare";

/// The namespaces of the run: network, mounts, and processes that end with the run.
const NAMESPACES: [&str; 6] = [
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// How the run is isolated from the machine.
#[derive(Clone, Debug)]
pub(crate) enum Isolation {
    /// The run has separate namespaces.
    Full,
    /// The run has no separate namespaces, for this reason. Faults that need them are left out.
    None(String),
}

/// Starts this program again in separate namespaces and waits for its end. The error is the reason
/// why there can be no separate namespaces.
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
    /// Sets up loopback and the addresses of the peers, if the run has a separate network.
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

    /// Whether the run has separate namespaces.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.isolation, Isolation::Full)
    }

    /// The address of a peer.
    pub(crate) fn peer(&self, number: usize) -> IpAddr {
        let last = number as u8 + 1;
        // An address in 127.0.0.0/8 can always be reached. An address in 10.99.0.0/24 can be
        // reached only while the loopback device has it.
        IpAddr::V4(if self.is_own() {
            Ipv4Addr::new(10, 99, 0, last)
        } else {
            Ipv4Addr::new(127, 99, 0, last)
        })
    }

    /// Removes the route to this peer.
    pub(crate) fn remove_route(&self, peer: usize) -> anyhow::Result<()> {
        ip(&[
            "address",
            "del",
            &format!("{}/32", self.peer(peer)),
            "dev",
            "lo",
        ])
    }

    /// Makes the peer reachable again.
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

/// Makes `folder` a separate, small file system.
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

/// Allows a running process to open only `more` files beyond those that it has open now. `None`
/// removes the limit.
pub(crate) fn limit_descriptors(process: u32, more: Option<usize>) -> anyhow::Result<()> {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits"))
        .context("the process is gone")?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .context("the system reports no limits")?;
    let hard = line
        .split_whitespace()
        .nth(4)
        .context("the system reports no hard limit")?;
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

/// Cuts all connections of a process to these ports on loopback.
pub(crate) fn cut_connections(process: u32, ports: &[u16]) -> anyhow::Result<()> {
    let listed = run("ss", &["--tcp", "--numeric", "--processes", "--no-header"])?;
    let owner = format!("pid={process},");
    for line in listed.lines().filter(|line| line.contains(&owner)) {
        let ends: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
        let [Some(own), Some(peer)] =
            [0, 1].map(|n| ends.get(n).and_then(|end| end.rsplit_once(':')))
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

/// Runs a program of the system and returns its output.
fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output =
        output.with_context(|| format!("cannot run {program}: install util-linux and iproute2"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        errors.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
