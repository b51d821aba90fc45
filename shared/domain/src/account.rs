//! The account: the tenant that mail belongs to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The tenant of the platform that mail belongs to: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Account(String);

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
}
