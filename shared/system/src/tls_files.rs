//! Reads the TLS files that a section of the configuration names.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use typed_toml::secret::read_file;
use typed_toml::section::Section;

use crate::tls::TlsFiles;

/// Reads `tls_ca_file`, `tls_cert_file` and `tls_key_file`.
pub fn read_tls(tls: &mut TlsFiles, section: &mut Section<'_, '_>) {
    if let Some(pem) = read_file(section, "tls_ca_file") {
        if !is_certificates(&pem) {
            section.fault("tls_ca_file", "the file has no certificate in PEM form");
        }
        tls.authority = Some(pem);
    }
    let (certificate, key) = (
        read_file(section, "tls_cert_file"),
        read_file(section, "tls_key_file"),
    );
    if section.has("tls_cert_file") != section.has("tls_key_file") {
        section.fault(
            "tls_cert_file",
            "tls_cert_file and tls_key_file belong together; give both or none",
        );
    }
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return;
    };
    if !is_certificates(&certificate) {
        section.fault("tls_cert_file", "the file has no certificate in PEM form");
    }
    if PrivateKeyDer::from_pem_slice(&key).is_err() {
        section.fault("tls_key_file", "the file has no private key in PEM form");
    }
    tls.certificate = Some((certificate, key));
}

fn is_certificates(pem: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}
