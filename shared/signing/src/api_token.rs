//! Tokens of the API, each with its scopes and accounts. Only the SHA-256 of a token is stored. A
//! token has 256 random bits, so it cannot be guessed and needs no salt.

use std::fmt::{self, Write};

use domain::account::{Account, Accounts};
use domain::clock::Timestamp;
use ring::digest::{SHA256, digest};

/// The beginning of every token, so that people and secret scanners recognise it.
pub const TOKEN_PREFIX: &str = "rdt_";

/// The longest name of a grant, in characters.
const NAME_MAX: usize = 64;

/// What may follow the hash in the line of a grant.
const LIMITS: &str = "rate=requests-per-second, accounts=names and expires=instant";

/// The largest rate limit that a grant may have, in requests per second.
const RATE_MAX: f64 = 1_000_000.0;

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// To submit bounces and facts.
    Ingest,
    /// To read addresses, destinations, quarantine and events.
    Read,
    /// To act as an operator: hold, limit, release, suppress, reinstate.
    Admin,
}

/// A token as it is stored: its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

/// What a client with one token may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// The name of the token's owner; shown in events and logs.
    pub name: String,
    /// What the token may be used for.
    pub scopes: Vec<Scope>,
    /// The hash of the token.
    pub hash: TokenHash,
    /// Requests per second, if the token has a limit of its own.
    pub rate: Option<f64>,
    /// The accounts that it is for.
    pub accounts: Accounts,
    /// When it stops working; never if `None`.
    pub expires: Option<Timestamp>,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Read, Self::Admin];

    /// Returns the word used in files and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// Reads a list of words separated by commas.
    ///
    /// # Errors
    /// If a word is not a scope, or there is no word. The text names the allowed words.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let scope = |word: &str| {
            let found = Self::ALL.into_iter().find(|scope| scope.as_str() == word);
            found.ok_or_else(|| {
                format!("there is no scope \"{word}\"; there are ingest, read and admin")
            })
        };
        text.split(',').map(|word| scope(word.trim())).collect()
    }
}

impl TokenHash {
    /// Returns the hash of a token.
    pub fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
        }
        Some(Self(hash))
    }
}

/// The form in the line of a grant: `sha256:` and 64 hexadecimal digits.
impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

impl Grant {
    /// Checks the name of a token's owner.
    ///
    /// # Errors
    /// If it has other characters than a name may have, or too many or none.
    pub fn check_name(name: &str) -> Result<(), String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if (1..=NAME_MAX).contains(&name.len()) && name.chars().all(allowed) {
            return Ok(());
        }
        Err(format!(
            "the name has 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ -"
        ))
    }

    /// Reads one line: `name scopes hash`. After it, in any order, may come `rate=n` if the token
    /// has a limit of its own, `accounts=a,b` if it is not for all accounts, and `expires=` with an
    /// RFC 3339 instant.
    ///
    /// # Errors
    /// If the line is not valid. The text describes the fault, but never repeats the line, which
    /// may contain a token by mistake.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, scopes, hash, limits @ ..] = words.as_slice() else {
            return Err(format!(
                "must be: name scopes sha256:…, and perhaps {LIMITS}"
            ));
        };
        Self::check_name(name)?;
        let scopes = Scope::parse_list(scopes)?;
        let hash = TokenHash::parse(hash)
            .ok_or("the third word must be sha256: and 64 hexadecimal digits")?;
        let mut grant = Self {
            name: (*name).to_owned(),
            scopes,
            hash,
            rate: None,
            accounts: Accounts::All,
            expires: None,
        };
        let limits: Vec<_> = limits
            .iter()
            .map(|word| word.split_once('=').unwrap_or((*word, "")))
            .collect();
        for (n, (key, value)) in limits.iter().enumerate() {
            if limits[..n].iter().any(|(earlier, _)| earlier == key) {
                return Err("one of the words after the hash is there twice".to_owned());
            }
            grant.read_limit(key, value)?;
        }
        Ok(grant)
    }

    /// Reads one of the words after the hash.
    fn read_limit(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "rate" => {
                let rate = value.parse::<f64>().ok();
                let rate = rate.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
                self.rate = Some(rate.ok_or("rate= needs requests per second, such as rate=50")?);
            }
            "accounts" => {
                self.accounts = Accounts::parse_list(value).map_err(|why| {
                    format!("accounts= needs a list, such as accounts=acme,beta; {why}")
                })?;
            }
            "expires" => {
                let instant = Timestamp::parse(value).ok_or(
                    "expires= needs an RFC 3339 instant, such as expires=2027-06-01T00:00:00Z",
                )?;
                self.expires = Some(instant);
            }
            _ => return Err(format!("after the hash there may only be {LIMITS}")),
        }
        Ok(())
    }

    /// Whether it has stopped working at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Reads a file of lines. Blank lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// A description of the fault of each invalid line, with its number.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, Vec<String>> {
        let lines = text
            .lines()
            .zip(1..)
            .filter(|(line, _)| !line.trim().is_empty() && !line.trim().starts_with('#'));
        let mut grants: Vec<Self> = Vec::new();
        let mut faults = Vec::new();
        for (line, number) in lines {
            match Self::parse(line) {
                Ok(grant) if grants.iter().any(|known| known.hash == grant.hash) => {
                    faults.push(format!("line {number}: the same token is on another line"));
                }
                Ok(grant) => grants.push(grant),
                Err(why) => faults.push(format!("line {number}: {why}")),
            }
        }
        if faults.is_empty() {
            Ok(grants)
        } else {
            Err(faults)
        }
    }
}

