//! `redeliver token`: creates tokens for the API. The tokens are not stored: the line for the
//! scheduler contains only the hash of the token.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use ring::rand::{SecureRandom, SystemRandom};
use signing::api_token::{Grant, Scope, TokenHash, token_from_random_bytes};

use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a token: print it, which happens only this once, and the line for access.tokens_file
    New {
        /// The name of the client that uses the token; it is shown in answers and logs
        #[arg(long)]
        name: String,

        /// What the token allows: ingest, read, admin, separated by commas
        #[arg(long, value_name = "SCOPES")]
        scopes: String,

        /// Requests per second at each scheduler, if this token needs its own limit
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
        "\nThe first line is the token: store it where its client finds it, because it is shown \
         only now.\nAdd the second line to the file of access.tokens_file; schedulers read it \
         within a second.\nTry it, with the address of your scheduler:\n\n  \
         curl -H \"authorization: Bearer $TOKEN\" http://127.0.0.1:8025{}",
        example(&grant.scopes)
    );
    Ok(ExitCode::SUCCESS)
}

/// Returns an example of a request that these scopes allow.
fn example(scopes: &[Scope]) -> &'static str {
    if scopes.contains(&Scope::Read) {
        "/v1/addresses/jo@example.com"
    } else if scopes.contains(&Scope::Ingest) {
        concat!(
            "/v1/bounces -H 'content-type: application/json' ",
            r#"-d '{"recipient":"jo@example.com","reply":"452 4.3.1 Mail system full"}'"#
        )
    } else {
        "/v1/destinations/example.com/hold -X DELETE"
    }
}

/// Returns a new token, and the line for the scheduler.
pub(crate) fn make(name: &str, scopes: Vec<Scope>, rate: Option<f64>) -> Result<(String, Grant)> {
    let mut random_bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut random_bytes)
        .map_err(|_| anyhow!("the system provides no random numbers"))?;
    let token = token_from_random_bytes(random_bytes);
    let grant = Grant {
        name: name.to_owned(),
        scopes,
        hash: TokenHash::of(&token),
        rate,
    };
    // Verify that a scheduler can read the line.
    Grant::parse(&grant.to_string())
        .map_err(|why| anyhow!(why))
        .context("cannot create this token")?;
    Ok((token, grant))
}
