//! Return paths that say what a bounce is about (variable envelope return paths): our own senders
//! put one on every message, and a report that comes back to it is known to be about that message,
//! whatever the report itself says.
//!
//! A local part has 64 octets (RFC 5321, section 4.5.3.1.1), too few for an account, an address and
//! a message id. So the token has the account, and of the other two a hash each: whom a report
//! names is checked against it, and the message is looked for among those that wait for that
//! address. All of it is signed, so that nobody can bounce what was never sent.
//!
//! ```text
//! rd-  base32( version 1 | day 2 | recipient 5 | message 6 | account 1..14 | HMAC-SHA256, its first 10 )   octets
//! ```

use std::fmt;
use std::time::Duration;

use data_encoding::BASE32_NOPAD_NOCASE;
use domain::account::Account;
use domain::address::Address;
use domain::clock::Timestamp;
use domain::job::JobId;
use ring::hmac;
use xxhash_rust::xxh3::xxh3_64;

/// What every token begins with.
const PREFIX: &str = "rd-";

/// The layout of the token.
const VERSION: u8 = 1;

const RECIPIENT: usize = 5;
const MESSAGE: usize = 6;
const MAC: usize = 10;

/// Octets before the account.
const HEAD: usize = 1 + 2 + RECIPIENT + MESSAGE;

/// The longest account that a local part has room for, in octets.
pub const ACCOUNT_MAX: usize = 14;

/// The longest account that an envelope id has room for: RFC 3461, section 5.3.3, allows 100 octets
/// of them.
pub const ACCOUNT_MAX_IN_ENVELOPE_ID: usize = 36;

const DAY_MS: i64 = 86_400_000;

/// Makes and checks tokens.
#[derive(Clone)]
pub struct Verp {
    domain: String,
    key: hmac::Key,
    valid_for: Duration,
}

/// What a token says that was made by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The tenant that the mail belongs to.
    pub account: Account,
    recipient: [u8; RECIPIENT],
    message: [u8; MESSAGE],
}

