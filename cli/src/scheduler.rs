//! `redeliver scheduler`: HTTP intake and API, and upkeep. It is stateless, so any number of
//! replicas can run.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use scheduler::access::Access;
use scheduler::serve::{Scheduler, serve_until_ready};
use system::clock::SystemClock;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::process::{self, Telemetry};

/// How long clients may take to receive their "not ready" answers once the store is open.
const READY_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The address to listen on, instead of scheduler.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

pub(crate) async fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    let (mut config, table) = process::configure(config)?;
    let telemetry = Telemetry::start(&config, "scheduler")?;
    config.fit_open_files(process::raise_open_files());
    let stop = process::stop_on_signal()?;
    let listener = listen(arguments.listen.or(config.scheduler.listen)).await?;
    Access::may_listen(&config.access, listener.local_addr()?).map_err(|why| anyhow!(why))?;
    let listener = listener.into_std()?;
    let ready = CancellationToken::new();
    let waiting = TcpListener::from_std(listener.try_clone()?)?;
    let waiting = tokio::spawn(serve_until_ready(
        waiting,
        config.scheduler.clone(),
        ready.clone(),
    ));
    let opened = process::open_store(&config, &table, Arc::new(SystemClock), &stop).await;
    ready.cancel();
    // A client that keeps its connection open must not delay the start.
    let _ = timeout(READY_MAX, waiting).await;
    let Some(store) = opened? else {
        return Ok(ExitCode::SUCCESS);
    };
    let listener = TcpListener::from_std(listener)?;
    let tracing = telemetry.tracing(&config, &store);
    telemetry.report_to(store.metrics());
    let scheduler = Scheduler::new(store, table, &config, &tracing).map_err(|why| anyhow!(why))?;
    tracing::info!(address = %listener.local_addr()?, "scheduler listens");
    let served = scheduler.serve(listener, stop).await;
    tracing::info!("scheduler stopped");
    telemetry.shutdown().await;
    served.context("the scheduler failed")?;
    Ok(ExitCode::SUCCESS)
}

/// Listens on this address. An error suggests how to listen on another one.
pub(crate) async fn listen(address: Option<SocketAddr>) -> Result<TcpListener> {
    let address = address.context("scheduler.listen is not set")?;
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}; choose another address with --listen, \
             for example 127.0.0.1:0"
        )
    })
}
