//! Tokens of the API, each with its scopes. Only the SHA-256 of a token is stored. A token has 256
//! random bits, so it cannot be guessed and needs no salt.

use std::fmt::{self, Write};

use ring::digest::{SHA256, digest};

/// The beginning of every token, so that people and secret scanners recognise it.
pub const TOKEN_PREFIX: &str = "rdt_";

/// The longest name of a grant, in characters.
const NAME_MAX: usize = 64;

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
    /// The name of the token's owner; shown in logs.
    pub name: String,
    /// What the token may be used for.
    pub scopes: Vec<Scope>,
    /// The hash of the token.
    pub hash: TokenHash,
    /// Requests per second, if the token has a limit of its own.
    pub rate: Option<f64>,
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
    /// Reads one line: `name scopes hash`, with `rate=n` at the end if the token has a limit of its
    /// own.
    ///
    /// # Errors
    /// If the line is not valid. The text describes the fault, but never repeats the line, which
    /// may contain a token by mistake.
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
        let rate = match rest {
            [] => None,
            [rate] => {
                let rate = rate
                    .strip_prefix("rate=")
                    .and_then(|number| number.parse::<f64>().ok());
                let rate = rate.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
                Some(rate.ok_or(
                    "the fourth word must be rate= and requests per second, such as rate=50",
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
        self.rate.map_or(Ok(()), |rate| write!(f, " rate={rate}"))
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
    fn a_fault_is_reported_with_its_line_number_and_without_the_line() {
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
