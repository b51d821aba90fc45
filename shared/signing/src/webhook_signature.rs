//! Signs HTTP requests by the Standard Webhooks scheme (github.com/standard-webhooks,
//! spec/standard-webhooks.md). A receiver with the secret can verify that a request is ours,
//! unchanged and new.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use domain::clock::Timestamp;
use ring::hmac;

/// The beginning of every secret.
const PREFIX: &str = "whsec_";

/// The allowed length of a decoded secret, in octets.
const SECRET_OCTETS: std::ops::RangeInclusive<usize> = 24..=64;

/// Signs requests. If there are several secrets, each request has one signature per secret, so that
/// a secret can be changed without downtime.
#[derive(Clone)]
pub struct Signer {
    keys: Vec<hmac::Key>,
}

/// Why a text does not contain valid secrets. The message never shows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must hold secrets like whsec_…, each with base64 of 24 to 64 octets, \
     separated by white space"
)]
pub struct NotASecret;

impl Signer {
    /// Returns a signer for the secrets in a text, which must contain at least one. They are
    /// separated by white space.
    pub fn from_secrets(text: &str) -> Result<Self, NotASecret> {
        let keys: Vec<hmac::Key> = text.split_whitespace().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            Err(NotASecret)
        } else {
            Ok(Self { keys })
        }
    }

    /// Returns the value of `webhook-signature` for a request with this `webhook-id`,
    /// `webhook-timestamp` (in seconds) and body.
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let mut signed = format!("{id}.{}.", seconds(at)).into_bytes();
        signed.extend_from_slice(body);
        let signatures = self
            .keys
            .iter()
            .map(|key| format!("v1,{}", BASE64_STANDARD.encode(hmac::sign(key, &signed))));
        signatures.collect::<Vec<_>>().join(" ")
    }
}

/// Returns the value of `webhook-timestamp`: whole seconds since 1970.
pub fn seconds(at: Timestamp) -> i64 {
    at.ms().div_euclid(1_000)
}

fn key(secret: &str) -> Result<hmac::Key, NotASecret> {
    let octets = BASE64_STANDARD
        .decode(secret.strip_prefix(PREFIX).ok_or(NotASecret)?)
        .map_err(|_| NotASecret)?;
    if SECRET_OCTETS.contains(&octets.len()) {
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &octets))
    } else {
        Err(NotASecret)
    }
}

impl fmt::Debug for Signer {
    /// Shows the number of secrets, but no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base64 of the octets 1 to 24.
    const SECRET: &str = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY";

    #[test]
    fn a_signature_equals_the_one_that_openssl_computes() {
        let signer = Signer::from_secrets(SECRET).unwrap();
        // printf 'msg_1.1763716200.{"a":1}'
        //   | openssl dgst -sha256 -mac HMAC -macopt hexkey:0102…18 -binary | base64
        let signature = signer.sign(
            "msg_1",
            Timestamp::from_ms(1_763_716_200_999),
            br#"{"a":1}"#,
        );
        assert_eq!(signature, "v1,L490aYDR6eCn0m2TTmu8DCNraov1FS+2L65mZ7X0M7s=");
        let both = Signer::from_secrets(&format!("{SECRET}\n{SECRET}\n")).unwrap();
        assert_eq!(
            both.sign(
                "msg_1",
                Timestamp::from_ms(1_763_716_200_000),
                br#"{"a":1}"#
            ),
            format!("{signature} {signature}")
        );
        assert!(
            !format!("{signer:?}").contains("AQID"),
            "secrets never print"
        );
    }

    #[test]
    fn a_text_without_valid_secrets_is_rejected() {
        for text in [
            "",
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY",
            "whsec_!",
            "whsec_AQID",
            "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY x",
        ] {
            assert_eq!(
                Signer::from_secrets(text).unwrap_err(),
                NotASecret,
                "{text}"
            );
        }
    }
}
