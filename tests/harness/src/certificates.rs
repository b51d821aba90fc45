//! Certificates of a test's own authority, and the TLS settings of servers that use them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use tokio_rustls::TlsAcceptor;

/// The authority of a test, and a certificate that it signed: paths of PEM files.
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// A certificate for a name or an address. It is valid for servers and for clients.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes the files in `folder`, for 127.0.0.1.
    pub fn make(folder: &Path) -> Self {
        Self::make_for(folder, "127.0.0.1")
    }

    /// Makes the files in `folder`, for a host's name or its address.
    pub fn make_for(folder: &Path, name: &str) -> Self {
        let paths = ["ca.pem", "own.pem", "own.key"].map(|name| folder.join(name));
        let authority_key = rcgen::KeyPair::generate().expect("ring makes keys");
        let mut parameters = rcgen::CertificateParams::default();
        // With the default name, which the other certificate has, that certificate would look
        // self-signed.
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, "authority");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters
            .self_signed(&authority_key)
            .expect("the authority can sign its own certificate");
        let issuer = rcgen::Issuer::new(parameters, authority_key);
        let key = rcgen::KeyPair::generate().expect("ring makes keys");
        let own =
            rcgen::CertificateParams::new([name.to_owned()]).expect("the name or address is valid");
        let own = own.signed_by(&key, &issuer).expect("the authority signs");
        let texts = [authority.pem(), own.pem(), key.serialize_pem()];
        for (path, text) in paths.iter().zip(texts) {
            fs::write(path, text).expect("the folder can be written to");
        }
        let [authority, certificate, key] = paths;
        Self {
            authority,
            certificate,
            key,
        }
    }

    /// The TLS of a server that presents this certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.accepting(server_config().with_no_client_auth())
    }

    /// Like [`Self::acceptor`], but clients must present a certificate of this authority.
    pub fn acceptor_for_known_clients(&self) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots
            .add(certificate(&self.authority))
            .expect("the authority's certificate is valid");
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        self.accepting(
            server_config().with_client_cert_verifier(verifier.build().expect("it has a root")),
        )
    }

    fn accepting(&self, builder: ConfigBuilder<ServerConfig, WantsServerCert>) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("the key's file is valid");
        let config = builder
            .with_single_cert(vec![certificate(&self.certificate)], key)
            .expect("certificate and key belong together");
        Arc::new(config).into()
    }
}

fn server_config() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("the certificate's file is valid")
}
