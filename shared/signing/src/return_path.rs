//! Variable envelope return paths (VERP). Our own senders put one on every message. If a report is
//! delivered to it, the report is about that message, even if its text is unclear.
//!
//! A local part has at most 64 octets (RFC 5321, section 4.5.3.1.1). That is too little for an
//! account, an address and a message id. So the token contains the account, and a hash of each of
//! the other two. The recipient that a report names is compared with its hash. The message is found
//! by its hash among the messages that wait for that address. The token is signed, so that a bounce
//! cannot be forged for mail that was never sent.
//!
//! The layout, with the number of octets of each field:
//!
//! ```text
//! rd-  base32( octets )
//! octets: version 1 | day 2 | recipient 5 | message 6 | account 1..14 | HMAC-SHA256, its first 10
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

/// The beginning of every token.
const PREFIX: &str = "rd-";

/// The version of the token's layout.
const VERSION: u8 = 1;

const RECIPIENT: usize = 5;
const MESSAGE: usize = 6;
const MAC: usize = 10;

/// The number of octets before the account.
const HEAD: usize = 1 + 2 + RECIPIENT + MESSAGE;

/// The longest account that fits into a local part, in octets.
pub const ACCOUNT_MAX: usize = 14;

/// The longest account that fits into an envelope id, in octets. RFC 3461, section 5.3.3, allows an
/// id of 100 octets.
pub const ACCOUNT_MAX_IN_ENVELOPE_ID: usize = 36;

const DAY_MS: i64 = 86_400_000;

/// Makes and verifies tokens.
#[derive(Clone)]
pub struct Verp {
    domain: String,
    key: hmac::Key,
    valid_for: Duration,
}

/// The content of a token that we made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The tenant that the mail belongs to.
    pub account: Account,
    recipient: [u8; RECIPIENT],
    message: [u8; MESSAGE],
}

impl Verp {
    /// Returns a maker of tokens at `domain`, signed with `key`. Tokens are valid for `valid_for`.
    pub fn new(domain: &str, key: &[u8], valid_for: Duration) -> Self {
        Self {
            domain: domain.to_ascii_lowercase(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            valid_for,
        }
    }

    /// Returns the domain that reports are sent to.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the return path for one message of a job that is sent now. Returns `None` if the
    /// account is longer than [`ACCOUNT_MAX`].
    pub fn encode(&self, job: &JobId, message_id: &str, now: Timestamp) -> Option<Address> {
        let token = self.token(job, message_id, now, ACCOUNT_MAX)?;
        Address::parse(&format!("{token}@{}", self.domain)).ok()
    }

    /// Returns the same token as an envelope id (`ENVID`, RFC 3461, section 4.4), for relays that
    /// send reports. Returns `None` if the account is longer than [`ACCOUNT_MAX_IN_ENVELOPE_ID`].
    /// The id needs no xtext encoding.
    pub fn envelope_id(&self, job: &JobId, message_id: &str, now: Timestamp) -> Option<String> {
        self.token(job, message_id, now, ACCOUNT_MAX_IN_ENVELOPE_ID)
    }

    /// Reads the return path that a report was delivered to. Mail systems may have changed the case
    /// of its letters.
    pub fn decode(&self, address: &str, now: Timestamp) -> Option<Token> {
        let address = address.trim().trim_matches(['<', '>']);
        let (local, domain) = address.rsplit_once('@')?;
        domain
            .eq_ignore_ascii_case(&self.domain)
            .then(|| self.decode_token(local, now))
            .flatten()
    }

    /// Reads a token without a domain, as in an envelope id.
    pub fn decode_token(&self, token: &str, now: Timestamp) -> Option<Token> {
        let (prefix, code) = token.split_at_checked(PREFIX.len())?;
        let bytes = prefix
            .eq_ignore_ascii_case(PREFIX)
            .then(|| BASE32_NOPAD_NOCASE.decode(code.as_bytes()).ok())??;
        let (signed, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        let expected = hmac::sign(&self.key, signed);
        // The comparison always takes the same time, although a token is hardly a secret that could
        // be guessed octet by octet.
        let differs = expected.as_ref()[..MAC]
            .iter()
            .zip(mac)
            .fold(0, |differs, (a, b)| differs | (a ^ b));
        let (head, account) = signed.split_at_checked(HEAD)?;
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
        let mut octets = Vec::with_capacity(HEAD + account.len() + MAC);
        octets.push(VERSION);
        octets.extend_from_slice(&day(now).to_be_bytes());
        octets.extend_from_slice(&hash_of_recipient(&job.recipient));
        octets.extend_from_slice(&hash_of_message(message_id));
        octets.extend_from_slice(account);
        let mac = hmac::sign(&self.key, &octets);
        octets.extend_from_slice(&mac.as_ref()[..MAC]);
        Some(format!(
            "{PREFIX}{}",
            BASE32_NOPAD_NOCASE.encode(&octets).to_ascii_lowercase()
        ))
    }

    fn is_valid(&self, made: u16, now: Timestamp) -> bool {
        let age = i64::from(day(now)) - i64::from(made);
        // Near midnight the clocks of two machines may show different days.
        age >= -1
            && age.saturating_mul(DAY_MS)
                <= i64::try_from(self.valid_for.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Token {
    /// Whether the mail was for this address. Two different addresses match with a chance of 1 in
    /// 10¹².
    pub fn is_for(&self, recipient: &Address) -> bool {
        self.recipient == hash_of_recipient(recipient)
    }

    /// Whether the token is about this message.
    pub fn names(&self, message_id: &str) -> bool {
        self.message == hash_of_message(message_id)
    }

    /// Returns a name for the message, for use when its id is no longer known. It is the same in
    /// every report about the message.
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
    /// Does not show the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verp")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// Returns the days since 1970. The number fits until the year 2149.
fn day(now: Timestamp) -> u16 {
    u16::try_from(now.ms() / DAY_MS).unwrap_or_default()
}

fn hash_of_recipient(recipient: &Address) -> [u8; RECIPIENT] {
    // Mail systems change the case of local parts, although only the recipient's host may do so.
    first_octets(xxh3_64(recipient.as_str().to_lowercase().as_bytes()))
}

fn hash_of_message(message_id: &str) -> [u8; MESSAGE] {
    first_octets(xxh3_64(message_id.trim_matches(['<', '>']).as_bytes()))
}

fn first_octets<const N: usize>(hash: u64) -> [u8; N] {
    let bytes = hash.to_be_bytes();
    std::array::from_fn(|n| bytes[n])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest local part that every mail system can handle, in octets (RFC 5321, section
    /// 4.5.3.1.1).
    const MAX_LOCAL: usize = 64;

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
    fn a_return_path_is_decoded_into_what_it_was_made_from() {
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
    fn a_long_account_fits_only_into_an_envelope_id() {
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
    fn a_forged_changed_expired_or_foreign_token_is_rejected() {
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
    fn the_key_is_never_printed() {
        assert!(!format!("{:?}", verp("geheim")).contains("geheim"));
    }
}
