//! Webhooks of SES come through SNS. They are accepted only with a valid signature by a certificate
//! from SNS's own hosts, and only for configured topics.

use rcgen::{CertificateParams, PKCS_RSA_SHA256};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig};
use telemetry::spans::Tracing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:bounces";
const CERTIFICATE: &str =
    "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem";
const KEY_PEM: &str = include_str!("../../fixtures/sns-key.pem");
const SHA1: &str = include_str!("../../fixtures/sns-sha1.json");

/// Plays the hosts of SNS. They return a certificate, and record the requests that they get.
#[derive(Debug)]
struct Hosts {
    certificate: Vec<u8>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Fetch for Hosts {
    async fn get(&self, url: &Url) -> Result<Vec<u8>, String> {
        self.asked.lock().unwrap().push(url.to_string());
        match url.path() {
            "/down" => Err("no server is there".to_owned()),
            _ => Ok(self.certificate.clone()),
        }
    }
}

impl Hosts {
    /// Hosts whose certificate is valid from one year to another.
    fn with_certificate(from: i32, to: i32) -> Arc<Self> {
        let document = PrivatePkcs8KeyDer::from_pem_slice(KEY_PEM.as_bytes()).unwrap();
        let key =
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&document, &PKCS_RSA_SHA256).unwrap();
        let mut parameters = CertificateParams::new(vec!["sns.amazonaws.com".to_owned()]).unwrap();
        (parameters.not_before, parameters.not_after) = (
            rcgen::date_time_ymd(from, 1, 1),
            rcgen::date_time_ymd(to, 1, 1),
        );
        let certificate = parameters.self_signed(&key).unwrap().pem().into_bytes();
        Arc::new(Self {
            certificate,
            asked: Mutex::default(),
        })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve_ses(world: &World, hosts: &Arc<Hosts>) -> Http {
    let mut config = Config::embedded();
    config.scheduler.drain = std::time::Duration::ZERO;
    config.hooks.set(
        Service::Ses,
        Hook {
            topics: vec![TOPIC.to_owned()],
            ..Hook::default()
        },
    );
    let scheduler = Scheduler::new(
        world.store.clone(),
        Table::embedded(),
        &config,
        &Tracing::off(),
    )
    .unwrap();
    Http::serve_scheduler(scheduler.with_fetch(hosts.clone())).await
}

/// Signs a message as SNS does in version 2.
fn sign(mut message: Value) -> Value {
    let names: &[&str] = match message["Type"].as_str() {
        Some("Notification") => &[
            "Message",
            "MessageId",
            "Subject",
            "Timestamp",
            "TopicArn",
            "Type",
        ],
        _ => &[
            "Message",
            "MessageId",
            "SubscribeURL",
            "Timestamp",
            "Token",
            "TopicArn",
            "Type",
        ],
    };
    let lines = names
        .iter()
        .filter_map(|name| Some(format!("{name}\n{}\n", message[*name].as_str()?)));
    let text: String = lines.collect();
    let document = PrivatePkcs8KeyDer::from_pem_slice(KEY_PEM.as_bytes()).unwrap();
    let key = RsaKeyPair::from_pkcs8(document.secret_pkcs8_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        text.as_bytes(),
        &mut signature,
    )
    .unwrap();
    message["Signature"] = BASE64_STANDARD.encode(signature).into();
    message["SignatureVersion"] = "2".into();
    message["SigningCertURL"] = CERTIFICATE.into();
    message
}

fn complaint(at: Timestamp) -> Value {
    let complaint = json!({"complainedRecipients": [{"emailAddress": JO}], "timestamp": at});
    let notification = json!({"notificationType": "Complaint", "complaint": complaint,
        "mail": {"messageId": "s1"}});
    json!({"Type": "Notification", "MessageId": "n1", "TopicArn": TOPIC, "Timestamp": at,
        "Message": notification.to_string()})
}

#[tokio::test]
async fn sns_messages_signed_in_either_version_are_accepted_and_the_certificate_is_fetched_once() {
    let world = World::new().await;
    let hosts = Hosts::with_certificate(2026, 2028);
    let http = serve_ses(&world, &hosts).await;
    let wire = accepted(
        send(
            http.post("/v1/hooks/ses")
                .header("content-type", "text/plain")
                .body(SHA1),
        )
        .await,
    )
    .await;
    assert_eq!(answer_names(&wire), ["scheduled"], "{wire}");
    assert_eq!(world.waiting(JO).await, ["ses-1"]);

    let mut with_subject = complaint(world.now());
    with_subject["Subject"] = "a subject".into();
    let signed = sign(with_subject);
    let wire = accepted(send(http.post("/v1/hooks/ses").json(&signed)).await).await;
    assert_eq!(answer_names(&wire), ["suppressed"]);
    assert_eq!(hosts.asked(), [CERTIFICATE]);

    let wire = accepted(send(http.post("/v1/hooks/ses").json(&signed)).await).await;
    assert_eq!(
        (answer_names(&wire), &wire["replayed"]),
        (Vec::new(), &json!(1))
    );
    assert_eq!(world.events_of(EventKind::AddressSuppressed).await.len(), 1);
}

#[tokio::test]
async fn an_sns_message_without_a_valid_recent_signature_for_a_configured_topic_changes_nothing() {
    let world = World::new().await;
    let hosts = Hosts::with_certificate(2026, 2028);
    let http = serve_ses(&world, &hosts).await;
    let good = complaint(world.now());
    let with = |key: &str, value: Value| {
        let mut message = good.clone();
        message[key] = value;
        message
    };
    let changed_later = |key: &str, value: &str| {
        let mut message = sign(good.clone());
        message[key] = value.into();
        message
    };
    let long_ago = Timestamp::from_ms(world.now().ms() - 13 * 3_600_000);
    for (what, message) in [
        ("not signed", good.clone()),
        (
            "another topic",
            sign(with(
                "TopicArn",
                json!("arn:aws:sns:eu-west-1:999999999999:bounces"),
            )),
        ),
        ("no topic", sign(with("TopicArn", json!(null)))),
        ("long ago", sign(with("Timestamp", json!(long_ago)))),
        ("another type", sign(with("Type", json!("Teleport")))),
        ("changed", changed_later("Message", "{}")),
        (
            "changed time",
            changed_later("Timestamp", "2026-11-21T09:31:00Z"),
        ),
        ("an added subject", changed_later("Subject", "x")),
        ("another version", changed_later("SignatureVersion", "1")),
        ("unknown version", changed_later("SignatureVersion", "3")),
        ("no signature", changed_later("Signature", "")),
        (
            "evil certificate",
            changed_later(
                "SigningCertURL",
                "https://evil.example/SimpleNotificationService-1.pem",
            ),
        ),
        (
            "certificate over plain HTTP",
            changed_later("SigningCertURL", &CERTIFICATE.replace("https", "http")),
        ),
    ] {
        problem(send(http.post("/v1/hooks/ses").json(&message)).await, 401).await;
        assert_eq!(world.events().await, [], "{what}");
    }
    assert!(
        hosts.asked().iter().all(|url| url == CERTIFICATE),
        "no other URL is requested: {:?}",
        hosts.asked()
    );
    assert_eq!(
        answer_names(&accepted(send(http.post("/v1/hooks/ses").json(&sign(good))).await).await)
            .len(),
        1,
        "the unchanged message is accepted"
    );
}

#[tokio::test]
async fn an_sns_message_with_an_expired_or_invalid_certificate_changes_nothing() {
    let world = World::new().await;
    for (from, to) in [(2020, 2026), (2027, 2030)] {
        let http = serve_ses(&world, &Hosts::with_certificate(from, to)).await;
        problem(
            send(
                http.post("/v1/hooks/ses")
                    .json(&sign(complaint(world.now()))),
            )
            .await,
            401,
        )
        .await;
    }
    let none = Arc::new(Hosts {
        certificate: b"no certificate".to_vec(),
        asked: Mutex::default(),
    });
    let http = serve_ses(&world, &none).await;
    problem(
        send(
            http.post("/v1/hooks/ses")
                .json(&sign(complaint(world.now()))),
        )
        .await,
        401,
    )
    .await;
    assert_eq!(world.events().await, []);
}

#[tokio::test]
async fn a_subscription_is_confirmed_only_at_hosts_of_sns() {
    let world = World::new().await;
    let hosts = Hosts::with_certificate(2026, 2028);
    let http = serve_ses(&world, &hosts).await;
    let confirm = |url: &str, topic: &str| {
        sign(json!({
            "Type": "SubscriptionConfirmation", "MessageId": "n1", "TopicArn": topic,
            "Timestamp": world.now(),
            "Token": "t1", "Message": "You have chosen to subscribe", "SubscribeURL": url,
        }))
    };
    let good = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t1";
    for (url, topic, status) in [
        (
            "https://evil.example/?Action=ConfirmSubscription",
            TOPIC,
            401,
        ),
        (
            "https://sns.eu-west-1.amazonaws.com.evil.example/",
            TOPIC,
            401,
        ),
        ("http://sns.eu-west-1.amazonaws.com/", TOPIC, 401),
        (good, "arn:aws:sns:eu-west-1:999999999999:bounces", 401),
        ("https://sns.eu-west-1.amazonaws.com/down", TOPIC, 503),
    ] {
        problem(
            send(http.post("/v1/hooks/ses").json(&confirm(url, topic))).await,
            status,
        )
        .await;
        assert!(
            !hosts
                .asked()
                .iter()
                .any(|asked| asked.contains("evil") || asked == good),
            "{url}"
        );
    }
    let wire = accepted(send(http.post("/v1/hooks/ses").json(&confirm(good, TOPIC))).await).await;
    assert_eq!(wire["ignored"], 1);
    assert_eq!(hosts.asked().last().unwrap(), good);
}

#[tokio::test]
async fn certificates_are_fetched_only_over_tls_from_a_verified_host() {
    let host = "sns.eu-west-1.amazonaws.com";
    for (named, answer, expected) in [
        (
            host,
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody".to_owned(),
            Ok(b"body".to_vec()),
        ),
        (
            host,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Err("404"),
        ),
        (
            host,
            "HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n"
                .to_owned(),
            Err("302"),
        ),
        (
            host,
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{}",
                "x".repeat(99_999)
            ),
            Err("limit"),
        ),
        (
            "evil.example",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil".to_owned(),
            Err("certificate"),
        ),
    ] {
        let made = rcgen::generate_simple_self_signed(vec![named.to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let tls = tls
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = TlsAcceptor::from(Arc::new(tls)).accept(stream).await else {
                return;
            };
            let _ = stream.read(&mut [0; 4_096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
        let fetched = Https::with_roots(roots)
            .unwrap()
            .with_address(address)
            .get(&Url::parse(CERTIFICATE).unwrap())
            .await;
        match (fetched, expected) {
            (Ok(body), Ok(expected)) => assert_eq!(body, expected),
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{named}: {why}"),
            (fetched, expected) => panic!("{named}: {fetched:?} instead of {expected:?}"),
        }
    }
}