impl Verp {
    /// Tokens at `domain`, signed with `key`, that are believed for `valid_for`.
    pub fn new(domain: &str, key: &[u8], valid_for: Duration) -> Self {
        Self {
            domain: domain.to_ascii_lowercase(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            valid_for,
        }
    }

    /// The domain that reports come back to.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The return path for one message of a job, sent now; `None` where the account is longer than
    /// [`ACCOUNT_MAX`].
    pub fn encode(&self, job: &JobId, message_id: &str, now: Timestamp) -> Option<Address> {
        let token = self.token(job, message_id, now, ACCOUNT_MAX)?;
        Address::parse(&format!("{token}@{}", self.domain)).ok()
    }

    /// The same as an envelope id (`ENVID`, RFC 3461, section 4.4), for relays that report; `None`
    /// where the account is longer than [`ACCOUNT_MAX_IN_ENVELOPE_ID`]. It is its own xtext.
    pub fn envelope_id(&self, job: &JobId, message_id: &str, now: Timestamp) -> Option<String> {
        self.token(job, message_id, now, ACCOUNT_MAX_IN_ENVELOPE_ID)
    }

    /// Reads the return path that a report came back to. Letters may have changed their case on the
    /// way.
    pub fn decode(&self, address: &str, now: Timestamp) -> Option<Token> {
        let address = address.trim().trim_matches(['<', '>']);
        let (local, domain) = address.rsplit_once('@')?;
        domain
            .eq_ignore_ascii_case(&self.domain)
            .then(|| self.decode_token(local, now))
            .flatten()
    }

    /// Reads a token that stands for itself, as in an envelope id.
    pub fn decode_token(&self, token: &str, now: Timestamp) -> Option<Token> {
        let (prefix, code) = token.split_at_checked(PREFIX.len())?;
        let bytes = prefix
            .eq_ignore_ascii_case(PREFIX)
            .then(|| BASE32_NOPAD_NOCASE.decode(code.as_bytes()).ok())??;
        let (said, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        let expected = hmac::sign(&self.key, said);
        // A token is no secret that is guessed octet by octet, and yet the comparison takes the
        // same time always.
        let differs = expected.as_ref()[..MAC]
            .iter()
            .zip(mac)
            .fold(0, |differs, (a, b)| differs | (a ^ b));
        let (head, account) = said.split_at_checked(HEAD)?;
        if differs != 0
            || head[0] != VERSION
            || !self.is_valid(u16::from_be_bytes([head[1], head[2]]), now)
        {
            return None;
        }
        let (recipient, message) = head[3..].split_at(RECIPIENT);
        Some(Token {
            account: Account::parse(std::str::from_utf8(account).ok()?).ok()?,
            recipient: recipient.try_into().ok()?,
            message: message.try_into().ok()?,
        })
    }

    fn token(
        &self,
        job: &JobId,
        message_id: &str,
        now: Timestamp,
        account_max: usize,
    ) -> Option<String> {
        let account = job.account.as_str().as_bytes();
        if account.len() > account_max {
            return None;
        }
        let mut said = Vec::with_capacity(HEAD + account.len() + MAC);
        said.push(VERSION);
        said.extend_from_slice(&day(now).to_be_bytes());
        said.extend_from_slice(&of_recipient(&job.recipient));
        said.extend_from_slice(&of_message(message_id));
        said.extend_from_slice(account);
        let mac = hmac::sign(&self.key, &said);
        said.extend_from_slice(&mac.as_ref()[..MAC]);
        Some(format!(
            "{PREFIX}{}",
            BASE32_NOPAD_NOCASE.encode(&said).to_ascii_lowercase()
        ))
    }

    fn is_valid(&self, made: u16, now: Timestamp) -> bool {
        let age = i64::from(day(now)) - i64::from(made);
        // Clocks of two machines may differ by midnight.
        age >= -1
            && age.saturating_mul(DAY_MS)
                <= i64::try_from(self.valid_for.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Token {
    /// Whether the mail was for this address. Two of 10¹² addresses look the same.
    pub fn is_for(&self, recipient: &Address) -> bool {
        self.recipient == of_recipient(recipient)
    }

    /// Whether it was about this message.
    pub fn names(&self, message_id: &str) -> bool {
        self.message == of_message(message_id)
    }

    /// A name for the message, for where nobody knows its id any more; the same for every report
    /// about it.
    pub fn message_name(&self) -> String {
        let hash: String = self
            .message
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("returned-{hash}")
    }
}

impl fmt::Debug for Verp {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verp")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// Days since 1970; enough until the year 2149.
fn day(now: Timestamp) -> u16 {
    u16::try_from(now.ms() / DAY_MS).unwrap_or_default()
}

fn of_recipient(recipient: &Address) -> [u8; RECIPIENT] {
    // Mail systems change the case of local parts, though only their host may.
    first(xxh3_64(recipient.as_str().to_lowercase().as_bytes()))
}

fn of_message(message_id: &str) -> [u8; MESSAGE] {
    first(xxh3_64(message_id.trim_matches(['<', '>']).as_bytes()))
}

fn first<const N: usize>(hash: u64) -> [u8; N] {
    let bytes = hash.to_be_bytes();
    std::array::from_fn(|n| bytes[n])
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::address::MAX_LOCAL;

    const DAYS_30: Duration = Duration::from_secs(30 * 86_400);

    fn job(account: &str) -> JobId {
        JobId {
            account: Account::parse(account).unwrap(),
            recipient: Address::parse("Jo@example.com").unwrap(),
        }
    }

    fn verp(key: &str) -> Verp {
        Verp::new("Bounce.example.org", key.as_bytes(), DAYS_30)
    }

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-21T09:30:00Z").unwrap()
    }

    #[test]
    fn a_return_path_comes_back_as_what_it_was_made_of() {
        let verp = verp("key");
        for account in ["a", "default", "Acme_mail.42-x"] {
            let path = verp
                .encode(&job(account), "<c42.9@news.example.org>", now())
                .unwrap();
            assert!(
                path.local().len() <= MAX_LOCAL && path.domain() == "bounce.example.org",
                "{account}"
            );
            for path in [
                path.as_str().to_owned(),
                path.as_str().to_uppercase(),
                format!("<{}>", path.as_str()),
            ] {
                let token = verp.decode(&path, now()).unwrap();
                assert_eq!(token.account.as_str(), account);
                assert!(token.is_for(&Address::parse("jo@example.com").unwrap()));
                assert!(!token.is_for(&Address::parse("al@example.com").unwrap()));
                assert!(
                    token.names("c42.9@news.example.org") && !token.names("c42.8@news.example.org")
                );
            }
        }
    }

    #[test]
    fn a_long_account_has_room_in_an_envelope_id_or_nowhere() {
        let verp = verp("key");
        let long = "a".repeat(ACCOUNT_MAX_IN_ENVELOPE_ID);
        assert!(
            verp.encode(&job(&"a".repeat(ACCOUNT_MAX + 1)), "m", now())
                .is_none()
        );
        let id = verp.envelope_id(&job(&long), "m", now()).unwrap();
        assert!(id.len() <= 100, "{}", id.len());
        assert_eq!(
            verp.decode_token(&id, now()).unwrap().account.as_str(),
            long
        );
        assert!(
            verp.envelope_id(&job(&format!("{long}a")), "m", now())
                .is_none()
        );
    }

    #[test]
    fn what_is_forged_changed_old_or_from_elsewhere_is_not_believed() {
        let verp = verp("key");
        let path = verp.encode(&job("acme"), "m", now()).unwrap();
        let local = path.local();
        assert!(
            self::verp("other").decode(path.as_str(), now()).is_none(),
            "another key"
        );
        assert!(
            verp.decode(&format!("{local}@example.org"), now())
                .is_none(),
            "another domain"
        );
        assert!(
            verp.decode(
                path.as_str(),
                now().plus(DAYS_30 + Duration::from_secs(86_400))
            )
            .is_none(),
            "too old"
        );
        for at in PREFIX.len()..local.len() {
            let mut changed = local.as_bytes().to_vec();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(
                verp.decode_token(&changed, now()).is_none(),
                "changed at {at}"
            );
        }
        for text in [
            "",
            "rd-",
            "rd-aaaa",
            "rd-1",
            "jo",
            "rd-ääää",
            &format!("rd-{}", "a".repeat(10_000)),
        ] {
            assert!(verp.decode_token(text, now()).is_none(), "{text}");
        }
    }

    #[test]
    fn the_key_never_prints() {
        assert!(!format!("{:?}", verp("geheim")).contains("geheim"));
    }
}
