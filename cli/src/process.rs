//! What long-running commands share: configuration, the way to the store, and the signals that end
//! them.

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
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The configuration file that is read where none is named.
const FILE_HERE: &str = "redeliver.toml";

/// How long to wait before Redis is asked again at the start.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Reads the configuration and the policy table, with all their faults at once.
pub(crate) fn configure(file: Option<&Path>) -> Result<(Config, Arc<Table>)> {
    let here = Path::new(FILE_HERE);
    let file = file.or_else(|| here.is_file().then_some(here));
    let config =
        Config::load(file).map_err(|faults| anyhow!("the configuration has faults:\n{faults}"))?;
    let table = config
        .policy()
        .map_err(|faults| anyhow!("the policy table has faults:\n{faults}"))?;
    Ok((config, table))
}

/// Raises the limit of open files as far as this process may, and returns it.
pub(crate) fn raise_open_files() -> usize {
    let limit = open_files::raise().unwrap_or_else(|why| {
        tracing::warn!(why, "few files may be open at once");
        open_files::limit()
    });
    tracing::info!(limit, "files that may be open at once");
    limit
}

/// Fits what a worker opens into this limit, and says if it has to do less at once than it is
/// configured to.
pub(crate) fn fit_worker(config: &mut Config, limit: usize) {
    let wanted = config.worker.concurrency;
    if config.fit_open_files(limit) {
        let concurrency = config.worker.concurrency;
        tracing::warn!(
            limit,
            wanted,
            concurrency,
            "the limit of open files allows fewer attempts at once than worker.concurrency; raise LimitNOFILE= or ulimit -n"
        );
    }
}

/// Writes to standard output. Whoever stops reading has seen enough, and that is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(err).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Opens the store. Waits for a Redis that is not there yet, as at the start of a cluster; `None`
/// where the wait was ended by `stop`.
pub(crate) async fn open_store(
    config: &Config,
    table: &Table,
    clock: Arc<dyn Clock>,
    stop: &CancellationToken,
) -> Result<Option<Store>> {
    let connections = Connections::new(&config.redis.servers(), config.redis.connections())?;
    let limits = config.limits(table);
    let mut told = false;
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
            Ok(store) => {
                let store = store.with_places(config.providers.clone(), config.placement.bounds());
                return Ok(Some(store.with_rules(&config.destinations)));
            }
            Err(StoreError::Unavailable(why)) => {
                if !told {
                    tracing::warn!(
                        why,
                        redis = config.redis.place(),
                        "waiting for redis; redis.url, redis.cluster or redis.sentinel says where it should be"
                    );
                    told = true;
                }
                if stop.run_until_cancelled(sleep(START_PAUSE)).await.is_none() {
                    return Ok(None);
                }
            }
            Err(err) => return Err(anyhow!(err)),
        }
    }
}

/// What a process answers its parent that was told to stop before it was done: as a shell says it
/// of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Is cancelled by a second signal.
static AT_ONCE: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// Runs a command until it is done, or a second signal wants it to end at once. It is dropped then,
/// and with it what would outlive the process: a Redis of its own.
pub(crate) async fn run_to_end(
    command: impl Future<Output = Result<ExitCode>>,
) -> Result<ExitCode> {
    AT_ONCE
        .run_until_cancelled(command)
        .await
        .unwrap_or_else(|| std::process::exit(INTERRUPTED.into()))
}

/// A token that is cancelled by the first SIGTERM or SIGINT. A second one ends the command at once.
pub(crate) fn stop_on_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be heard")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be heard")?;
    let token = stop.clone();
    tokio::spawn(async move {
        for told in [&token, &AT_ONCE] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.cancel();
        }
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_fault_of_the_configuration_is_a_line_of_its_own() {
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
