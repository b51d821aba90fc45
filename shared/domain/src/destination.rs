//! The destination of an address: the mail system that its attempts go to, whose pace and trouble
//! it shares. The shard of a destination holds all its keys.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::address::Address;

/// What pace belongs to: the mail system that the attempts go to. Its name is a provider's
/// (`google`), those of the mail hosts that a domain shares with others
/// (`mx1.example.net+mx2.example.net`), or the recipient's domain.
///
/// The three cannot be mistaken for each other: a provider's name has neither dot nor bracket, all
/// others have one. A single host that is a domain too is the same mail system under either name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Destination(Arc<str>);

impl Destination {
    /// The destination that a recipient's domain is of its own, where it belongs to no other.
    pub fn own(recipient: &Address) -> Self {
        Self::own_name(recipient.domain())
    }

    /// The destination of a domain, or of a mail host, by its own name. One without a dot
    /// (`localhost`) gets the dot of the DNS's root, so that `jo@google` is not taken for a
    /// customer of Google.
    pub fn own_name(domain: &str) -> Self {
        let bare = !domain.contains('.') && !domain.starts_with('[');
        Self(if bare {
            format!("{domain}.").into()
        } else {
            domain.into()
        })
    }

    /// The destination of this name, as a record in Redis has it.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard that holds all keys of this destination. It depends on nothing but the name and
    /// the number of shards, so every process and every version agrees on it.
    pub fn shard(&self, shards: u16) -> u16 {
        shard(&self.0, shards)
    }
}

/// The shard that holds a name, for destinations and for the recipient domains that are placed
/// alike.
pub fn shard(name: &str, shards: u16) -> u16 {
    let shard = xxh3_64(name.as_bytes()) % u64::from(shards.max(1));
    u16::try_from(shard).expect("a remainder is smaller than its divisor, which is a u16")
}

/// Whether a text can be the name of a destination: a provider, a domain, an address in brackets,
/// or mail hosts with `+` between them. Names are in lower case, and beyond ASCII in Punycode.
pub fn is_destination_name(text: &str) -> bool {
    let is_allowed = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || matches!(byte, b'-' | b'_' | b'.' | b':' | b'[' | b']')
    };
    let is_name =
        |name: &str| !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_allowed);
    text.split('+').all(is_name)
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_the_same_for_ever() {
        // These are what stored data relies on: a change here strands every job in Redis.
        for (name, shard) in [
            ("example.com", 3),
            ("example.net", 4),
            ("xn--bcher-kva.example", 6),
        ] {
            assert_eq!(Destination::named(name).shard(16), shard, "{name}");
        }
    }

    #[test]
    fn no_domain_of_its_own_is_taken_for_a_provider() {
        for (recipient, name) in [
            ("jo@Example.com", "example.com"),
            ("jo@google", "google."),
            ("jo@localhost", "localhost."),
            ("jo@[192.0.2.1]", "[192.0.2.1]"),
            ("jo@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ] {
            let own = Destination::own(&Address::parse(recipient).unwrap());
            assert_eq!(own.as_str(), name);
            assert!(name.contains(['.', '[']), "{name} could be a provider's");
        }
    }
}
