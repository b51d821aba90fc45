//! `redeliver token`: creates tokens for the API. The tokens are not stored: the line for the
//! scheduler contains only the hash of the token.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use domain::account::Accounts;
use domain::clock::{Clock, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use signing::api_token::{Grant, Scope, TokenHash, token_from_random_bytes};
use system::clock::SystemClock;

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
        /// The name of the client that uses the token; it is shown in answers, events and logs
        #[arg(long)]
        name: String,

        /// What the token allows: ingest, read, admin, separated by commas
        #[arg(long, value_name = "SCOPES")]
        scopes: String,

        /// Requests per second at each scheduler, if this token needs its own limit
        #[arg(long)]
        rate: Option<f64>,

        /// The accounts that the token is for, separated by commas, instead of all
        #[arg(long, value_name = "ACCOUNTS")]
        accounts: Option<String>,

        /// When the token stops working: a time from now, such as 90d, or an RFC 3339 instant
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
}

/// What limits a token, apart from its scopes.
#[derive(Debug, Default)]
pub(crate) struct TokenLimits {
    pub(crate) rate: Option<f64>,
    pub(crate) accounts: Accounts,
    pub(crate) expires: Option<Timestamp>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Action::New {
        name,
        scopes,
        rate,
        accounts,
        expires,
    } = &arguments.action;
    let scopes = Scope::parse_list(scopes).map_err(|why| anyhow!("--scopes: {why}"))?;
    let accounts = match accounts {
        Some(names) => Accounts::parse_list(names).context("--accounts")?,
        None => Accounts::All,
    };
    let expires = expires
        .as_deref()
        .map(|when| read_expiry(when, SystemClock.now()))
        .transpose()
        .context("--expires")?;
    let limits = TokenLimits {
        rate: *rate,
        accounts,
        expires,
    };
    let (token, grant) = make(name, scopes, limits)?;
    process::print(&format!("{token}\n{grant}\n"))?;
    eprint!("\n{}", reach(&grant));
    eprintln!(
        "\nThe first line is the token: store it where its client finds it, because it is shown \
         only now.\nAdd the second line to the file of access.tokens_file; schedulers read it \
         within a second.\nTry it, with the address of your scheduler:\n\n  \
         curl -H \"authorization: Bearer $TOKEN\" http://127.0.0.1:8025{}",
        example(&grant.scopes)
    );
    Ok(ExitCode::SUCCESS)
}

/// Describes which accounts a token is for, and when it expires. It warns of a token that is for
/// all accounts or never expires.
fn reach(grant: &Grant) -> String {
    let accounts = match &grant.accounts {
        Accounts::All => "This token is for ALL accounts. \
                          To make one for some accounts only, add --accounts acme,beta.\n"
            .to_owned(),
        accounts => format!("This token is for {accounts} only.\n"),
    };
    let expires = match grant.expires {
        None => "It NEVER expires. To make one that does, add --expires 90d.\n".to_owned(),
        Some(expires) => format!("It expires at {expires}.\n"),
    };
    accounts + &expires
}

/// Reads when a token expires: a time from `now`, or an instant. It must be later than `now`.
fn read_expiry(when: &str, now: Timestamp) -> Result<Timestamp> {
    let expires = match humantime::parse_duration(when) {
        Ok(span) => now.plus(span),
        Err(_) => Timestamp::parse(when).with_context(|| {
            format!(
                "\"{when}\" is neither a span of time like 90d \
                 nor an RFC 3339 instant like 2027-06-01T00:00:00Z"
            )
        })?,
    };
    if expires <= now {
        bail!("{expires} is not in the future; it is {now} now");
    }
    Ok(expires)
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
pub(crate) fn make(name: &str, scopes: Vec<Scope>, limits: TokenLimits) -> Result<(String, Grant)> {
    Grant::check_name(name).map_err(|why| anyhow!("--name: {why}"))?;
    let mut random_bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut random_bytes)
        .map_err(|_| anyhow!("the system provides no random numbers"))?;
    let token = token_from_random_bytes(random_bytes);
    let grant = Grant {
        name: name.to_owned(),
        scopes,
        hash: TokenHash::of(&token),
        rate: limits.rate,
        accounts: limits.accounts,
        expires: limits.expires,
    };
    // Verify that a scheduler can read the line.
    Grant::parse(&grant.to_string())
        .map_err(|why| anyhow!(why))
        .context("cannot create this token")?;
    Ok((token, grant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_is_blamed_on_the_name() {
        for name in ["bad name", "", "a/b"] {
            let err = make(name, Scope::ALL.to_vec(), TokenLimits::default()).unwrap_err();
            assert!(
                err.to_string().starts_with("--name: the name has"),
                "{err:#}"
            );
        }
        assert!(make("ops", Scope::ALL.to_vec(), TokenLimits::default()).is_ok());
    }

    #[test]
    fn a_token_expires_after_a_span_of_time_or_at_an_instant_in_the_future() {
        let instant = |text| Timestamp::parse(text).unwrap();
        let now = instant("2026-11-21T09:30:00Z");
        for (when, expected) in [
            ("90d", "2027-02-19T09:30:00Z"),
            ("12h", "2026-11-21T21:30:00Z"),
            ("2027-06-01T02:00:00+02:00", "2027-06-01T00:00:00Z"),
        ] {
            assert_eq!(read_expiry(when, now).unwrap(), instant(expected), "{when}");
        }
        for wrong in ["", "0s", "90", "soon", "2026-11-21T09:30:00Z", "2027-06-01"] {
            assert!(read_expiry(wrong, now).is_err(), "{wrong}");
        }
    }
}
