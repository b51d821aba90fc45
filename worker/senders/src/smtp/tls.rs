//! TLS as a client, with or without verifying the server's certificate (RFC 7435).

use std::io;
use std::sync::{Arc, OnceLock};

use domain::outcome::FaultKind;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WantsClientCert};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ConfigBuilder, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme,
};
use system::tls::TlsFiles;
use system::whose_fault::{OWN_TLS, When, network_error};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::wire::NoReply;

/// The client configurations with and without verification. Each is created when it is first
/// needed, because reading the system's certificates takes time.
pub(crate) struct TlsClient {
    files: TlsFiles,
    verified: OnceLock<Arc<ClientConfig>>,
    unverified: OnceLock<Arc<ClientConfig>>,
}

impl TlsClient {
    pub(crate) fn new(files: TlsFiles) -> Self {
        Self {
            files,
            verified: OnceLock::new(),
            unverified: OnceLock::new(),
        }
    }

    /// Performs the TLS handshake. If `verified`, the certificate has to match `host`.
    pub(crate) async fn connect(
        &self,
        host: &str,
        verified: bool,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, NoReply> {
        let config = self
            .config(verified)
            .map_err(|why| NoReply::caused_by(OWN_TLS, FaultKind::Tls, &why))?;
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned()).map_err(|_| {
            NoReply::new(
                FaultKind::Tls,
                format!("{host} is not a name that a certificate can be valid for"),
            )
        })?;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|err| failed(host, &err))
    }

    /// Returns the configuration, and keeps it for later calls. A failure is not kept: the files
    /// may have been unreadable only for a moment.
    fn config(&self, verified: bool) -> Result<Arc<ClientConfig>, String> {
        let kept = if verified {
            &self.verified
        } else {
            &self.unverified
        };
        if let Some(config) = kept.get() {
            return Ok(config.clone());
        }
        let created = if verified {
            verified_config(&self.files)
        } else {
            unverified_config(&self.files)
        }?;
        Ok(kept.get_or_init(|| created).clone())
    }
}

/// Returns the failure of a handshake. If the error has a system error number, it comes from the
/// network, otherwise from TLS.
fn failed(host: &str, err: &io::Error) -> NoReply {
    let what = format!("{host}: {err}");
    match err.raw_os_error() {
        Some(_) => NoReply::caused_by(network_error(err, When::Later), FaultKind::Tls, &what),
        None => NoReply::new(FaultKind::Tls, what),
    }
}

/// Returns the name of the TLS version in use.
pub(crate) fn version(stream: &TlsStream<TcpStream>) -> &'static str {
    match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    }
}

fn verified_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &files.authority {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|err| format!("tls_ca_file: {err}"))?;
                roots
                    .add(certificate)
                    .map_err(|err| format!("tls_ca_file: {err}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("the system has no trusted certificate authority; set tls_ca_file".to_owned());
    }
    let builder = builder()?.with_root_certificates(roots);
    with_own_certificate(builder, files)
}

fn unverified_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let verifier = AnyCertificate(Arc::new(ring::default_provider()));
    with_own_certificate(
        builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier)),
        files,
    )
}

fn builder() -> Result<ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|err| err.to_string())
}

fn with_own_certificate(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    files: &TlsFiles,
) -> Result<Arc<ClientConfig>, String> {
    let Some((certificate, key)) = &files.certificate else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|err| format!("tls_cert_file: {err}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|err| format!("tls_key_file: {err}"))?;
    let config = builder
        .with_client_auth_cert(chain, key)
        .map_err(|err| format!("tls_cert_file: {err}"))?;
    Ok(Arc::new(config))
}

/// Accepts any certificate, for opportunistic TLS. Verifying would not help: an attacker that can
/// present a forged certificate can also remove the offer of STARTTLS. Signatures are still
/// verified, so the peer must have the key of the certificate that it presents.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
