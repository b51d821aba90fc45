//! The seam through which the scheduler asks SNS for something: its certificates, and to confirm a
//! subscription. What may be asked for is decided before; this only gets it, over TLS, in bounded
//! time and size, and follows no redirect.

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

/// How long getting something may take in all.
const TIME_MAX: Duration = Duration::from_secs(10);

/// How large it may be, in bytes: certificates have about two thousand.
const SIZE_MAX: usize = 64 << 10;

/// Gets what is at a URL.
#[async_trait]
pub trait Fetch: fmt::Debug + Send + Sync {
    /// The body of a successful answer.
    ///
    /// # Errors
    /// Where there is none; the text says why.
    async fn get(&self, url: &Url) -> Result<Vec<u8>, String>;
}

/// Gets it over TLS.
pub struct Https {
    tls: Arc<ClientConfig>,
    /// Where to connect to in place of the URL's host; only tests do.
    instead: Option<SocketAddr>,
}

impl Https {
    /// Trusts whom the system trusts.
    ///
    /// # Errors
    /// Where that cannot be told.
    pub fn new() -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (known, _) = roots.add_parsable_certificates(found.certs);
        if known == 0 {
            return Err(
                "the system has no certificates of authorities; install ca-certificates".to_owned(),
            );
        }
        Self::trusting(roots)
    }

    /// Trusts these alone.
    ///
    /// # Errors
    /// Never, with the cryptography that is built in.
    pub fn trusting(roots: RootCertStore) -> Result<Self, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|err| err.to_string())?;
        Ok(Self {
            tls: Arc::new(builder.with_root_certificates(roots).with_no_client_auth()),
            instead: None,
        })
    }

    /// The same, which connects to this address whatever the URL's host is. The certificate must be
    /// that host's all the same.
    #[must_use]
    pub fn by_way_of(self, address: SocketAddr) -> Self {
        Self {
            instead: Some(address),
            ..self
        }
    }

    async fn ask(&self, url: &Url) -> Result<Vec<u8>, String> {
        let host = url
            .host_str()
            .filter(|_| url.scheme() == "https")
            .ok_or("it is no https URL")?;
        let to_text = |err: &dyn fmt::Display| err.to_string();
        let tcp = match self.instead {
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
        timeout(TIME_MAX, self.ask(url))
            .await
            .map_err(|_| format!("no answer within {TIME_MAX:?}"))?
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https")
            .field("instead", &self.instead)
            .finish_non_exhaustive()
    }
}

/// Stands for a system where nothing can be fetched: SNS's messages cannot be verified then.
#[derive(Debug)]
pub struct Unreachable(pub String);

#[async_trait]
impl Fetch for Unreachable {
    async fn get(&self, _: &Url) -> Result<Vec<u8>, String> {
        Err(self.0.clone())
    }
}
