//! A fact: what a platform or a mail service reports about an address, apart from bounces. Mail was
//! delivered, the recipient read it, or the recipient wants no more of it.

use crate::account::Account;
use crate::address::Address;
use crate::bounce::Warning;
use crate::clock::Timestamp;
use crate::job::JobId;

/// One verified fact about one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The tenant that the mail belongs to.
    pub account: Account,
    /// The address that the fact is about.
    pub recipient: Address,
    /// What happened.
    pub kind: FactKind,
    /// When it happened, if known.
    pub occurred_at: Option<Timestamp>,
    /// The message that the fact is about, if it is about a single message.
    pub message_id: Option<String>,
    /// What could not be used of the report, for the answer to it.
    pub warnings: Vec<Warning>,
}

/// The kinds of fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FactKind {
    /// Mail was delivered: a sign of life.
    Delivered,
    /// The recipient opened the mail or followed a link in it: a sign of life.
    Engaged,
    /// The recipient reported the mail as spam.
    Complaint,
    /// The recipient unsubscribed.
    Unsubscribe,
}

impl Fact {
    /// Returns the id of the job that this address would have. The job may not exist.
    pub fn job_id(&self) -> JobId {
        JobId {
            account: self.account.clone(),
            recipient: self.recipient.clone(),
        }
    }
}

impl FactKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::Delivered,
        Self::Engaged,
        Self::Complaint,
        Self::Unsubscribe,
    ];

    /// Returns the word used in JSON and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Engaged => "engaged",
            Self::Complaint => "complaint",
            Self::Unsubscribe => "unsubscribe",
        }
    }

    /// Reads the word that [`Self::as_str`] returns.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Whether the fact suppresses the address. The other kinds are signs of life.
    pub const fn suppresses(self) -> bool {
        matches!(self, Self::Complaint | Self::Unsubscribe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_from_its_word() {
        for kind in FactKind::ALL {
            assert_eq!(FactKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(FactKind::parse("bounce"), None);
    }
}
