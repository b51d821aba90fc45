//! How a request proves its origin: by a password, a token, or a signature. Secrets are compared in
//! constant time, so that the duration does not reveal how much of a secret was right.

use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use config::hooks::Hook;
use ring::hmac;
use typed_toml::secret::Secret;

use super::request::{Denied, Verified, WebhookRequest};

/// The longest Authorization header that is read, in bytes.
const AUTHORIZATION_MAX: usize = 4 << 10;

/// The answer of a hook that has no secret. A configuration without the secret is rejected at
/// start, so a running scheduler never gives this answer.
pub(super) const NO_SECRET: Denied =
    Denied::Unverified("this hook has no secret to verify requests with");

/// Verifies basic authentication (RFC 7617) with the hook's user and password.
pub(super) fn verify_basic(hook: &Hook, request: &WebhookRequest<'_>) -> Result<Verified, Denied> {
    let (Some(user), Some(password)) = (&hook.user, &hook.secret) else {
        return Err(NO_SECRET);
    };
    let expected = format!("{user}:{}", password.reveal_text());
    let given = authorization(request, "basic").and_then(|text| BASE64_STANDARD.decode(text).ok());
    match given {
        Some(given) if is_same(&given, expected.as_bytes()) => Ok(verified(request)),
        Some(_) => Err(Denied::Unverified(
            "the user or the password is not the one of this hook",
        )),
        None => Err(Denied::Unverified(
            "basic authentication is missing; put user and password into the webhook's URL",
        )),
    }
}

/// Verifies a bearer token (RFC 6750).
pub(super) fn verify_bearer(hook: &Hook, request: &WebhookRequest<'_>) -> Result<Verified, Denied> {
    let Some(token) = &hook.secret else {
        return Err(NO_SECRET);
    };
    match authorization(request, "bearer") {
        Some(given) if is_same(given.as_bytes(), token.reveal()) => Ok(verified(request)),
        Some(_) => Err(Denied::Unverified(
            "the bearer token is not the one of this hook",
        )),
        None => Err(Denied::Unverified(
            "the bearer token is missing; send the header \"Authorization: Bearer …\"",
        )),
    }
}

fn verified(request: &WebhookRequest<'_>) -> Verified {
    Verified::Events {
        body: request.body.to_vec(),
        request_id: None,
    }
}

/// Whether `signature`, in hexadecimal digits, is the HMAC-SHA256 of `text` under this key.
pub(super) fn is_hmac(key: &Secret, text: &[u8], signature: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.reveal());
    from_hex(signature).is_some_and(|signature| hmac::verify(&key, text, &signature).is_ok())
}

/// Decodes standard base64. Line ends and other white space in it are ignored.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    BASE64_STANDARD.decode(packed).ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

/// Returns the credentials after this scheme in the Authorization header.
fn authorization<'r>(request: &WebhookRequest<'r>, scheme: &str) -> Option<&'r str> {
    let header = request
        .headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()
        .filter(|text| text.len() <= AUTHORIZATION_MAX)?;
    let (given, rest) = header.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then_some(rest.trim())
}

/// Whether two texts are the same. Compares their MACs under a random key, so that the duration
/// reveals neither the place where they differ nor their length.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let Ok(key) = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()) else {
        return false;
    };
    hmac::verify(&key, given, hmac::sign(&key, expected).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};

    use super::*;

    fn with(header: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(header).unwrap())])
    }

    fn passes(
        verify: fn(&Hook, &WebhookRequest<'_>) -> Result<Verified, Denied>,
        header: Option<&str>,
    ) -> bool {
        let hook = Hook {
            user: Some("pm".to_owned()),
            secret: Some(Secret::new("geheim")),
            ..Hook::default()
        };
        let headers = header.map(with).unwrap_or_default();
        verify(
            &hook,
            &WebhookRequest {
                headers: &headers,
                body: b"{}",
            },
        )
        .is_ok()
    }

    #[test]
    fn only_the_right_password_passes() {
        for (header, expected) in [
            (
                Some(format!("Basic {}", BASE64_STANDARD.encode("pm:geheim"))),
                true,
            ),
            (
                Some(format!("basic {}", BASE64_STANDARD.encode("pm:geheim"))),
                true,
            ),
            (
                Some(format!("Basic {}", BASE64_STANDARD.encode("pm:geheim1"))),
                false,
            ),
            (
                Some(format!("Basic {}", BASE64_STANDARD.encode("pm:gehei"))),
                false,
            ),
            (
                Some(format!("Basic {}", BASE64_STANDARD.encode("PM:geheim"))),
                false,
            ),
            (Some("Basic pm:geheim".to_owned()), false),
            (Some("Basic".to_owned()), false),
            (
                Some(format!("Bearer {}", BASE64_STANDARD.encode("pm:geheim"))),
                false,
            ),
            (None, false),
        ] {
            assert_eq!(
                passes(verify_basic, header.as_deref()),
                expected,
                "{header:?}"
            );
        }
    }

    #[test]
    fn only_the_right_token_passes() {
        for (header, expected) in [
            (Some("Bearer geheim"), true),
            (Some("bearer geheim"), true),
            (Some("Bearer Geheim"), false),
            (Some("Bearer "), false),
            (Some("Basic geheim"), false),
            (None, false),
        ] {
            assert_eq!(passes(verify_bearer, header), expected, "{header:?}");
        }
    }

    #[test]
    fn an_hmac_passes_only_if_all_of_it_matches() {
        // RFC 4231, section 4.3.
        let right = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let (key, text) = (Secret::new("Jefe"), b"what do ya want for nothing?");
        assert!(is_hmac(&key, text, right) && is_hmac(&key, text, &right.to_uppercase()));
        for wrong in [
            "",
            &right[1..],
            &format!("{right}0"),
            &right.replace('5', "6"),
            &"é".repeat(32),
        ] {
            assert!(!is_hmac(&key, text, wrong), "{wrong}");
        }
    }
}
