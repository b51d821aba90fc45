//! The faults: which server shapes have each of them, how likely it is, and what it may do to an
//! attempt.

use serde::{Deserialize, Serialize};

use crate::options::Shape;

/// How long a worker holds a lease.
pub(crate) const LEASE_MS: i64 = 4_000;

/// A process that is suspended for this long may have lost a lease: leases are extended every
/// second.
const LEASE_AT_RISK_MS: i64 = LEASE_MS - 1_500;

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// A process is killed with SIGKILL and restarted.
    Kill,
    /// A process is stopped with SIGTERM and restarted.
    Terminate,
    /// A process is suspended with SIGSTOP, and continues later.
    Freeze,
    /// All connections of a process to its server are cut.
    Cut,
    /// Every answer to a process comes late.
    Slow,
    /// The connections of a process stay open, but no data passes.
    Silent,
    /// Single requests of a process are lost, or their answers, or half of an answer.
    Torn,
    /// A server is killed with SIGKILL and restarted.
    ServerKill,
    /// A server is suspended with SIGSTOP, and continues later.
    ServerFreeze,
    /// An operator makes a replica the master.
    Failover,
    /// A server has no memory left.
    Full,
    /// A server forgets all scripts.
    Flush,
    /// A slot of the Cluster moves to another master.
    SlotMove,
    /// The clock of a server goes an hour ahead, and stays there.
    ClockAhead,
    /// The clock of a server goes back by an hour, and is corrected later.
    ClockBack,
    /// The folder for temporary files of a scheduler is full.
    DiskFull,
    /// A process may open no more files.
    NoDescriptors,
    /// The network has no route to a peer.
    NoRoute,
    /// The resolver refuses, fails or does not answer.
    Resolver,
}

impl Kind {
    /// All kinds, with their weights.
    const ALL: [(usize, Self); 19] = [
        (30, Self::Kill),
        (10, Self::Terminate),
        (8, Self::Freeze),
        (8, Self::Cut),
        (4, Self::Slow),
        (4, Self::Silent),
        (4, Self::Torn),
        (4, Self::ServerKill),
        (3, Self::ServerFreeze),
        (3, Self::Failover),
        (3, Self::Full),
        (4, Self::Flush),
        (6, Self::SlotMove),
        (2, Self::ClockAhead),
        (2, Self::ClockBack),
        (2, Self::DiskFull),
        (3, Self::NoDescriptors),
        (3, Self::NoRoute),
        (3, Self::Resolver),
    ];

    /// The kinds that a fleet of this shape can have, with their weights.
    pub(crate) fn of(shape: Shape) -> Vec<(usize, Self)> {
        Self::ALL
            .into_iter()
            .filter(|(_, kind)| kind.fits(shape))
            .collect()
    }

    fn fits(self, shape: Shape) -> bool {
        match self {
            Self::Slow | Self::Silent | Self::Torn => shape.has_links(),
            Self::Failover => matches!(shape, Shape::Sentinel | Shape::Cluster),
            Self::SlotMove => shape == Shape::Cluster,
            Self::ClockAhead | Self::ClockBack => shape.has_links(),
            _ => true,
        }
    }

    /// Whether it is a problem on our side, after which jobs wait for a minute.
    pub(crate) fn is_own_trouble(self) -> bool {
        matches!(self, Self::NoDescriptors | Self::NoRoute | Self::Resolver)
    }

    /// Whether it changes the clock of a server.
    pub(crate) fn sets_clock(self) -> bool {
        matches!(self, Self::ClockAhead | Self::ClockBack)
    }

    /// Whether it affects a server: its keys, its clock, or whether it answers.
    pub(crate) fn is_of_server(self) -> bool {
        matches!(
            self,
            Self::ServerKill
                | Self::ServerFreeze
                | Self::Failover
                | Self::Full
                | Self::Flush
                | Self::SlotMove
                | Self::ClockAhead
                | Self::ClockBack
        )
    }

    /// Whether it affects one process.
    pub(crate) fn is_of_process(self) -> bool {
        !self.is_of_server() && !matches!(self, Self::NoRoute | Self::Resolver)
    }

    /// The possible durations in milliseconds. One of them is drawn.
    pub(crate) fn spans_ms(self, shape: Shape) -> &'static [i64] {
        match self {
            Self::Freeze | Self::Silent => &[1_000, LEASE_MS + 2_000, LEASE_MS * 5 / 2],
            Self::ServerKill if shape.has_links() => &[200, 1_500],
            Self::ServerKill => &[200, 3_000, 6_000],
            Self::ServerFreeze => &[1_000, 3_000, 6_000],
            Self::Full | Self::ClockBack => &[1_000, 3_000, 6_000],
            Self::Slow
            | Self::Torn
            | Self::DiskFull
            | Self::NoDescriptors
            | Self::NoRoute
            | Self::Resolver => &[1_000, 3_000, 5_000],
            _ => &[0],
        }
    }

    /// Whether an attempt that was in flight during it may be repeated even if the peer has
    /// accepted its message. All other faults are no excuse: full memory, missing scripts, a moving
    /// slot or a slow link.
    pub(crate) fn may_repeat_attempt(self, lasted_ms: i64) -> bool {
        match self {
            Self::Kill
            | Self::ServerKill
            | Self::Failover
            | Self::ClockAhead
            | Self::ClockBack
            | Self::NoRoute => true,
            Self::Freeze | Self::Silent | Self::ServerFreeze => lasted_ms >= LEASE_AT_RISK_MS,
            _ => false,
        }
    }

    /// Whether servers of this shape may lose writes because of it.
    pub(crate) fn may_lose_writes(self, shape: Shape) -> bool {
        match self {
            Self::ServerKill | Self::Failover => shape.can_lose_writes(),
            Self::ServerFreeze => matches!(shape, Shape::Sentinel | Shape::Cluster),
            _ => false,
        }
    }

    /// The name in figures and documents.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Terminate => "terminate",
            Self::Freeze => "freeze",
            Self::Cut => "cut",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Torn => "torn",
            Self::ServerKill => "server-kill",
            Self::ServerFreeze => "server-freeze",
            Self::Failover => "failover",
            Self::Full => "full",
            Self::Flush => "flush",
            Self::SlotMove => "slot-move",
            Self::ClockAhead => "clock-ahead",
            Self::ClockBack => "clock-back",
            Self::DiskFull => "disk-full",
            Self::NoDescriptors => "no-descriptors",
            Self::NoRoute => "no-route",
            Self::Resolver => "resolver",
        }
    }
}
