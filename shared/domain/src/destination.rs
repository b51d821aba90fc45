//! The destination of an address: the mail system that its attempts go to. All addresses of a
//! destination share its pace and its breaker. All Redis keys of a destination are on one shard.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::address::Address;

/// The mail system that attempts go to. Pace and breaker belong to it. Its name is one of three: a
/// provider (`google`), the mail hosts that a domain shares with others
/// (`mx1.example.net+mx2.example.net`), or the recipient's domain.
///
/// The three kinds of name cannot be confused: a provider's name contains no dot or bracket, and
/// all others contain one. A domain and a single mail host of the same name are one destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Destination(Arc<str>);

impl Destination {
    /// Returns the destination that consists of the recipient's domain alone. It is for a domain
    /// that belongs to no provider and shares no mail hosts.
    pub fn own(recipient: &Address) -> Self {
        Self::own_name(recipient.domain())
    }

    /// Returns the destination of a domain, or of a mail host, under its own name. A name without a
    /// dot (`localhost`) gets the dot of the DNS root, so that `jo@google` is not taken for a
    /// customer of Google.
    pub fn own_name(domain: &str) -> Self {
        let bare = !domain.contains('.') && !domain.starts_with('[');
        Self(if bare {
            format!("{domain}.").into()
        } else {
            domain.into()
        })
    }

    /// Returns the destination with this name, as a record in Redis contains it.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Returns its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the shard that holds all keys of this destination. It depends only on the name and
    /// the number of shards, so every process and every version computes the same one.
    pub fn shard(&self, shards: u16) -> u16 {
        shard(&self.0, shards)
    }
}

/// Returns the shard that holds a name: the name of a destination, or a recipient domain whose
/// placement is stored.
pub fn shard(name: &str, shards: u16) -> u16 {
    let shard = xxh3_64(name.as_bytes()) % u64::from(shards.max(1));
    u16::try_from(shard).expect("a remainder is smaller than its divisor, which is a u16")
}

/// Whether a text can be the name of a destination: a provider, a domain, an address in brackets,
/// or mail hosts joined by `+`. Names are in lower case, with Punycode for anything beyond ASCII.
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
    fn a_name_keeps_its_shard_for_ever() {
        // Stored data relies on these numbers: a change makes every job in Redis unreachable.
        for (name, shard) in [
            ("example.com", 3),
            ("example.net", 4),
            ("xn--bcher-kva.example", 6),
        ] {
            assert_eq!(Destination::named(name).shard(16), shard, "{name}");
        }
    }

    #[test]
    fn a_domain_is_never_taken_for_a_provider() {
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
