//! TLS: the files of a connection's configuration, and the one implementation of cryptography for
//! all TLS in a process.

use std::fmt;

use rustls::crypto::ring;

/// Makes ring the implementation of cryptography that HTTP clients use. Only the first call in a
/// process has an effect.
pub fn prepare() {
    let _ = ring::default_provider().install_default();
}

/// The files of TLS, as PEM.
#[derive(Clone, Default)]
pub struct TlsFiles {
    /// Certificates of the trusted authorities. `None` means those that the system trusts.
    pub authority: Option<Vec<u8>>,
    /// Our own certificate and its key, if the server asks for one.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
}

impl TlsFiles {
    /// Whether no file is configured.
    pub fn is_empty(&self) -> bool {
        self.authority.is_none() && self.certificate.is_none()
    }
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authority, certificate) = (self.authority.is_some(), self.certificate.is_some());
        f.debug_struct("TlsFiles")
            .field("authority", &authority)
            .field("certificate", &certificate)
            .finish()
    }
}
