//! A fact: what a platform or a mail service knows of an address beside bounces. Mail got through,
//! somebody read it, or somebody does not want any more of it.

use crate::account::Account;
use crate::address::Address;
use crate::clock::Timestamp;
use crate::job::JobId;

/// One fact about one address, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The tenant that the mail belongs to.
    pub account: Account,
    /// Whom it is about.
    pub recipient: Address,
    /// What happened.
    pub kind: FactKind,
    /// When, where it is known.
    pub occurred_at: Option<Timestamp>,
    /// Which message it is about, where it is about one.
    pub message_id: Option<String>,
}

/// What a fact says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FactKind {
    /// Mail got through: a sign of life.
    Delivered,
    /// Somebody read it, or followed a link in it: a sign of life.
    Engaged,
    /// Somebody called it spam.
    Complaint,
    /// Somebody wants no more of it.
    Unsubscribe,
}

impl Fact {
    /// The id of the job that the address has, if it has one.
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

    /// The word used in JSON and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Engaged => "engaged",
            Self::Complaint => "complaint",
            Self::Unsubscribe => "unsubscribe",
        }
    }

    /// Reads a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Whether it suppresses the address; the others are signs of life.
    pub const fn suppresses(self) -> bool {
        matches!(self, Self::Complaint | Self::Unsubscribe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for kind in FactKind::ALL {
            assert_eq!(FactKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(FactKind::parse("bounce"), None);
    }
}
