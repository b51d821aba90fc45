//! What is configured, section by section.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domain::pace::{DestinationRule, Pace};
use placement::providers::Providers;
use senders::settings::route::Route;
use store::places::PlaceBounds;
use telemetry::log::Log;
use typed_toml::hosts::HostRule;

use crate::access::Access;
use crate::connections::Connections;
use crate::content::Content;
use crate::hooks::Hooks;
use crate::redis::Redis;
use crate::returned::{Lmtp, Returned};
use crate::stream::Stream;

/// The whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[redis]`
    pub redis: Redis,
    /// `[scheduler]`
    pub scheduler: Scheduler,
    /// `[access]`
    pub access: Access,
    /// `[intake.hooks]`
    pub hooks: Hooks,
    /// `[job]`
    pub job: Job,
    /// `[worker]`
    pub worker: Worker,
    /// `[pace]` and `[breaker]`
    pub pace: Pace,
    /// `[[destination]]`
    pub destinations: Vec<DestinationRule>,
    /// `[content]`
    pub content: Content,
    /// `[policy]` file
    pub policy_file: Option<PathBuf>,
    /// `[journal]` keep
    pub journal_keep: Duration,
    /// `[upkeep]`
    pub upkeep: Upkeep,
    /// `[log]`
    pub log: Log,
    /// `[placement]`
    pub placement: Placement,
    /// `[verp]`
    pub verp: Returned,
    /// `[intake.lmtp]`
    pub lmtp: Lmtp,
    /// `[intake.stream]`
    pub stream: Stream,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[[provider]]`, over those that ship.
    pub providers: Providers,
}

/// `[scheduler]`
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    /// Where it listens.
    pub listen: Option<SocketAddr>,
    /// Bytes of a request that is one document.
    pub body_max: usize,
    /// Bytes of one line of NDJSON.
    pub line_max: usize,
    /// Bounces that are taken in together.
    pub batch: usize,
    /// Batches of NDJSON under way at once, of all requests together.
    pub batches: usize,
    /// Bytes of answers kept in memory.
    pub answers_in_memory: usize,
    /// Bytes of answers kept in temporary files, of all requests together.
    pub answers_max: usize,
    /// Bounces of one document.
    pub items_max: usize,
    /// How long a request may stand still.
    pub idle_max: Duration,
    /// How long a complaint waits for a worker to stop sending to its address.
    pub suppress_timeout: Duration,
    /// How long requests under way may go on after SIGTERM.
    pub grace: Duration,
    /// How many connections it has, and how patient it is with them.
    pub connections: Connections,
}

/// `[job]`
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Messages that a job holds at most.
    pub max_messages: usize,
    /// Bytes of its record, content included.
    pub record_max: usize,
    /// Bytes of one message's inline content.
    pub inline_max: usize,
    /// Lapses in a row that put it into quarantine.
    pub max_lapses: u32,
}

/// `[worker]`
#[derive(Clone, Debug, Default)]
pub struct Worker {
    /// Attempts under way at once.
    pub concurrency: usize,
    /// SMTP connections of all routes together, idle ones included.
    pub connections_max: usize,
    /// Jobs per claim.
    pub batch: usize,
    /// Jobs of one destination per claim.
    pub share: usize,
    /// How long a lease lasts before it has to be lengthened.
    pub lease: Duration,
    /// How long an idle worker sleeps at most, for the shards that are its own.
    pub poll_max: Duration,
    /// How often it says that it is alive.
    pub heartbeat: Duration,
    /// How long a finished attempt waits for others.
    pub settle_linger: Duration,
    /// The share of the attempts at once that those at unproven destinations, and those that wait
    /// long for an answer, may have together.
    pub unproven_share: f64,
    /// How long a host may be silent until its attempt counts as waiting long.
    pub patience: Duration,
    /// How long one attempt may take, with all messages that follow its probe.
    pub attempt_max: Duration,
    /// How long attempts under way may go on after SIGTERM.
    pub grace: Duration,
    /// The route of messages that name none.
    pub route: String,
    /// The hosts that http routes may post to. None: wherever their URLs say.
    pub http_hosts: Vec<HostRule>,
}

/// `[upkeep]`: a cron expression per task.
#[derive(Clone, Debug, Default)]
pub struct Upkeep {
    /// Lifting `unavailable` where its time is over.
    pub reinstate: String,
    /// Forgetting old events.
    pub trim_journal: String,
    /// Forgetting old deliveries.
    pub trim_delivered: String,
    /// Checking the settings of the servers.
    pub check_servers: String,
    /// Putting right what should never be wrong.
    pub repair: String,
}

/// `[placement]`
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Whether domains are grouped by their mail hosts.
    pub mx: bool,
    /// Which DNS servers are asked; none: those of the system.
    pub nameservers: Vec<SocketAddr>,
    /// How long all lookups of one batch may take.
    pub timeout: Duration,
    /// Lookups under way at once.
    pub lookups_max: usize,
    /// Placements that Redis keeps.
    pub kept_max: u64,
    /// Placements that a process has in memory.
    pub cached_max: usize,
}

impl Placement {
    /// The bounds that the store keeps.
    pub fn bounds(&self) -> PlaceBounds {
        PlaceBounds {
            kept_max: self.kept_max,
            cached_max: self.cached_max,
        }
    }
}
