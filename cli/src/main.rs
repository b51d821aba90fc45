//! `redeliver`: the scheduler, the worker and the operator's commands in one binary. Each command
//! has its own file.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod addresses;
mod api;
mod bench;
mod classify;
mod configuration;
mod demo;
mod destinations;
mod dev;
mod dsn;
mod figures;
mod instants;
mod jobs;
mod manual;
mod page;
mod policy;
mod process;
mod progress;
mod quarantine;
mod scheduler;
mod submit;
mod token;
mod worker;

/// A worker allocates and frees many strings. With the system's allocator, this took a third of its
/// time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Retries mail that failed softly.
///
/// Redeliver takes over from the first bounce. It keeps one retry job per impaired address in
/// Redis and tries again on the schedule for the failure's status. Each message ends exactly once:
/// it is delivered, or it is dropped for a reason that an event names.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Arguments {
    /// The configuration file; every key has a default [default: redeliver.toml in this folder, if
    /// it exists]
    #[arg(
        long,
        short,
        global = true,
        env = "REDELIVER_CONFIG",
        value_name = "FILE"
    )]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accept bounces over HTTP, answer questions about addresses, stream events, run upkeep
    Scheduler(scheduler::Arguments),
    /// Claim due jobs, attempt redelivery, settle the results
    Worker(worker::Arguments),
    /// Run scheduler and worker in one process, with a private Redis server
    Dev(dev::Arguments),
    /// Play a campaign of bounces against simulated mail servers, in fast motion
    Demo(demo::Arguments),
    /// Post the bounces and facts from a file, from standard input, or from a mail system's log
    Submit(submit::Arguments),
    /// Show what a reply means: its class, its scope, and what the policy would do
    Classify(classify::Arguments),
    /// Read delivery reports: show each recipient's status, the reply, and what it means
    Dsn(dsn::Arguments),
    /// Show the retry policy in force
    Policy(policy::Arguments),
    /// Show where domains are placed, and the state of a destination; hold, release or limit it
    Destinations(destinations::Arguments),
    /// Show what is known about addresses; suppress or reinstate an address
    Addresses(addresses::Arguments),
    /// Show the attempts of a job on a time axis
    Jobs(jobs::Arguments),
    /// Create tokens for the API
    Token(token::Arguments),
    /// List the jobs in quarantine, and return a job to the queue
    Quarantine(quarantine::Arguments),
    /// Check the configuration, or print it with the source of each value
    Config(configuration::Arguments),
    /// Measure the store and the worker on this machine
    Bench(bench::Arguments),
    /// Print a script that completes commands and options in a shell
    Completions(manual::CompletionArguments),
    /// Print the manual page, or write the pages of all commands to a folder
    Manual(manual::ManualArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = arguments.config.as_deref();
    let done = process::run_to_end(async {
        match arguments.command {
            Command::Scheduler(arguments) => scheduler::run(config, &arguments).await,
            Command::Worker(arguments) => worker::run(config, &arguments).await,
            Command::Dev(arguments) => dev::run(config, &arguments).await,
            Command::Demo(arguments) => demo::run(&arguments).await,
            Command::Submit(arguments) => submit::run(&arguments).await,
            Command::Destinations(arguments) => destinations::run(config, &arguments).await,
            Command::Addresses(arguments) => addresses::run(&arguments).await,
            Command::Jobs(arguments) => jobs::run(&arguments).await,
            Command::Token(arguments) => token::run(&arguments),
            Command::Quarantine(arguments) => quarantine::run(&arguments).await,
            Command::Classify(arguments) => classify::run(config, &arguments),
            Command::Dsn(arguments) => dsn::run(config, &arguments).await,
            Command::Policy(arguments) => policy::run(config, &arguments),
            Command::Config(arguments) => configuration::run(config, &arguments),
            Command::Bench(arguments) => bench::run(&arguments).await,
            Command::Completions(arguments) => {
                manual::completions(Arguments::command(), &arguments)
            }
            Command::Manual(arguments) => manual::manual(Arguments::command(), &arguments),
        }
    })
    .await;
    match done {
        Ok(code) => code,
        Err(err) => {
            eprintln!("redeliver: {err:#}");
            ExitCode::FAILURE
        }
    }
}
