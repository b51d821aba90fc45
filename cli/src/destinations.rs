//! `redeliver destinations place`: where a domain would be placed, and why. Looks at the configuration and the DNS, and
//! at no Redis: a domain that is placed already stays where it is.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use scheduler::placement::dns::Dns;
use scheduler::placement::propose;
use shared::address::Address;

use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say where new domains would be placed, and why
    Place {
        /// Domains, or addresses
        #[arg(required = true)]
        domains: Vec<String>,
    },
}

pub(crate) async fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    let Action::Place { domains } = &arguments.action;
    let (config, _) = process::configure(config)?;
    let dns = config.placement.mx.then(|| Dns::new(&config.placement)).transpose().map_err(|why| anyhow!(why))?;
    let recipients = domains.iter().map(|text| recipient(text)).collect::<Result<Vec<_>>>()?;
    let domains: Vec<&str> = recipients.iter().map(Address::domain).collect();
    let lines = propose(&config.providers, dns.as_ref(), &domains).await.into_iter().map(|proposal| {
        let (domain, destination, reason) = (proposal.domain, proposal.destination.as_str(), proposal.reason.as_str());
        format!("{domain:<24} {destination:<32} {reason}\n")
    });
    process::print(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// An address, or some address at a domain: only the domain counts.
fn recipient(text: &str) -> Result<Address> {
    let address = if text.contains('@') { text.to_owned() } else { format!("postmaster@{text}") };
    match Address::parse(&address) {
        Ok(address) => Ok(address),
        Err(why) => bail!("\"{text}\" is neither a domain nor an address: {why}"),
    }
}
