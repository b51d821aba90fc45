//! The id of a journal entry.

use std::fmt;
use std::str::FromStr;

/// The id of a journal entry, as Redis gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// When it was written, by Redis's clock, in ms.
    pub ms: u64,
    /// Its number among the entries of that millisecond.
    pub sequence: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)
    }
}

impl EntryId {
    /// Returns the id just before this one.
    #[must_use]
    pub fn before(self) -> Self {
        match (self.ms, self.sequence) {
            (ms, 1..) => Self {
                ms,
                sequence: self.sequence - 1,
            },
            (1.., 0) => Self {
                ms: self.ms - 1,
                sequence: u64::MAX,
            },
            (0, 0) => self,
        }
    }
}

/// The error for a text that is not an entry id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry id looks like 1763716200000-0")]
pub struct NotAnEntryId;

impl FromStr for EntryId {
    type Err = NotAnEntryId;

    fn from_str(text: &str) -> Result<Self, NotAnEntryId> {
        let (ms, sequence) = text.split_once('-').ok_or(NotAnEntryId)?;
        Ok(Self {
            ms: ms.parse().map_err(|_| NotAnEntryId)?,
            sequence: sequence.parse().map_err(|_| NotAnEntryId)?,
        })
    }
}
