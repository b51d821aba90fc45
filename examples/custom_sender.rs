//! A worker with a sender of its own: it hands mail to whatever you like, here to standard output.
//!
//! `cargo run -p worker --example custom_sender -- redeliver.toml`, with `[worker] route =
//! "printer"` and a `[[route]]` of that name, whose sender this one replaces.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use config::Config;
use domain::outcome::Outcome;
use domain::reply::Reply;
use tokio_util::sync::CancellationToken;
use worker::run::Worker;
use worker::sender::{Attempt, Sender};

/// Prints mail. The suite of the seam is run over it, as it should be over yours.
pub(crate) struct Printer;

#[async_trait]
impl Sender for Printer {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        match &attempt.content {
            Some(content) => println!("{}", String::from_utf8_lossy(content)),
            None => return Outcome::Unreadable("nothing to print".to_owned()),
        }
        Outcome::Delivered(Reply::parse("250 2.0.0 printed"))
    }
}

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
