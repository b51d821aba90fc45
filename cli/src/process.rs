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
use system::open_files;
use telemetry::log;
use telemetry::metrics::Metrics;
use telemetry::pipeline::{Pipeline, Process};
use telemetry::spans::Tracing;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The configuration file that is read if no other is named and this one exists.
const DEFAULT_FILE: &str = "redeliver.toml";

/// The pause between two attempts to reach Redis at the start.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Reads the configuration and the policy table. An error contains all faults that were found.
pub(crate) fn configure(file: Option<&Path>) -> Result<(Config, Arc<Table>)> {
    let default = Path::new(DEFAULT_FILE);
    let file = file.or_else(|| default.is_file().then_some(default));
    let config =
        Config::load(file).map_err(|faults| anyhow!("the configuration has faults:\n{faults}"))?;
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
        log::start(&config.log, &pipeline);
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

    /// Sends what still waits, for two seconds at most.
    pub(crate) async fn shutdown(self) {
        let pipeline = self.pipeline;
        let _ = spawn_blocking(|| pipeline.shutdown()).await;
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
    let mut warned = false;
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
                if !warned {
                    tracing::warn!(
                        why,
                        redis = config.redis.place(),
                        "waiting for redis; its address is in redis.url, redis.cluster or \
                         redis.sentinel"
                    );
                    warned = true;
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
