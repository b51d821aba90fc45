//! `redeliver scheduler`: HTTP intake and API, and upkeep. Stateless; any number of replicas.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use scheduler::serve::Scheduler;
use shared::clock::SystemClock;
use shared::telemetry;
use tokio::net::TcpListener;

use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to listen, in place of scheduler.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

pub(crate) async fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    let (config, table) = process::configure(config)?;
    telemetry::start(&config.log);
    let stop = process::stop_on_signal()?;
    let listener = listen(arguments.listen.or(config.scheduler.listen)).await?;
    let Some(store) = process::open_store(&config, &table, Arc::new(SystemClock), &stop).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let scheduler = Scheduler::new(store, table, &config).map_err(|why| anyhow!(why))?;
    tracing::info!(address = %listener.local_addr()?, "scheduler listens");
    scheduler.serve(listener, stop).await.context("the scheduler failed")?;
    tracing::info!("scheduler stopped");
    Ok(ExitCode::SUCCESS)
}

/// Listens, or says how to listen elsewhere.
pub(crate) async fn listen(address: Option<SocketAddr>) -> Result<TcpListener> {
    let address = address.context("scheduler.listen is not set")?;
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another address with --listen, 127.0.0.1:0 say"))
}