/// The line of a grant, as it is stored.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scopes: Vec<&str> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        write!(f, "{} {} {}", self.name, scopes.join(","), self.hash)?;
        if let Some(rate) = self.rate {
            write!(f, " rate={rate}")?;
        }
        if let Accounts::These(accounts) = &self.accounts {
            let names: Vec<&str> = accounts.iter().map(Account::as_str).collect();
            write!(f, " accounts={}", names.join(","))?;
        }
        if let Some(expires) = self.expires {
            write!(f, " expires={expires}")?;
        }
        Ok(())
    }
}

/// Returns a token made of 32 random bytes.
pub fn token_from_random_bytes(random: [u8; 32]) -> String {
    let mut token = TOKEN_PREFIX.to_owned();
    for byte in random {
        let _ = write!(token, "{byte:02x}");
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_read_back_from_its_line() {
        let hash = TokenHash::of("rdt_x");
        let accounts = Accounts::parse_list("acme,beta").unwrap();
        let expires = Timestamp::parse("2027-06-01T00:00:00Z");
        for (rate, accounts, expires) in [
            (None, Accounts::All, None),
            (Some(0.5), Accounts::All, expires),
            (None, accounts.clone(), None),
            (Some(50.0), accounts.clone(), expires),
        ] {
            let grant = Grant {
                name: "acme".to_owned(),
                scopes: vec![Scope::Ingest, Scope::Read],
                hash,
                rate,
                accounts,
                expires,
            };
            assert_eq!(Grant::parse(&grant.to_string()), Ok(grant));
        }
        let words = "expires=2027-06-01T02:00:00+02:00 accounts=beta,acme rate=1";
        let grant = Grant::parse(&format!("acme read {hash} {words}")).unwrap();
        assert_eq!(
            (grant.rate, grant.accounts, grant.expires),
            (Some(1.0), accounts, expires),
            "the words may be in any order"
        );
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            TokenHash::of("abc").to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_token_stops_working_at_the_instant_at_which_it_expires() {
        let line = format!(
            "acme read {} expires=2027-06-01T00:00:00Z",
            TokenHash::of("x")
        );
        let grant = Grant::parse(&line).unwrap();
        for (now, is_expired) in [
            ("2027-05-31T23:59:59.999Z", false),
            ("2027-06-01T00:00:00Z", true),
            ("2028-01-01T00:00:00Z", true),
        ] {
            assert_eq!(
                grant.is_expired(Timestamp::parse(now).unwrap()),
                is_expired,
                "{now}"
            );
        }
    }

    #[test]
    fn a_fault_is_reported_with_its_line_number_and_without_the_line() {
        let hash = TokenHash::of("rdt_x").to_string();
        for (line, why) in [
            ("acme", "must be"),
            ("acme ingest rdt_secret", "third word"),
            ("acme ingest sha256:+f", "third word"),
            (&format!("a/b ingest {hash}"), "name"),
            (&format!("acme all {hash}"), "no scope"),
            (&format!("acme ingest {hash} rate=0"), "rate="),
            (&format!("acme ingest {hash} 50"), "may only be"),
            (&format!("acme ingest {hash} rdt_secret"), "may only be"),
            (&format!("acme ingest {hash} Accounts=acme"), "may only be"),
            (&format!("acme ingest {hash} accounts"), "accounts="),
            (&format!("acme ingest {hash} accounts="), "accounts="),
            (
                &format!("acme ingest {hash} accounts=a/secret"),
                "accounts=",
            ),
            (&format!("acme ingest {hash} expires=90d"), "expires="),
            (&format!("acme ingest {hash} expires="), "expires="),
            (&format!("acme ingest {hash} rate=1 rate=2"), "twice"),
            (
                &format!("acme ingest {hash} accounts=a rate=1 accounts=b"),
                "twice",
            ),
            (
                &format!("acme ingest {hash}\nb ingest {hash}"),
                "another line",
            ),
        ] {
            let faults = Grant::parse_all(&format!("# names\n\n{line}\n")).unwrap_err();
            assert!(
                faults[0].starts_with("line ") && faults[0].contains(why),
                "{line}: {faults:?}"
            );
            assert!(!faults[0].contains("secret"), "{faults:?}");
        }
    }
}
