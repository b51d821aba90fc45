//! Functions that commands share: they read the configuration, open the store, print, and handle
//! the signals that stop a command.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use config::model::Config;
use domain::clock::Clock;
use policy::table::Table;
use store::connection::pool::Connections;
use store::error::StoreError;
use store::handle::Store;
use system::limiter::left_out_of_outages;
use system::open_files;
use telemetry::Lost;
use telemetry::endpoint::Place;
use telemetry::log;
use telemetry::metrics::Metrics;
use telemetry::pipeline::{Pipeline, Process};
use telemetry::spans::Tracing;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The configuration file that is read if no other is named and this one exists.
const DEFAULT_FILE: &str = "redeliver.toml";

/// The pause between two attempts to reach Redis at the start.
const START_PAUSE: Duration = Duration::from_secs(1);

/// How often a process that waits for Redis at the start logs that it waits.
const WAIT_LOGGED_EVERY: Duration = Duration::from_secs(30);

/// How often it is checked whether lines of the log were left out and none followed.
const LEFT_OUT_CHECKED_EVERY: Duration = Duration::from_secs(10);

/// Returns the configuration file to read: the given one, or the default file if it exists.
pub(crate) fn config_file(given: Option<&Path>) -> Option<&Path> {
    let default = Path::new(DEFAULT_FILE);
    given.or_else(|| default.is_file().then_some(default))
}

/// Reads the configuration and the policy table. An error contains all faults that were found.
pub(crate) fn configure(file: Option<&Path>) -> Result<(Config, Arc<Table>)> {
    let config = Config::load(config_file(file))
        .map_err(|faults| anyhow!("the configuration has faults:\n{faults}"))?;
    let table = config
        .policy()
        .map_err(|faults| anyhow!("the policy table has faults:\n{faults}"))?;
    Ok((config, table))
}

/// What a running process reports about itself.
pub(crate) struct Telemetry {
    pipeline: Pipeline,
    process: Process,
}

impl Telemetry {
    /// Starts the log, and the sending of traces and logs if an endpoint is configured. `role` is
    /// the part of this process in the fleet.
    pub(crate) fn start(config: &Config, role: &'static str) -> Result<Self> {
        let process = Process {
            role,
            version: env!("CARGO_PKG_VERSION"),
            queue: config.redis.prefix.clone(),
        };
        let pipeline = Pipeline::start(&config.telemetry, &process).map_err(|why| anyhow!(why))?;
        log::start(&config.log, &pipeline).map_err(|why| anyhow!(why))?;
        tokio::spawn(log_left_out());
        Ok(Self { pipeline, process })
    }

    /// Returns what makes the spans of this process.
    pub(crate) fn tracing(&self, config: &Config, store: &Store) -> Tracing {
        let ids = store.ids().clone();
        self.pipeline.tracing(&config.telemetry, &self.process, ids)
    }

    /// From now on, `metrics` also has the version of this process, and what a collector did not
    /// get of its telemetry.
    pub(crate) fn report_to(&self, metrics: &Metrics) {
        metrics.version(self.process.version);
        self.pipeline.report_losses(metrics);
    }

    /// Sends what still waits, for two seconds at most. Returns a description of what the
    /// collector did not get. `None` if it got all.
    pub(crate) async fn shutdown(self) -> Option<String> {
        let pipeline = self.pipeline;
        let places = pipeline.places().to_vec();
        let (traces, logs) = spawn_blocking(|| pipeline.shutdown()).await.ok()?;
        not_received(&places, traces, logs)
    }
}

/// Describes how many spans and log records did not reach the collector.
fn not_received(places: &[Place], traces: Lost, logs: Lost) -> Option<String> {
    let parts: Vec<String> = places
        .iter()
        .filter_map(
            |Place {
                 signal, endpoint, ..
             }| {
                let (items, lost) = match *signal {
                    "traces" => ("spans", traces),
                    _ => ("log records", logs),
                };
                let lost = lost.dropped + lost.failed;
                (lost > 0)
                    .then(|| format!("{lost} {items} did not reach the collector at {endpoint}"))
            },
        )
        .collect();
    (!parts.is_empty()).then(|| parts.join(", and "))
}

/// Logs how many lines about outages were left out, if none of their kind followed. Runs until it
/// is dropped.
async fn log_left_out() {
    loop {
        sleep(LEFT_OUT_CHECKED_EVERY).await;
        for (kind, left_out) in left_out_of_outages() {
            tracing::info!(kind, left_out, "more lines of this kind were left out");
        }
    }
}

