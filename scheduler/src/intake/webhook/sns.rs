//! Amazon SNS: how its messages prove themselves, and how a subscription is confirmed
//! (docs.aws.amazon.com/sns, "Verifying the signatures of Amazon SNS messages"). Anybody with an
//! account there can have messages signed, so it is the topic that says whose they are; and
//! certificates come from SNS's own hosts alone.

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

use super::fetch::Fetch;
use super::proof::from_base64;
use super::{Delivery, Denied, Proven, is_fresh};

/// How many certificates are kept; SNS has one or two per region at a time.
const KEPT_MAX: usize = 32;

/// How many are fetched at once.
const FETCHES_MAX: usize = 4;

/// What is signed, in this order (of those that are there).
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

/// The certificates, and the way to get them.
#[derive(Debug)]
pub(super) struct Sns {
    fetch: Arc<dyn Fetch>,
    fetches: Semaphore,
    kept: Mutex<HashMap<String, Certificate>>,
}

/// A certificate's RSA key (PKCS #1), and when it holds.
#[derive(Clone, Debug)]
struct Certificate {
    key: Vec<u8>,
    from: Timestamp,
    to: Timestamp,
}

impl Sns {
    pub(super) fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self {
            fetch,
            fetches: Semaphore::new(FETCHES_MAX),
            kept: Mutex::default(),
        }
    }

    /// Checks topic, signature and age of a message, and confirms a subscription.
    pub(super) async fn prove(
        &self,
        hook: &Hook,
        delivery: &Delivery<'_>,
        now: Timestamp,
    ) -> Result<Proven, Denied> {
        let message: Value = serde_json::from_slice(delivery.body)
            .map_err(|err| Denied::Unreadable(format!("the body is not JSON: {err}")))?;
        let field = |name: &str| message[name].as_str();
        let topic = field("TopicArn").ok_or(Denied::Unproven(
            "it is no message of SNS; raw delivery cannot be verified",
        ))?;
        if !hook.topics.iter().any(|pattern| covers(pattern, topic)) {
            return Err(Denied::Unproven(
                "the topic is none of intake.hooks.ses.topics",
            ));
        }
        let kind = field("Type").unwrap_or_default();
        let signed = signed_text(kind, &message)
            .ok_or(Denied::Unproven("what has to be signed is missing"))?;
        let algorithm = match field("SignatureVersion") {
            Some("1") => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Some("2") => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(Denied::Unproven("the signature is of no known version")),
        };
        let at = field("SigningCertURL").and_then(certificate_url);
        let at = at.ok_or(Denied::Unproven("the certificate is not at a host of SNS"))?;
        let signature = field("Signature").and_then(from_base64).unwrap_or_default();
        self.verify(&at, algorithm, &signed, &signature, now)
            .await?;
        match field("Timestamp").and_then(Timestamp::parse) {
            Some(signed_at) if is_fresh(signed_at, now, hook) => {}
            _ => return Err(Denied::Unproven("it was signed too long ago")),
        }
        match kind {
            "SubscriptionConfirmation" => self.confirm(field("SubscribeURL"), topic).await,
            "UnsubscribeConfirmation" => {
                tracing::warn!(
                    topic,
                    "a topic of SNS has been unsubscribed, and tells nothing more"
                );
                Ok(Proven::Done("UnsubscribeConfirmation"))
            }
            _ => Ok(Proven::Body(delivery.body.to_vec(), None)),
        }
    }

    async fn verify(
        &self,
        at: &Url,
        algorithm: &'static RsaParameters,
        signed: &str,
        signature: &[u8],
        now: Timestamp,
    ) -> Result<(), Denied> {
        let certificate = self.certificate(at).await?;
        if now < certificate.from || certificate.to < now {
            return Err(Denied::Unproven(
                "the certificate's time is over, or has not come",
            ));
        }
        UnparsedPublicKey::new(algorithm, &certificate.key)
            .verify(signed.as_bytes(), signature)
            .map_err(|_| Denied::Unproven("the signature is not that of the certificate"))
    }

    async fn certificate(&self, at: &Url) -> Result<Certificate, Denied> {
        if let Some(certificate) = self.kept().get(at.as_str()) {
            return Ok(certificate.clone());
        }
        let undecided = |why: String| {
            Denied::Undecided(format!(
                "the certificate of SNS could not be fetched: {why}"
            ))
        };
        // Whoever forges messages could name ever new ones: only so many are asked for at once, and
        // others wait no time.
        let _permit = self
            .fetches
            .try_acquire()
            .map_err(|_| undecided("too many are being fetched".to_owned()))?;
        let pem = self.fetch.get(at).await.map_err(undecided)?;
        let certificate =
            read_certificate(&pem).ok_or(Denied::Unproven("the certificate cannot be read"))?;
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(at.as_str().to_owned(), certificate.clone());
        Ok(certificate)
    }

    async fn confirm(&self, url: Option<&str>, topic: &str) -> Result<Proven, Denied> {
        let url = url.and_then(sns_url).ok_or(Denied::Unproven(
            "the URL to confirm at is not at a host of SNS",
        ))?;
        self.fetch.get(&url).await.map_err(|why| {
            Denied::Undecided(format!("the subscription could not be confirmed: {why}"))
        })?;
        tracing::info!(topic, "subscribed to a topic of SNS");
        Ok(Proven::Done("SubscriptionConfirmation"))
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Certificate>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a topic is meant by a pattern: itself, or all that start so.
fn covers(pattern: &str, topic: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == topic, |start| topic.starts_with(start))
}

/// Names and values, each on a line of its own.
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

/// A URL at a host of SNS: `sns.<region>.amazonaws.com`, or of China.
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

/// Where a certificate of SNS is: `/SimpleNotificationService-<digits>.pem` at one of its hosts.
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
    let (from, to) = (
        seconds(validity.not_before.timestamp()),
        seconds(validity.not_after.timestamp()),
    );
    let key = certificate.public_key().subject_public_key.data.to_vec();
    Some(Certificate { key, from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_come_from_hosts_of_sns_alone() {
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
    fn a_topic_is_meant_by_itself_or_by_its_start() {
        let topic = "arn:aws:sns:eu-west-1:123456789012:bounces";
        for (pattern, expected) in [
            (topic, true),
            ("arn:aws:sns:eu-west-1:123456789012:*", true),
            ("*", true),
            ("arn:aws:sns:eu-west-1:123456789012:bounce", false),
            ("arn:aws:sns:eu-west-1:999999999999:*", false),
            ("", false),
        ] {
            assert_eq!(covers(pattern, topic), expected, "{pattern}");
        }
    }
}
