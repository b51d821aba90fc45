//! `make chaos`: runs a fleet of real processes over real servers and breaks what can break. Then
//! it checks every promise against the records of the peers and the journal.
//! docs/guides/chaos.md explains it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use anyhow::Context;
use clap::Parser;

use crate::net::Isolation;
use crate::options::Options;

mod breaking;
mod collect;
mod config;
mod fault;
mod fleet;
mod follow;
mod input;
mod judge;
mod net;
mod options;
mod peers;
mod plan;
mod record;
mod report;
mod resolver;
mod run;
mod script;
mod store;
mod upkeep;
mod world;

fn main() -> ExitCode {
    let options = Options::parse();
    match start(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(folder) = &options.judge {
        let evidence = record::Evidence::read(folder)?;
        let verdict = judge::judge(&evidence);
        report::print(&evidence, &verdict, options.table);
        return Ok(ExitCode::from(u8::from(!verdict.violations.is_empty())));
    }
    let isolation = if options.isolated {
        Isolation::Full
    } else {
        match net::run_isolated() {
            Ok(code) => return Ok(code),
            Err(why) => Isolation::None(why),
        }
    };
    let program = program(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let is_clean = runtime.block_on(run::run(options, isolation, &program))?;
    Ok(ExitCode::from(u8::from(!is_clean)))
}

/// The program to run: the one that was named, or the one that was built next to this one.
fn program(options: &Options) -> anyhow::Result<PathBuf> {
    let next_to_this =
        || -> anyhow::Result<PathBuf> { Ok(env::current_exe()?.with_file_name("redeliver")) };
    let program = options.program.clone().map_or_else(next_to_this, Ok)?;
    fs::canonicalize(&program).with_context(|| {
        format!(
            "{} is missing: run `cargo build --bin redeliver`",
            program.display()
        )
    })
}
