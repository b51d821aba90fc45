//! How connections are used, and what a write must reach before it counts as stored.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use system::tls::TlsFiles;

/// How connections are made and used.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// How many connections there are at most.
    pub pool_max: usize,
    /// How long making a connection may take, and how long to wait for a free one.
    pub connect_timeout: Duration,
    /// How long one answer may take; a batch is one answer.
    pub response_timeout: Duration,
    /// What a write must reach before it counts as stored.
    pub durability: Durability,
    /// How long it may take to reach that, beyond the answer itself.
    pub durability_timeout: Duration,
    /// Whether an operator accepts a server that evicts keys.
    pub allow_eviction: bool,
    /// The TLS files.
    pub tls: TlsFiles,
}

/// What is required of the servers.
#[derive(Clone, Copy, Debug)]
pub struct Required {
    /// What a write must reach before it counts as stored.
    pub durability: Durability,
    /// Whether an operator accepts a server that evicts keys.
    pub allow_eviction: bool,
}

/// What a write must reach before it counts as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The memory of the server.
    #[default]
    Memory,
    /// Its append-only file, and the disk under it.
    Aof,
    /// The memory of this many replicas.
    Replicas(u16),
}

/// The error for a text that is not a durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be \"memory\", \"aof\" or \"replicas:n\" with n from 1 to 16")]
pub struct NotADurability;

impl FromStr for Durability {
    type Err = NotADurability;

    fn from_str(text: &str) -> Result<Self, NotADurability> {
        match text {
            "memory" => Ok(Self::Memory),
            "aof" => Ok(Self::Aof),
            _ => {
                let n: u16 = text
                    .strip_prefix("replicas:")
                    .and_then(|n| n.parse().ok())
                    .ok_or(NotADurability)?;
                if (1..=16).contains(&n) {
                    Ok(Self::Replicas(n))
                } else {
                    Err(NotADurability)
                }
            }
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Aof => f.write_str("aof"),
            Self::Replicas(n) => write!(f, "replicas:{n}"),
        }
    }
}

impl Durability {
    /// Returns its kind, for metrics.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Aof => "aof",
            Self::Replicas(_) => "replicas",
        }
    }

    /// How much longer an answer can take because of it.
    pub(super) fn wait_max(self, timeout: Duration) -> Duration {
        if self == Self::Memory {
            Duration::ZERO
        } else {
            timeout
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_has_the_documented_forms() {
        for (text, durability) in [
            ("memory", Durability::Memory),
            ("aof", Durability::Aof),
            ("replicas:2", Durability::Replicas(2)),
        ] {
            assert_eq!(text.parse(), Ok(durability));
            assert_eq!(durability.to_string(), text);
        }
        for text in [
            "",
            "disk",
            "replicas",
            "replicas:0",
            "replicas:17",
            "replicas:-1",
            "replicas = 1",
        ] {
            assert_eq!(text.parse::<Durability>(), Err(NotADurability), "{text}");
        }
    }
}
