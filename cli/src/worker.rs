//! `redeliver worker`: claims, sends, settles. Stateless; any number of replicas.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use shared::clock::SystemClock;
use shared::telemetry;
use worker::content::Contents;
use worker::routes::Routes;
use worker::run::Worker;

use crate::process;

pub(crate) async fn run(config: Option<&Path>) -> Result<ExitCode> {
    let (config, table) = process::configure(config)?;
    telemetry::start(&config.log);
    let stop = process::stop_on_signal()?;
    let Some(store) = process::open_store(&config, &table, Arc::new(SystemClock), &stop).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    tracing::info!(concurrency = config.worker.concurrency, routes = config.routes.len(), "worker works");
    let (routes, contents) = (Routes::from_config(&config), Contents::new(config.content_roots.clone()));
    Worker::new(store, routes, contents, table, config.worker).run(stop).await;
    tracing::info!("worker stopped");
    Ok(ExitCode::SUCCESS)
}
