//! The only way by which the scheduler sends requests to SNS: for its certificates, and to confirm
//! a subscription. The caller has decided that the URL is allowed. This module only fetches it,
//! over TLS, within bounds on time and size, and follows no redirect.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

/// How long a fetch may take in all.
const TIME_MAX: Duration = Duration::from_secs(10);

/// How large the body may be, in bytes. A certificate has about two thousand.
const SIZE_MAX: usize = 64 << 10;

/// Fetches the content of a URL.
#[async_trait]
pub trait Fetch: fmt::Debug + Send + Sync {
    /// Returns the body of a successful answer.
    ///
    /// # Errors
    /// If there is no successful answer. The text explains why.
    async fn get(&self, url: &Url) -> Result<Vec<u8>, String>;
}

/// Fetches over TLS.
pub struct Https {
    tls: Arc<ClientConfig>,
    /// The address to connect to instead of the URL's host. Only tests set it.
    connect_to: Option<SocketAddr>,
}

impl Https {
    /// Trusts the certificate authorities that the system trusts.
    ///
    /// # Errors
    /// If the system has no list of them.
    pub fn new() -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (known, _) = roots.add_parsable_certificates(found.certs);
        if known == 0 {
            return Err(
                "the system has no list of trusted authorities; install ca-certificates".to_owned(),
            );
        }
        Self::with_roots(roots)
    }

    /// Trusts only these certificate authorities.
    ///
    /// # Errors
    /// Never, with the cryptography that is built in.
    pub fn with_roots(roots: RootCertStore) -> Result<Self, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|err| err.to_string())?;
        Ok(Self {
            tls: Arc::new(builder.with_root_certificates(roots).with_no_client_auth()),
            connect_to: None,
        })
    }

    /// The same client, but it connects to this address for every URL. The certificate must still
    /// be valid for the URL's host.
    #[must_use]
    pub fn with_address(self, address: SocketAddr) -> Self {
        Self {
            connect_to: Some(address),
            ..self
        }
    }

    async fn request(&self, url: &Url) -> Result<Vec<u8>, String> {
        let host = url
            .host_str()
            .filter(|_| url.scheme() == "https")
            .ok_or("the URL is not an https URL")?;
        let to_text = |err: &dyn fmt::Display| err.to_string();
        let tcp = match self.connect_to {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((host, url.port_or_known_default().unwrap_or(443))).await,
        };
        let tcp = tcp.map_err(|err| to_text(&err))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|err| to_text(&err))?;
        let tls = TlsConnector::from(self.tls.clone())
            .connect(name, tcp)
            .await
            .map_err(|err| to_text(&err))?;
        let (mut sender, connection) = handshake(TokioIo::new(tls))
            .await
            .map_err(|err| to_text(&err))?;
        let connection = tokio::spawn(connection);
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::CONNECTION, "close");
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|err| to_text(&err))?;
        let answer = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|err| to_text(&err))?;
            if !response.status().is_success() {
                return Err(format!("the answer is {}", response.status()));
            }
            let body = Limited::new(response.into_body(), SIZE_MAX)
                .collect()
                .await
                .map_err(|err| to_text(&err))?;
            Ok(body.to_bytes().to_vec())
        };
        let answer = answer.await;
        connection.abort();
        answer
    }
}

#[async_trait]
impl Fetch for Https {
    async fn get(&self, url: &Url) -> Result<Vec<u8>, String> {
        timeout(TIME_MAX, self.request(url))
            .await
            .map_err(|_| format!("no answer within {TIME_MAX:?}"))?
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https")
            .field("connect_to", &self.connect_to)
            .finish_non_exhaustive()
    }
}

/// A fetcher that always fails, for a scheduler that has no SES hook. Contains the error text. SNS
/// messages cannot be verified with it.
#[derive(Debug)]
pub struct Unreachable(pub String);

#[async_trait]
impl Fetch for Unreachable {
    async fn get(&self, _: &Url) -> Result<Vec<u8>, String> {
        Err(self.0.clone())
    }
}
