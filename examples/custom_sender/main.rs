//! A worker with a custom sender, which prints mail to standard output.
//!
//! Run `cargo run -p worker --example custom_sender -- redeliver.toml`. The file needs `[worker]
//! route = "printer"` and a `[[route]]` of that name. This program replaces the sender of that
//! route.

mod printer;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use config::model::Config;
use tokio_util::sync::CancellationToken;
use worker::run::Worker;

use printer::Printer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let config = Config::load(file.as_deref())?;
    let worker =
        Worker::connect(&config, |routes| routes.with("printer", Arc::new(Printer))).await?;
    let stop = CancellationToken::new();
    tokio::select! {
        () = worker.run(stop.clone()) => {}
        _ = tokio::signal::ctrl_c() => stop.cancel(),
    }
    Ok(())
}