/// Raises this process's limit of open files as far as the system allows. Returns the limit.
pub(crate) fn raise_open_files() -> usize {
    let limit = open_files::raise().unwrap_or_else(|why| {
        tracing::warn!(why, "cannot raise the limit of open files");
        open_files::limit()
    });
    tracing::info!(limit, "files that may be open at once");
    limit
}

/// Changes a worker's settings so that it needs no more than `limit` open files. Logs a warning if
/// this reduces its concurrency.
pub(crate) fn fit_worker(config: &mut Config, limit: usize) {
    let wanted = config.worker.concurrency;
    if config.fit_open_files(limit) {
        let concurrency = config.worker.concurrency;
        tracing::warn!(
            limit,
            wanted,
            concurrency,
            "the limit of open files allows fewer attempts at once than worker.concurrency; \
             raise LimitNOFILE= or ulimit -n"
        );
    }
}

/// Writes to standard output. If the reader has closed it, it needs no more, so that is not an
/// error.
pub(crate) fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(err).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Opens the store. Waits if Redis is not available yet, for example at the start of a cluster.
/// Returns `None` if `stop` was cancelled while it waited.
pub(crate) async fn open_store(
    config: &Config,
    table: &Table,
    clock: Arc<dyn Clock>,
    stop: &CancellationToken,
) -> Result<Option<Store>> {
    let connections = Connections::new(&config.redis.servers(), config.redis.connections())?;
    let limits = config.limits(table);
    let mut warned_at: Option<Instant> = None;
    loop {
        let open = Store::open(
            connections.clone(),
            &config.redis.prefix,
            config.redis.shards,
            limits,
            clock.clone(),
        )
        .await;
        match open {
            Ok(store) => return Ok(Some(config.apply_to(store))),
            Err(StoreError::Unavailable(why)) => {
                if warned_at.is_none_or(|at| at.elapsed() >= WAIT_LOGGED_EVERY) {
                    tracing::warn!(
                        why,
                        redis = config.redis.place(),
                        "waiting for redis; its address is in redis.url, redis.cluster or \
                         redis.sentinel"
                    );
                    warned_at = Some(Instant::now());
                }
                if stop.run_until_cancelled(sleep(START_PAUSE)).await.is_none() {
                    return Ok(None);
                }
            }
            Err(err) => return Err(anyhow!(err)),
        }
    }
}

/// The exit status of a command that a signal stopped before it was done. A shell uses the same
/// number for SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Cancelled by a second signal.
static AT_ONCE: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// Runs a command until it is done, or until a second signal ends it at once. In that case the
/// command is dropped, and so its private Redis is stopped, which would otherwise outlive the
/// process.
pub(crate) async fn run_to_end(
    command: impl Future<Output = Result<ExitCode>>,
) -> Result<ExitCode> {
    AT_ONCE
        .run_until_cancelled(command)
        .await
        .unwrap_or_else(|| std::process::exit(INTERRUPTED.into()))
}

/// Returns a token that the first SIGTERM or SIGINT cancels. A second signal ends the command at
/// once.
pub(crate) fn stop_on_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let token = stop.clone();
    tokio::spawn(async move {
        for token in [&token, &AT_ONCE] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_collector_did_not_get_is_described_with_its_number_and_place() {
        let place = |signal| Place {
            signal,
            endpoint: format!("http://c/{signal}"),
            protocol: "grpc",
        };
        let places = [place("traces"), place("logs")];
        let lost = |dropped, failed| Lost { dropped, failed };
        assert_eq!(not_received(&places, lost(0, 0), lost(0, 0)), None);
        assert_eq!(not_received(&[], lost(0, 0), lost(0, 0)), None);
        let text = not_received(&places, lost(20, 4), lost(0, 7)).unwrap();
        assert_eq!(
            text,
            "24 spans did not reach the collector at http://c/traces, and \
             7 log records did not reach the collector at http://c/logs"
        );
    }

    #[test]
    fn each_fault_of_the_configuration_has_its_own_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("redeliver.toml");
        fs::write(&file, "[worker]\nlease = \"soon\"\nbatch = 0\n").unwrap();
        let text = format!("{:#}", configure(Some(&file)).unwrap_err());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[1..]
                .iter()
                .all(|line| line.starts_with(&file.display().to_string())),
            "{text}"
        );
    }
}
