//! One implementation of cryptography for all TLS of a process.

use rustls::crypto::ring;

/// Makes ring the one that HTTP clients take. Only the first call in a process has an effect.
pub fn prepare() {
    let _ = ring::default_provider().install_default();
}
