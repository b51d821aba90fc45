//! `redeliver dev`: runs scheduler and worker in one process, over a private Redis server. It
//! starts that server, and stops it at the end. The data stay in a folder for the next run.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use private_servers::redis::PrivateRedis;
use scheduler::serve::Scheduler;
use signing::api_token::Scope;
use system::clock::SystemClock;
use worker::content::Contents;
use worker::routes::Routes;
use worker::run::Worker;

use crate::process::{self, Telemetry};
use crate::scheduler::listen;
use crate::token::{self, TokenLimits};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder for the data
    #[arg(long, default_value = ".redeliver", value_name = "FOLDER")]
    data: PathBuf,

    /// The address to listen on, instead of scheduler.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

pub(crate) async fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    let (mut config, table) = process::configure(config)?;
    let telemetry = Telemetry::start(&config, "dev")?;
    // The worker may use half of the files that may be open. The other half is for the scheduler.
    process::fit_worker(&mut config, process::raise_open_files() / 2);
    let stop = process::stop_on_signal()?;
    let listener = listen(arguments.listen.or(config.scheduler.listen)).await?;
    let address = listener.local_addr()?;
    let token = grant(&mut config.access, address)?;
    let redis = PrivateRedis::durable(&arguments.data).await?;
    config.redis.use_private(&redis.url());
    // No load balancer has to notice that it stops.
    config.scheduler.drain = Duration::ZERO;
    let Some(store) = process::open_store(&config, &table, Arc::new(SystemClock), &stop).await?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    let tracing = telemetry.tracing(&config, &store);
    telemetry.report_to(store.metrics());
    let scheduler = Scheduler::new(store.clone(), table.clone(), &config, &tracing)
        .map_err(|why| anyhow!(why))?;
    let contents = Contents::from_config(&config.content).map_err(|why| anyhow!(why))?;
    let routes = Routes::from_config(&config, store.clock()).map_err(|why| anyhow!(why))?;
    let worker =
        Worker::new(store, routes, contents, table, config.worker.clone()).with_tracing(&tracing);
    eprint!(
        "{}",
        welcome(
            address,
            &arguments.data,
            &config.worker.route,
            token.as_deref()
        )
    );

    let worker = tokio::spawn(worker.run(stop.clone()));
    let served = scheduler
        .serve(listener, stop.clone())
        .await
        .context("the scheduler failed");
    stop.cancel();
    worker.await.context("the worker failed")?;
    // Redis stops last, because the worker settles its attempts before it ends.
    redis.stop().await;
    telemetry.shutdown().await;
    served.map(|()| ExitCode::SUCCESS)
}

/// If the configuration has no tokens, returns a new token with all scopes. Then requests without a
/// token are allowed too, if the listener is on loopback.
fn grant(access: &mut config::access::Access, address: SocketAddr) -> Result<Option<String>> {
    if access.has_tokens() {
        return Ok(None);
    }
    let (token, grant) = token::make("dev", Scope::ALL.to_vec(), TokenLimits::default())?;
    access.tokens.push(grant);
    access.open |= address.ip().is_loopback();
    Ok(Some(token))
}

fn welcome(address: SocketAddr, data: &Path, route: &str, token: Option<&str>) -> String {
    let data = data.display();
    // The program may not be on the PATH.
    let program = env::args_os().next().unwrap_or_else(|| "redeliver".into());
    let program = program.display();
    let token = token.map_or_else(
        || "The tokens are those of the configuration: -H 'authorization: Bearer …'.".to_owned(),
        |token| {
            format!(
                "From this machine no token is needed, unless other machines can reach it.\n  \
                 This token allows everything, until Ctrl-C:\n\n    \
                 export REDELIVER_API=http://{address} REDELIVER_TOKEN={token}\n    \
                 {program} addresses show jo@example.com\n    \
                 curl -H \"authorization: Bearer $REDELIVER_TOKEN\" $REDELIVER_API/v1/hooks"
            )
        },
    );
    format!(
        "\n  redeliver dev listens on http://{address}, keeps its data in {data}/, \
         sends by route \"{route}\".\n\n  \
         Post a bounce, then ask about the address:\n\n    \
         curl -H 'content-type: application/json' http://{address}/v1/bounces \\\n      \
         -d '{{\"recipient\":\"jo@example.com\",\
         \"reply\":\"452 4.3.1 Insufficient system storage\"}}'\n    \
         curl http://{address}/v1/addresses/jo@example.com\n    \
         curl -N 'http://{address}/v1/events?after=start'\n\n  {token}\n\n  Ctrl-C stops it.\n\n"
    )
}
