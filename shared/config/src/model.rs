//! The whole configuration, section by section.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domain::pace::{DestinationRule, Pace};
use placement::providers::Providers;
use senders::settings::route::Route;
use store::places::PlaceBounds;
use telemetry::log::Log;
use telemetry::settings::Settings;
use typed_toml::hosts::HostRule;

use crate::access::Access;
use crate::cli::Cli;
use crate::connections::Connections;
use crate::content::Content;
use crate::hooks::Hooks;
use crate::lmtp::Lmtp;
use crate::redis::Redis;
use crate::return_paths::ReturnPaths;
use crate::stream::Stream;
use crate::telemetry::Privacy;

/// The whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[redis]`
    pub redis: Redis,
    /// `[scheduler]`
    pub scheduler: Scheduler,
    /// `[access]`
    pub access: Access,
    /// `[cli]`
    pub cli: Cli,
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
    /// `[policy]`
    pub policy: Policy,
    /// `[journal]`
    pub journal: Journal,
    /// `[upkeep]`
    pub upkeep: Upkeep,
    /// `[log]`
    pub log: Log,
    /// `[telemetry]`
    pub telemetry: Settings,
    /// `[privacy]`
    pub privacy: Privacy,
    /// `[placement]`
    pub placement: Placement,
    /// `[verp]`
    pub verp: ReturnPaths,
    /// `[intake.lmtp]`
    pub lmtp: Lmtp,
    /// Whether the mail that a report returns is used as content.
    pub content_from_dsn: bool,
    /// `[intake.stream]`
    pub stream: Stream,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[[provider]]`, in addition to the built-in ones.
    pub providers: Providers,
}

/// `[policy]`
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The file whose rows replace built-in rows, or are added to them.
    pub file: Option<PathBuf>,
}

/// `[journal]`
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// How long events are kept.
    pub keep: Duration,
}

/// `[scheduler]`
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    /// The address that it listens on.
    pub listen: Option<SocketAddr>,
    /// The maximum size of a request with one document, in bytes.
    pub body_max: usize,
    /// The maximum size of one line of NDJSON, in bytes.
    pub line_max: usize,
    /// How many bounces are processed together.
    pub batch: usize,
    /// How many batches of NDJSON run at once, for all requests together.
    pub batches: usize,
    /// How many bytes of answers one request keeps in memory.
    pub answers_in_memory: usize,
    /// How many bytes of answers are kept in temporary files, for all requests together.
    pub answers_max: usize,
    /// How many bounces one document may contain.
    pub items_max: usize,
    /// How long a client may send or read nothing during a request.
    pub idle_max: Duration,
    /// How long a complaint waits for a worker to stop sending to its address.
    pub suppress_timeout: Duration,
    /// How long it takes new requests after SIGTERM, although it is not ready any more.
    pub drain: Duration,
    /// How long requests that are running may continue after that.
    pub grace: Duration,
    /// The limits and timeouts of its connections.
    pub connections: Connections,
}

/// `[job]`
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// How many messages a job holds at most.
    pub max_messages: usize,
    /// The maximum size of a job's record, including content, in bytes.
    pub record_max: usize,
    /// The maximum size of one message's inline content, in bytes.
    pub inline_max: usize,
    /// How many lapses in a row put a job into quarantine.
    pub max_lapses: u32,
}

/// `[worker]`
#[derive(Clone, Debug, Default)]
pub struct Worker {
    /// How many attempts run at once. At least 1 once the configuration is loaded.
    pub concurrency: usize,
    /// How many SMTP connections all routes have together, including idle ones.
    pub connections_max: usize,
    /// Jobs per claim.
    pub batch: usize,
    /// Jobs of one destination per claim.
    pub share: usize,
    /// How long a lease lasts before it has to be extended.
    pub lease: Duration,
    /// How long an idle worker waits at most before it checks its own shards again.
    pub poll_max: Duration,
    /// How often it sends a heartbeat.
    pub heartbeat: Duration,
    /// How long a finished attempt waits for others, to settle them together.
    pub settle_linger: Duration,
    /// The share of `concurrency` for two kinds of attempts together: those at unproven
    /// destinations, and those that wait long for an answer.
    pub unproven_share: f64,
    /// How long a host may be silent until its attempt counts as waiting long.
    pub patience: Duration,
    /// How long one attempt may take, including all messages that follow the first one (the probe).
    pub attempt_max: Duration,
    /// How long attempts that are running may continue after SIGTERM.
    pub grace: Duration,
    /// The route of messages that name none.
    pub route: String,
    /// The hosts that http routes may post to. If empty, all hosts are allowed.
    pub http_hosts: Vec<HostRule>,
    /// The address on which it answers health checks and requests for metrics, if it does.
    pub listen: Option<SocketAddr>,
}

/// `[upkeep]`: a cron expression per task.
#[derive(Clone, Debug, Default)]
pub struct Upkeep {
    /// When addresses whose `unavailable` time is over become active again.
    pub reinstate: String,
    /// When old events are deleted.
    pub trim_journal: String,
    /// When old deliveries are deleted.
    pub trim_delivered: String,
    /// When the settings of the Redis servers are checked.
    pub check_servers: String,
    /// When all jobs are checked and inconsistencies are repaired.
    pub repair: String,
}

/// `[placement]`
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Whether domains are grouped by their mail hosts.
    pub mx: bool,
    /// The DNS servers to use. If empty, those of the system are used.
    pub nameservers: Vec<SocketAddr>,
    /// How long the lookup of one domain may take, after its turn has come.
    pub timeout: Duration,
    /// How many lookups run at once at most.
    pub lookups_max: usize,
    /// How many placements Redis keeps.
    pub kept_max: u64,
    /// How many placements a process keeps in memory.
    pub cached_max: usize,
}

impl Placement {
    /// Returns the limits on placements that the store enforces.
    pub fn bounds(&self) -> PlaceBounds {
        PlaceBounds {
            kept_max: self.kept_max,
            cached_max: self.cached_max,
        }
    }
}
