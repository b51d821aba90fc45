//! The options of a run.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

/// Runs a fleet of real processes, breaks what can break, and checks every promise afterwards.
///
/// docs/guides/chaos.md explains what is broken, what is checked, and how to read a violation.
#[derive(Clone, Debug, Parser)]
#[command(max_term_width = 100)]
pub(crate) struct Options {
    /// Decides inputs and faults: the same seed gives the same ones in the same order [default:
    /// from the clock]
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// How many minutes bounces are sent and faults occur; draining comes after that
    #[arg(long, default_value_t = 2.0)]
    pub(crate) minutes: f64,

    /// The servers that the fleet runs over
    #[arg(long, value_enum, default_value_t = Shape::Single)]
    pub(crate) shape: Shape,

    /// Bounces per second
    #[arg(long, default_value_t = 30)]
    pub(crate) rate: u32,

    /// Faults per minute
    #[arg(long, default_value_t = 60)]
    pub(crate) faults: u32,

    /// Scheduler processes
    #[arg(long, default_value_t = 2)]
    pub(crate) schedulers: usize,

    /// Worker processes
    #[arg(long, default_value_t = 3)]
    pub(crate) workers: usize,

    /// Leave out the faults that make jobs wait for a minute, so that draining is short: relays
    /// with problems, and problems on our side
    #[arg(long)]
    pub(crate) quick: bool,

    /// How many seconds draining may take; jobs that are left after that count as lost
    #[arg(long, default_value_t = 150)]
    pub(crate) drain: u64,

    /// The program to run [default: redeliver, next to this program]
    #[arg(long)]
    pub(crate) program: Option<PathBuf>,

    /// The folder for all records [default: a new folder for temporary files]
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,

    /// Keep the records even if nothing was wrong
    #[arg(long)]
    pub(crate) keep: bool,

    /// Also print the figures as a row of the table in docs/guides/chaos.md
    #[arg(long)]
    pub(crate) table: bool,

    /// Do not run anything: judge the records in this folder again
    #[arg(long, value_name = "FOLDER")]
    pub(crate) judge: Option<PathBuf>,

    /// Set by the program itself, for its second start in separate namespaces
    #[arg(long, hide = true)]
    pub(crate) isolated: bool,
}

/// The servers that the fleet runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub(crate) enum Shape {
    /// One server that appends every write to a file: a kill loses no writes
    Single,
    /// One server that only writes snapshots: a kill loses the writes after the last snapshot
    Snapshot,
    /// A master, a replica and three sentinels
    Sentinel,
    /// Three masters with a replica each
    Cluster,
}

impl Shape {
    /// The name used in options, folders and figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Snapshot => "snapshot",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }

    /// Whether a fault can make servers of this shape lose writes that they had carried out.
    pub(crate) fn can_lose_writes(self) -> bool {
        self != Self::Single
    }

    /// Whether a fault can make servers of this shape lose an acknowledged write.
    pub(crate) fn can_lose_acknowledged(self) -> bool {
        self == Self::Snapshot
    }

    /// Whether each process reaches the server through a separate link that can be broken.
    pub(crate) fn has_links(self) -> bool {
        matches!(self, Self::Single | Self::Snapshot)
    }

    /// `redis.durability` of the fleet.
    pub(crate) fn durability(self) -> &'static str {
        match self {
            Self::Single => "aof",
            Self::Snapshot => "memory",
            Self::Sentinel | Self::Cluster => "replicas:1",
        }
    }
}
