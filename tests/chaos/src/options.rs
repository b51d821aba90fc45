//! What a run is asked to do.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

/// Runs a fleet of real processes, breaks what can break, and checks every promise afterwards.
///
/// docs/chaos.md says what is broken, what is checked, and how to read a violation.
#[derive(Clone, Debug, Parser)]
#[command(max_term_width = 100)]
pub(crate) struct Options {
    /// Decides inputs and faults; the same seed gives the same ones in the same order [default: of
    /// the clock]
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// How long bounces come in and things break; draining comes after that
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

    /// Leave out what makes jobs wait for a minute, so that draining is short: relays in trouble,
    /// and trouble of our own
    #[arg(long)]
    pub(crate) quick: bool,

    /// How many seconds draining may take before what is left counts as lost
    #[arg(long, default_value_t = 150)]
    pub(crate) drain: u64,

    /// The program to run [default: redeliver, beside this one]
    #[arg(long)]
    pub(crate) program: Option<PathBuf>,

    /// Where everything is recorded [default: a new folder for temporary files]
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,

    /// Keep the records also if nothing was wrong
    #[arg(long)]
    pub(crate) keep: bool,

    /// Print the figures as a row of the table in docs/chaos.md as well
    #[arg(long)]
    pub(crate) table: bool,

    /// Run nothing: judge the records in this folder once more
    #[arg(long, value_name = "FOLDER")]
    pub(crate) judge: Option<PathBuf>,

    /// Set by the program itself, for its second start in namespaces of its own
    #[arg(long, hide = true)]
    pub(crate) isolated: bool,
}

/// The servers that the fleet runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub(crate) enum Shape {
    /// One server that appends every write to a file: a kill loses nothing
    Single,
    /// One server that only writes snapshots: a kill loses what came after the last one
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

    /// Whether some fault of this shape makes the servers forget writes that they had carried out.
    pub(crate) fn can_lose_writes(self) -> bool {
        self != Self::Single
    }

    /// Whether a write that was acknowledged may be lost by a fault of this shape.
    pub(crate) fn can_lose_acknowledged(self) -> bool {
        self == Self::Snapshot
    }

    /// Whether each process reaches the server through a link of its own, which can be broken.
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
