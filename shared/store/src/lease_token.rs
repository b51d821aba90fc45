//! The token of a lease. Its serial orders the claims of a shard. Its nonce makes it unique.

use std::fmt;
use std::str::FromStr;

use deadpool_redis::redis::{RedisWrite, ToRedisArgs};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::StoreError;

/// The fencing token of a lease. The whole token is its identity.
///
/// The serial comes from Redis, which gives it again if it loses its last writes. The nonce comes
/// from the process that claims, so the leases of before and after a loss never have the same
/// token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken {
    /// The serial of the claim in its shard: greater than those of all claims before it.
    pub serial: u64,
    /// A random number that the claiming process chose for this claim.
    pub nonce: u64,
}

/// The error for a text that is not the token of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease's token looks like 1763716200000-00c0ffee00c0ffee")]
pub struct NotALeaseToken;

impl LeaseToken {
    /// Returns a random number for one claim.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the system has no random numbers.
    pub(crate) fn new_nonce() -> Result<u64, StoreError> {
        let mut bytes = [0; 8];
        SystemRandom::new().fill(&mut bytes).map_err(|_| {
            StoreError::Unavailable("the system gave no random number for a claim".to_owned())
        })?;
        Ok(u64::from_be_bytes(bytes))
    }
}

impl fmt::Display for LeaseToken {
    /// The same text as `claim.lua` makes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.serial, self.nonce)
    }
}

impl FromStr for LeaseToken {
    type Err = NotALeaseToken;

    fn from_str(text: &str) -> Result<Self, NotALeaseToken> {
        let (serial, nonce) = text.split_once('-').ok_or(NotALeaseToken)?;
        Ok(Self {
            serial: serial.parse().map_err(|_| NotALeaseToken)?,
            nonce: u64::from_str_radix(nonce, 16).map_err(|_| NotALeaseToken)?,
        })
    }
}

impl ToRedisArgs for LeaseToken {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back() {
        for nonce in [0, 0x00c0_ffee, u64::MAX] {
            let token = LeaseToken {
                serial: 1_763_716_200_000,
                nonce,
            };
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        for text in ["", "17", "17-", "-17", "x-0", "17-x"] {
            assert_eq!(text.parse::<LeaseToken>(), Err(NotALeaseToken), "{text}");
        }
    }

    #[test]
    fn no_two_claims_have_the_same_nonce() {
        assert_ne!(
            LeaseToken::new_nonce().unwrap(),
            LeaseToken::new_nonce().unwrap()
        );
    }
}
