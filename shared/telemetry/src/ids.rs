//! Keyed hashes that stand for jobs and messages in telemetry. Their ids contain addresses, which
//! are personal data. All processes of a fleet have the same key, so the same job has the same hash
//! everywhere.

use std::fmt;
use std::sync::Arc;

use ring::hmac;

/// Makes the hashes. Cloning it is cheap.
#[derive(Clone)]
pub struct IdHasher(Arc<hmac::Key>);

impl IdHasher {
    /// Returns a hasher with this key.
    pub fn new(key: &[u8]) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// Returns the hash of an id: 16 hexadecimal digits of its HMAC-SHA256.
    pub fn hash(&self, id: &str) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let tag = hmac::sign(&self.0, id.as_bytes());
        let mut text = String::with_capacity(16);
        for byte in &tag.as_ref()[..8] {
            text.push(DIGITS[usize::from(byte >> 4)] as char);
            text.push(DIGITS[usize::from(byte & 15)] as char);
        }
        text
    }
}

impl fmt::Debug for IdHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdHasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_id_has_the_same_hash_only_under_the_same_key() {
        let (one, other) = (IdHasher::new(b"one"), IdHasher::new(b"other"));
        let id = "default/jo@example.com";
        assert_eq!(one.hash(id), IdHasher::new(b"one").hash(id));
        assert_ne!(one.hash(id), other.hash(id));
        assert_ne!(one.hash(id), one.hash("default/jo@example.org"));
        assert_eq!(one.hash(id).len(), 16);
    }
}
