//! Who may do what over the API: tokens, each with its scopes. A token itself is kept nowhere, only
//! its SHA-256: it has 256 bits of chance, so that there is nothing to guess and nothing to salt.

use std::fmt::{self, Write};

use ring::digest::{SHA256, digest};

/// What a token starts with, so that people and scanners see what it is.
pub const TOKEN_PREFIX: &str = "rdt_";

/// The longest name of a grant, in characters.
const NAME_MAX: usize = 64;

/// The most requests per second that can be asked for.
const RATE_MAX: f64 = 1_000_000.0;

/// What a token may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Handing in bounces and facts.
    Ingest,
    /// Asking: addresses, destinations, quarantine, events.
    Read,
    /// Doing what operators do: holding, limiting, releasing, suppressing, reinstating.
    Admin,
}

/// A token as it is kept: by its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

/// What the bearer of one token may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Whose it is; shown in logs.
    pub name: String,
    /// What it is for.
    pub scopes: Vec<Scope>,
    /// The token.
    pub hash: TokenHash,
    /// Requests per second, where it has a limit of its own.
    pub rate: Option<f64>,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Read, Self::Admin];

    /// The word used in files and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// Reads words with commas between.
    ///
    /// # Errors
    /// Where one is no scope, or there is none; the text says what is allowed.
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
    /// The hash of a token as its bearer has it.
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

/// As a grant's line has it: `sha256:` and 64 hexadecimal digits.
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
    /// Reads one line: `name scopes hash`, and `rate=n` where it has a limit of its own.
    ///
    /// # Errors
    /// Where it is none. The text says what is wrong, and never repeats the line, which may hold a
    /// token by mistake.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, scopes, hash, rest @ ..] = words.as_slice() else {
            return Err("must be: name scopes sha256:… [rate=requests-per-second]".to_owned());
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.len() > NAME_MAX || !name.chars().all(allowed) {
            return Err(format!(
                "the name has 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ -"
            ));
        }
        let scopes = Scope::parse_list(scopes)?;
        let hash = TokenHash::parse(hash)
            .ok_or("the third word must be sha256: and 64 hexadecimal digits")?;
        let rate =
            match rest {
                [] => None,
                [rate] => {
                    let rate = rate
                        .strip_prefix("rate=")
                        .and_then(|number| number.parse::<f64>().ok());
                    let rate = rate.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
                    Some(rate.ok_or(
                        "the fourth word must be rate= and requests per second, rate=50 say",
                    )?)
                }
                _ => return Err("there are more than four words".to_owned()),
            };
        Ok(Self {
            name: (*name).to_owned(),
            scopes,
            hash,
            rate,
        })
    }

    /// Reads a file of lines; blank ones and those that start with `#` are left out.
    ///
    /// # Errors
    /// What is wrong with each line that is, by its number.
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
                    faults.push(format!(
                        "line {number}: the same token stands on another line"
                    ));
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

/// The line of a grant, as it is kept.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scopes: Vec<&str> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        write!(f, "{} {} {}", self.name, scopes.join(","), self.hash)?;
        self.rate.map_or(Ok(()), |rate| write!(f, " rate={rate}"))
    }
}

/// A token made of 32 bytes of chance.
pub fn token_of(chance: [u8; 32]) -> String {
    let mut token = TOKEN_PREFIX.to_owned();
    for byte in chance {
        let _ = write!(token, "{byte:02x}");
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_a_line_that_reads_back() {
        let hash = TokenHash::of("rdt_x");
        for rate in [None, Some(0.5), Some(50.0)] {
            let grant = Grant {
                name: "acme".to_owned(),
                scopes: vec![Scope::Ingest, Scope::Read],
                hash,
                rate,
            };
            assert_eq!(Grant::parse(&grant.to_string()), Ok(grant));
        }
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            TokenHash::of("abc").to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_by_its_number_and_without_the_line() {
        let hash = TokenHash::of("rdt_x").to_string();
        for (line, why) in [
            ("acme", "must be"),
            ("acme ingest rdt_secret", "third word"),
            ("acme ingest sha256:+f", "third word"),
            (&format!("a/b ingest {hash}"), "name"),
            (&format!("acme all {hash}"), "no scope"),
            (&format!("acme ingest {hash} rate=0"), "fourth word"),
            (&format!("acme ingest {hash} 50"), "fourth word"),
            (&format!("acme ingest {hash} rate=1 rate=2"), "four words"),
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
