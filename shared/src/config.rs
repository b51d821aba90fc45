//! The configuration: every key, read from the defaults, a file, and the environment, in this order. All faults are
//! reported at once.

use std::env;
use std::mem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::pace::{DestinationRule, Pace};
use placement::providers::Providers;
use policy::table::Table as PolicyTable;
use store::handle::Limits;
use store::places::PlaceBounds;
use typed_toml::fault::{SettingsFault, SettingsFaults};

mod access;
mod connections;
mod content;
mod hooks;
mod hosts;
mod names;
mod open_files;
mod read;
mod redis;
mod returned;
mod senders;
mod smtp;
mod stream;

pub use access::Access;
pub use connections::Connections;
pub use content::Content;
pub use hooks::{Hook, Hooks, Service};
pub use hosts::{HostRule, NotAHostRule};
pub use redis::Redis;
pub use returned::{Lmtp, Returned};
pub use senders::{CommandSettings, HttpSettings, PLACEHOLDERS};
pub use smtp::{AfterDot, MxSettings, Notify, SessionSettings, SmtpLogin, SmtpSettings, SmtpTimeouts, TlsMode};
pub use stream::Stream;
pub use typed_toml::secret::Secret;

/// The defaults' text: reference, documentation and data in one.
pub const DEFAULT: &str = include_str!("config/default.toml");

const ENVIRONMENT: &str = "environment";

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

/// `[log]`
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Whether lines are JSON.
    pub json: bool,
    /// Which lines are written.
    pub filter: String,
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

/// `[[route]]`: one way out.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// What sends.
    pub sender: SenderSettings,
    /// How long a message that a relay took waits for a bounce before it counts as delivered; zero: it counts at once.
    pub confirm: Duration,
}

/// The settings of a sender.
#[derive(Clone, Debug)]
pub enum SenderSettings {
    /// Says what it would send.
    Log,
    /// Hands mail to a relay.
    Smtp(SmtpSettings),
    /// Takes mail to the recipients' own mail hosts.
    Mx(MxSettings),
    /// Asks the platform, over HTTP.
    Http(Box<HttpSettings>),
    /// Runs a program.
    Command(CommandSettings),
}

impl Placement {
    /// The bounds that the store keeps.
    pub fn bounds(&self) -> PlaceBounds {
        PlaceBounds { kept_max: self.kept_max, cached_max: self.cached_max }
    }
}

impl Config {
    /// The defaults alone.
    pub fn embedded() -> Self {
        Self::from_layers(&[("default.toml", DEFAULT)], &[]).expect("the tests read the defaults")
    }

    /// The defaults, then the file where one is named, then the environment's `REDELIVER_SECTION__KEY` variables.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsFaults> {
        // Of the others' variables, some may be no text at all.
        let variables: Vec<(String, String)> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let Some(path) = file else { return Self::from_layers(&[("default.toml", DEFAULT)], &variables) };
        let name = path.display().to_string();
        let text = typed_toml::files::read_text(path).map_err(|why| {
            let text = format!("{why}; name another file with --config or REDELIVER_CONFIG");
            SettingsFaults(vec![SettingsFault { file: name.clone(), key: "file".to_owned(), text }])
        })?;
        let mut config = Self::from_layers(&[("default.toml", DEFAULT), (&name, &text)], &variables)?;
        // A path in a file is meant from where the file is.
        if let (Some(policy), Some(folder)) = (&mut config.policy_file, path.parent()) {
            *policy = folder.join(&*policy);
        }
        if let (Some(tokens), Some(folder)) = (&mut config.access.tokens_file, path.parent()) {
            *tokens = folder.join(&*tokens);
        }
        Ok(config)
    }

    /// The policy table in force: the default one, with the rows of `policy.file` over it.
    pub fn policy(&self) -> Result<std::sync::Arc<PolicyTable>, SettingsFaults> {
        let Some(path) = &self.policy_file else { return Ok(PolicyTable::embedded()) };
        let name = path.display().to_string();
        let text = typed_toml::files::read_text(path).map_err(|text| {
            SettingsFaults(vec![SettingsFault { file: name.clone(), key: "policy.file".to_owned(), text }])
        })?;
        PolicyTable::with_file(&name, &text).map(Into::into)
    }

    /// The bounds that the store keeps, by this configuration and a policy table.
    pub fn limits(&self, table: &PolicyTable) -> Limits {
        Limits {
            max_messages: self.job.max_messages,
            record_max: self.job.record_max,
            unavailable_for: table.unavailable_for,
            unavailable_max: table.unavailable_max,
            strikes: table.strikes,
            max_lapses: self.job.max_lapses,
            pace: self.pace,
        }
    }

    fn from_layers(files: &[(&str, &str)], variables: &[(String, String)]) -> Result<Self, SettingsFaults> {
        let mut faults = Vec::new();
        let mut config = Self { providers: Providers::embedded(), ..Self::default() };
        let mut built_in = Vec::new();
        for (n, (file, text)) in files.iter().enumerate() {
            match toml::from_str(text) {
                Ok(table) => config.read(file, &table, &mut faults),
                Err(err) => faults.push(SettingsFault::syntax(file, text, &err)),
            }
            if n == 0 {
                built_in = mem::take(&mut config.routes);
            }
        }
        config.read(ENVIRONMENT, &read::from_variables(variables), &mut faults);
        // The route that ships only logs mail: where another one is the default, no message is to get there by its name.
        let is_wanted = |route: &Route| {
            route.name == config.worker.route && !config.routes.iter().any(|known| known.name == route.name)
        };
        built_in.retain(is_wanted);
        config.routes.splice(0..0, built_in);
        if faults.is_empty() {
            config.redis.check(&mut faults);
            config.hooks.check(&mut faults);
            read::pace::check_windows(&config.pace, &mut faults);
            senders::check_http_hosts(&config.worker.http_hosts, &config.routes, &mut faults);
        }
        if let Some((key, text)) = config.verp.fault().filter(|_| faults.is_empty()) {
            faults.push(SettingsFault { file: "all files".to_owned(), key: key.to_owned(), text: text.to_owned() });
        }
        if faults.is_empty() && config.job.inline_max > config.job.record_max {
            let text = "is larger than job.record_max, so that no job could hold such a message".to_owned();
            faults.push(SettingsFault { file: "all files".to_owned(), key: "job.inline_max".to_owned(), text });
        }
        if faults.is_empty() && !config.routes.iter().any(|route| route.name == config.worker.route) {
            let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
            let text = format!("\"{}\" is not a route; there are: {}", config.worker.route, names.join(", "));
            faults.push(SettingsFault { file: "all files".to_owned(), key: "worker.route".to_owned(), text });
        }
        if faults.is_empty() { Ok(config) } else { Err(SettingsFaults(faults)) }
    }
}

#[cfg(test)]
mod tests;
