//! `redeliver token`: makes tokens for the API. They are kept nowhere; the line that the scheduler
//! gets has a hash of one.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use ring::rand::{SecureRandom, SystemRandom};
use signing::api_token::{Grant, Scope, TokenHash, token_of};

use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token: print it this once, and the line for access.tokens_file
    New {
        /// Whose it is; shown in answers and logs
        #[arg(long)]
        name: String,

        /// What it is for: ingest, read, admin, with commas between
        #[arg(long, value_name = "SCOPES")]
        scopes: String,

        /// Requests per second at each scheduler, where it shall have a limit of its own
        #[arg(long)]
        rate: Option<f64>,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Action::New { name, scopes, rate } = &arguments.action;
    let scopes = Scope::parse_list(scopes).map_err(|why| anyhow!("--scopes: {why}"))?;
    let (token, grant) = make(name, scopes, *rate)?;
    process::print(&format!("{token}\n{grant}\n"))?;
    eprintln!(
        "\nThe first line is the token: keep it where its bearer finds it, for it is shown only now. The second goes into the \
         file that access.tokens_file names; schedulers see it within a second. Try it, with the address of yours:\n\n  \
         curl -H \"authorization: Bearer $TOKEN\" http://127.0.0.1:8025{}",
        example(&grant.scopes)
    );
    Ok(ExitCode::SUCCESS)
}

/// A request that a bearer with these scopes may make.
fn example(scopes: &[Scope]) -> &'static str {
    if scopes.contains(&Scope::Read) {
        "/v1/addresses/jo@example.com"
    } else if scopes.contains(&Scope::Ingest) {
        r#"/v1/bounces -H 'content-type: application/json' -d '{"recipient":"jo@example.com","reply":"452 4.3.1 Mail system full"}'"#
    } else {
        "/v1/destinations/example.com/hold -X DELETE"
    }
}

/// A new token, and what its bearer is granted.
pub(crate) fn make(name: &str, scopes: Vec<Scope>, rate: Option<f64>) -> Result<(String, Grant)> {
    let mut chance = [0; 32];
    SystemRandom::new()
        .fill(&mut chance)
        .map_err(|_| anyhow!("the system has no random numbers"))?;
    let token = token_of(chance);
    let grant = Grant {
        name: name.to_owned(),
        scopes,
        hash: TokenHash::of(&token),
        rate,
    };
    // What cannot be read back must not be handed out.
    Grant::parse(&grant.to_string())
        .map_err(|why| anyhow!(why))
        .context("no such token can be made")?;
    Ok((token, grant))
}
