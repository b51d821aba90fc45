//! `redeliver worker`: claims jobs, sends their mail and settles them. It is stateless, so any
//! number of replicas can run.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use senders::settings::route::{Route, SenderSettings};
use system::clock::SystemClock;
use tokio_util::task::AbortOnDropHandle;
use worker::content::Contents;
use worker::listener;
use worker::routes::Routes;
use worker::run::Worker;

use crate::process::{self, Telemetry};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Run even if the default route only logs mail, and counts it as delivered without sending it
    #[arg(long)]
    allow_log: bool,
}

pub(crate) async fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    let (mut config, table) = process::configure(config)?;
    let telemetry = Telemetry::start(&config, "worker")?;
    process::fit_worker(&mut config, process::raise_open_files());
    let logs = |route: &Route| matches!(route.sender, SenderSettings::Log);
    if config
        .routes
        .iter()
        .any(|route| route.name == config.worker.route && logs(route))
        && !arguments.allow_log
    {
        bail!(
            "the default route \"{}\" only logs mail and counts it as delivered; configure a \
             [[route]] of that name with sender = \"smtp\", or start with --allow-log",
            config.worker.route
        );
    }
    let stop = process::stop_on_signal()?;
    let opened = Arc::new(OnceLock::new());
    let listener = match config.worker.listen {
        None => None,
        Some(address) => {
            let listener = listener::listen(address).await?;
            tracing::info!(address = %listener.local_addr()?, "worker answers health checks");
            let serving = listener::serve(listener, opened.clone(), stop.clone());
            Some(AbortOnDropHandle::new(tokio::spawn(serving)))
        }
    };
    let Some(store) = process::open_store(&config, &table, Arc::new(SystemClock), &stop).await?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    tracing::info!(
        concurrency = config.worker.concurrency,
        routes = config.routes.len(),
        "worker started"
    );
    let contents = Contents::from_config(&config.content).map_err(|why| anyhow!(why))?;
    let routes = Routes::from_config(&config, store.clock()).map_err(|why| anyhow!(why))?;
    let tracing = telemetry.tracing(&config, &store);
    telemetry.report_to(store.metrics());
    let _ = opened.set(store.clone());
    Worker::new(store, routes, contents, table, config.worker)
        .with_tracing(&tracing)
        .run(stop)
        .await;
    drop(listener);
    tracing::info!("worker stopped");
    telemetry.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
