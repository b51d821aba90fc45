//! Amazon SNS: verifies its messages, and confirms subscriptions (docs.aws.amazon.com/sns,
//! "Verifying the signatures of Amazon SNS messages"). Any customer of SNS can have messages
//! signed, so the topic decides whether a message is ours. Certificates are fetched only from SNS's
//! own hosts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::hooks::Hook;
use domain::clock::Timestamp;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters,
    UnparsedPublicKey,
};
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;
use x509_parser::pem::parse_x509_pem;

use super::authentication::from_base64;
use super::fetch::Fetch;
use super::request::{Denied, NOT_FRESH, Verified, WebhookRequest, is_fresh};

/// How many certificates are kept. SNS has one or two per region at a time.
const KEPT_MAX: usize = 32;

/// How many certificates are fetched at the same time.
const FETCHES_MAX: usize = 4;

/// The fields that are signed, in this order. `Subject` may be absent.
const SIGNED_NOTIFICATION: [&str; 6] = [
    "Message",
    "MessageId",
    "Subject",
    "Timestamp",
    "TopicArn",
    "Type",
];
const SIGNED_SUBSCRIPTION: [&str; 7] = [
    "Message",
    "MessageId",
    "SubscribeURL",
    "Timestamp",
    "Token",
    "TopicArn",
    "Type",
];

/// Verifies messages. Keeps the certificates of SNS, and fetches new ones.
#[derive(Debug)]
pub(super) struct Sns {
    fetch: Arc<dyn Fetch>,
    fetches: Semaphore,
    kept: Mutex<HashMap<String, Certificate>>,
}

/// A certificate's RSA key (PKCS #1), and the time for which it is valid.
#[derive(Clone, Debug)]
struct Certificate {
    key: Vec<u8>,
    valid_from: Timestamp,
    valid_until: Timestamp,
}

impl Sns {
    pub(super) fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self {
            fetch,
            fetches: Semaphore::new(FETCHES_MAX),
            kept: Mutex::default(),
        }
    }

    /// Verifies topic, signature and age of a message. Also confirms a subscription.
    pub(super) async fn verify(
        &self,
        hook: &Hook,
        request: &WebhookRequest<'_>,
        now: Timestamp,
    ) -> Result<Verified, Denied> {
        let message: Value = serde_json::from_slice(request.body)
            .map_err(|err| Denied::Unreadable(format!("the body is not JSON: {err}")))?;
        let field = |name: &str| message[name].as_str();
        let topic = field("TopicArn").ok_or(Denied::Unverified(
            "the body is not an SNS message; turn raw message delivery off, it cannot be verified",
        ))?;
        if !hook
            .topics
            .iter()
            .any(|pattern| matches_topic(pattern, topic))
        {
            return Err(Denied::Unverified(
                "the topic is not in intake.hooks.ses.topics",
            ));
        }
        let kind = field("Type").unwrap_or_default();
        let signed = signed_text(kind, &message)
            .ok_or(Denied::Unverified("a field that must be signed is missing"))?;
        let algorithm = match field("SignatureVersion") {
            Some("1") => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Some("2") => &RSA_PKCS1_2048_8192_SHA256,
            _ => {
                return Err(Denied::Unverified(
                    "the version of the signature is not known",
                ));
            }
        };
        let certificate_url =
            field("SigningCertURL")
                .and_then(certificate_url)
                .ok_or(Denied::Unverified(
                    "the certificate is not at a host of SNS",
                ))?;
        let signature = field("Signature").and_then(from_base64).unwrap_or_default();
        self.verify_signature(&certificate_url, algorithm, &signed, &signature, now)
            .await?;
        match field("Timestamp").and_then(Timestamp::parse) {
            Some(signed_at) if is_fresh(signed_at, now, hook) => {}
            _ => return Err(NOT_FRESH),
        }
        match kind {
            "SubscriptionConfirmation" => self.confirm(field("SubscribeURL"), topic).await,
            "UnsubscribeConfirmation" => {
                tracing::warn!(
                    topic,
                    "unsubscribed from an SNS topic, which sends no more events"
                );
                Ok(Verified::Handled("UnsubscribeConfirmation"))
            }
            _ => Ok(Verified::Events {
                body: request.body.to_vec(),
                request_id: None,
            }),
        }
    }

    async fn verify_signature(
        &self,
        certificate_url: &Url,
        algorithm: &'static RsaParameters,
        signed: &str,
        signature: &[u8],
        now: Timestamp,
    ) -> Result<(), Denied> {
        let certificate = self.certificate(certificate_url).await?;
        if now < certificate.valid_from || certificate.valid_until < now {
            return Err(Denied::Unverified(
                "the certificate is not valid at this time",
            ));
        }
        UnparsedPublicKey::new(algorithm, &certificate.key)
            .verify(signed.as_bytes(), signature)
            .map_err(|_| {
                Denied::Unverified("the signature was not made with the key of the certificate")
            })
    }

    async fn certificate(&self, url: &Url) -> Result<Certificate, Denied> {
        if let Some(certificate) = self.kept().get(url.as_str()) {
            return Ok(certificate.clone());
        }
        let undecided = |why: String| {
            Denied::Undecided(format!(
                "the certificate of SNS could not be fetched: {why}"
            ))
        };
        // Forged messages could name ever new certificates. So only a few are fetched at the same
        // time, and further requests fail immediately instead of waiting.
        let _permit = self
            .fetches
            .try_acquire()
            .map_err(|_| undecided("too many certificates are being fetched".to_owned()))?;
        let pem = self.fetch.get(url).await.map_err(undecided)?;
        let certificate =
            read_certificate(&pem).ok_or(Denied::Unverified("the certificate cannot be read"))?;
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(url.as_str().to_owned(), certificate.clone());
        Ok(certificate)
    }

    async fn confirm(&self, url: Option<&str>, topic: &str) -> Result<Verified, Denied> {
        let url = url.and_then(sns_url).ok_or(Denied::Unverified(
            "the URL that confirms the subscription is not at a host of SNS",
        ))?;
        self.fetch.get(&url).await.map_err(|why| {
            Denied::Undecided(format!("the subscription could not be confirmed: {why}"))
        })?;
        tracing::info!(topic, "subscribed to an SNS topic");
        Ok(Verified::Handled("SubscriptionConfirmation"))
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Certificate>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a topic matches a pattern: a topic, or the start of topics with a `*` after it.
fn matches_topic(pattern: &str, topic: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == topic, |start| topic.starts_with(start))
}

