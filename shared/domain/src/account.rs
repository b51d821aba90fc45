//! The account: the tenant that mail belongs to. And which accounts a client may act for.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The tenant of the platform that mail belongs to: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Account(String);

/// The accounts that a client may act for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Accounts {
    /// All accounts.
    #[default]
    All,
    /// Only these.
    These(BTreeSet<Account>),
}

/// How many accounts a text names at most. Others are only counted.
const NAMED_MAX: usize = 5;

/// Why a text is not an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an account has 1 to 64 characters of A-Z a-z 0-9 . _ -")]
pub struct NotAnAccount;

impl Account {
    /// Reads an account's name.
    pub fn parse(name: &str) -> Result<Self, NotAnAccount> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(NotAnAccount)
        }
    }

    /// Returns its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Account {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Account {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Account {
    type Error = NotAnAccount;

    fn try_from(name: String) -> Result<Self, NotAnAccount> {
        Self::parse(&name)
    }
}

impl From<Account> for String {
    fn from(account: Account) -> Self {
        account.0
    }
}

impl Accounts {
    /// Reads a list of names with commas between them.
    ///
    /// # Errors
    /// If a name is not an account. An empty list has one name, which is empty.
    pub fn parse_list(names: &str) -> Result<Self, NotAnAccount> {
        let accounts = names.split(',').map(|name| Account::parse(name.trim()));
        accounts.collect::<Result<_, _>>().map(Self::These)
    }

    /// Whether the client may act for this account.
    pub fn allow(&self, account: &Account) -> bool {
        self.allow_name(account.as_str())
    }

    /// Whether the client may act for the account of the job with this id, `account/recipient`. A
    /// text that is no such id belongs to no account, and needs all accounts.
    pub fn allow_job(&self, id: &str) -> bool {
        let account = id.split_once('/').map_or("", |(account, _)| account);
        self.allow_name(account)
    }

    fn allow_name(&self, account: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(accounts) => accounts.contains(account),
        }
    }
}

/// `all accounts`, `the account acme`, or `the accounts acme, beta`. A long list is shortened.
impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = match self {
            Self::All => return f.write_str("all accounts"),
            Self::These(accounts) => accounts,
        };
        f.write_str(if accounts.len() == 1 {
            "the account "
        } else {
            "the accounts "
        })?;
        for (n, account) in accounts.iter().take(NAMED_MAX).enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{account}")?;
        }
        match accounts.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            others => write!(f, " and {others} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_a_short_plain_name() {
        for name in ["default", "acme", "a.b_c-9"] {
            assert!(Account::parse(name).is_ok(), "{name}");
        }
        for name in ["", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(Account::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_list_allows_exactly_its_accounts() {
        let account = |name: &str| Account::parse(name).unwrap();
        let acme = Accounts::parse_list("acme, beta").unwrap();
        for (name, in_list) in [
            ("acme", true),
            ("beta", true),
            ("acm", false),
            ("Acme", false),
        ] {
            assert_eq!(acme.allow(&account(name)), in_list, "{name}");
            assert_eq!(acme.allow_job(&format!("{name}/jo@example.com")), in_list);
            assert!(Accounts::All.allow(&account(name)));
        }
        for no_job in ["", "acme", "/acme/jo@example.com"] {
            assert!(!acme.allow_job(no_job) && Accounts::All.allow_job(no_job));
        }
        for wrong in ["", "acme,", ",", "a/b"] {
            assert!(Accounts::parse_list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_text_names_few_accounts() {
        for (list, text) in [
            ("acme", "the account acme"),
            ("beta,acme", "the accounts acme, beta"),
            ("a,b,c,d,e,f,g", "the accounts a, b, c, d, e and 2 more"),
        ] {
            assert_eq!(Accounts::parse_list(list).unwrap().to_string(), text);
        }
        assert_eq!(Accounts::All.to_string(), "all accounts");
    }
}
