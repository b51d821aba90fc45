//! Keyed hashes that stand for jobs and messages in telemetry. Their ids contain addresses, which
//! are personal data. All processes of a fleet have the same key, so the same job has the same hash
//! everywhere.

use std::fmt;

use ring::hmac;
use siphasher::sip::SipHasher24;

use crate::traceparent::hex;

/// Makes the hashes. Cloning it is cheap.
#[derive(Clone)]
pub struct IdHasher(SipHasher24);

impl IdHasher {
    /// Returns a hasher with this key.
    pub fn new(key: &[u8]) -> Self {
        // Of the same key, other parts of Redeliver may make other secrets.
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"telemetry ids");
        let mut own_key = [0; 16];
        own_key.copy_from_slice(&tag.as_ref()[..16]);
        Self(SipHasher24::new_with_key(&own_key))
    }

    /// Returns the hash of an id: 16 hexadecimal digits of its SipHash-2-4. That is a function of
    /// which nothing can be computed without the key, as of an HMAC, at a tenth of the time.
    pub fn hash(&self, id: &str) -> String {
        hex(self.number(id).to_be_bytes())
    }

    /// Returns the hash of an id as a number, of which [`hash`](Self::hash) has the digits.
    pub(crate) fn number(&self, id: &str) -> u64 {
        self.0.hash(id.as_bytes())
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