/// Returns the text that is signed: the names and values of the signed fields, each on its own
/// line. Returns `None` if a field is missing.
fn signed_text(kind: &str, message: &Value) -> Option<String> {
    let names: &[&str] = match kind {
        "Notification" => &SIGNED_NOTIFICATION,
        "SubscriptionConfirmation" | "UnsubscribeConfirmation" => &SIGNED_SUBSCRIPTION,
        _ => return None,
    };
    let mut signed = String::new();
    for name in names {
        match &message[*name] {
            Value::String(value) => {
                for part in [name, value.as_str()] {
                    signed.push_str(part);
                    signed.push('\n');
                }
            }
            Value::Null if *name == "Subject" => {}
            _ => return None,
        }
    }
    Some(signed)
}

/// Parses a URL at a host of SNS: `sns.<region>.amazonaws.com`, or `….amazonaws.com.cn` in China.
/// Returns `None` for any other URL.
fn sns_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let host = url.host_str()?.strip_prefix("sns.")?;
    let region = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let is_region = (1..=32).contains(&region.len())
        && region
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let plain = url.scheme() == "https"
        && url.port().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none();
    (is_region && plain).then_some(url)
}

/// Parses the URL of an SNS certificate: `/SimpleNotificationService-<letters and digits>.pem` at a
/// host of SNS.
fn certificate_url(text: &str) -> Option<Url> {
    let url = sns_url(text)?;
    let name = url
        .path()
        .strip_prefix("/SimpleNotificationService-")?
        .strip_suffix(".pem")?;
    let plain = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    (plain && url.query().is_none()).then_some(url)
}

fn read_certificate(pem: &[u8]) -> Option<Certificate> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let seconds = |seconds: i64| Timestamp::from_ms(seconds.saturating_mul(1_000));
    let validity = certificate.validity();
    let key = certificate.public_key().subject_public_key.data.to_vec();
    Some(Certificate {
        key,
        valid_from: seconds(validity.not_before.timestamp()),
        valid_until: seconds(validity.not_after.timestamp()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_fetched_only_from_hosts_of_sns() {
        for (url, expected) in [
            (
                "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcd.pem",
                true,
            ),
            (
                "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-1.pem",
                true,
            ),
            (
                "https://SNS.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
                true,
            ),
            (
                "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com@evil.example/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://evil@sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://sns.evil.example/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://evil.sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://sns.a.b.amazonaws.com/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://sns.bucket.s3.amazonaws.com/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://sns.amazonaws.com/SimpleNotificationService-1.pem",
                false,
            ),
            ("https://sns.eu-west-1.amazonaws.com/evil.pem", false),
            (
                "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-.pem",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com/x/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem/../evil",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-a/b.pem",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem?x=1",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem#x",
                false,
            ),
            (
                "https://sns.eu-west-1.amazonaws.com\\@evil.example/SimpleNotificationService-1.pem",
                false,
            ),
            (
                "//sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
                false,
            ),
            ("", false),
        ] {
            assert_eq!(certificate_url(url).is_some(), expected, "{url}");
        }
    }

    #[test]
    fn a_topic_matches_itself_or_its_start_with_a_star() {
        let topic = "arn:aws:sns:eu-west-1:123456789012:bounces";
        for (pattern, expected) in [
            (topic, true),
            ("arn:aws:sns:eu-west-1:123456789012:*", true),
            ("*", true),
            ("arn:aws:sns:eu-west-1:123456789012:bounce", false),
            ("arn:aws:sns:eu-west-1:999999999999:*", false),
            ("", false),
        ] {
            assert_eq!(matches_topic(pattern, topic), expected, "{pattern}");
        }
    }
}
