//! A bounce: a fact from outside. This message to this recipient failed with this reply, at this
//! time.

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::account::Account;
use crate::address::Address;
use crate::clock::Timestamp;
use crate::job::{JobId, Message};
use crate::reply::Reply;

/// One soft or hard failure of one message for one recipient, verified and ready for policy.
#[derive(Clone, Debug)]
pub struct Bounce {
    /// The tenant that the mail belongs to.
    pub account: Account,
    /// The address that the mail was for.
    pub recipient: Address,
    /// The reply of the recipient's mail system.
    pub reply: Reply,
    /// When it happened, if the platform knows it.
    pub occurred_at: Option<Timestamp>,
    /// The message that waits to be sent again.
    pub message: Message,
    /// What could not be used of the report, for the answer to it.
    pub warnings: Vec<Warning>,
}

/// A field of a bounce or fact that could not be used, and was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The name of the field.
    pub field: String,
    /// What is wrong with it. It does not contain the value.
    pub reason: String,
}

impl Bounce {
    /// Returns the id of the job that this bounce belongs to.
    pub fn job_id(&self) -> JobId {
        JobId {
            account: self.account.clone(),
            recipient: self.recipient.clone(),
        }
    }
}

/// Returns a message id for a bounce that came without one. The same bounce sent twice gets the
/// same id, so that a repeated request is recognised. `distinct` lists the values that distinguish
/// two messages to one recipient.
pub fn derived_message_id(distinct: &[&str]) -> String {
    format!("derived-{:032x}", xxh3_128(distinct.join("\0").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_bounce_without_message_id_gets_the_same_id() {
        assert_eq!(
            derived_message_id(&["jo@example.com", "t"]),
            derived_message_id(&["jo@example.com", "t"])
        );
        assert_ne!(
            derived_message_id(&["jo@example.com", "t"]),
            derived_message_id(&["jo@example.comt", ""])
        );
    }
}
