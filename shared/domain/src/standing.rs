//! What is known of an address beyond its job: whether it may be mailed, and if not, until when and
//! why.

use serde::{Deserialize, Serialize};

use crate::clock::{Timestamp, as_ms};

/// An address's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It may be mailed.
    Active,
    /// It is left out until an instant.
    Unavailable,
    /// It is left out until an operator or a sign of life says otherwise.
    Inactive,
    /// It is left out until an operator says otherwise.
    Suppressed,
}

impl Standing {
    /// The word used in JSON, Redis and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unavailable => "unavailable",
            Self::Inactive => "inactive",
            Self::Suppressed => "suppressed",
        }
    }
}

/// An address's standing as Redis has it: a field of `rd:{n}:standing`, written by the scripts. No
/// record means active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingRecord {
    /// The state.
    #[serde(rename = "s")]
    pub standing: Standing,
    /// Since when.
    #[serde(rename = "t", with = "as_ms")]
    pub since: Timestamp,
    /// Until when, for `unavailable`.
    #[serde(
        rename = "u",
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_ms"
    )]
    pub until: Option<Timestamp>,
    /// Which policy row, or who, put it there.
    #[serde(rename = "r")]
    pub reason: String,
    /// How many times in a row the address has become unavailable without a delivery between.
    #[serde(rename = "n", default)]
    pub strikes: u32,
}

impl StandingRecord {
    /// Reads what the store has. What cannot be read counts as suppressed, as it does for the
    /// scripts: its address gets no mail until an operator says otherwise.
    pub fn from_store(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|why| {
            tracing::error!(%why, "a standing in redis cannot be read; its address counts as suppressed");
            let (since, reason) = (Timestamp::default(), "unreadable".to_owned());
            Self { standing: Standing::Suppressed, since, until: None, reason, strikes: 0 }
        })
    }

    /// The standing at `now`: an `unavailable` whose time is over counts as active even before
    /// upkeep has lifted it.
    pub fn at(&self, now: Timestamp) -> Standing {
        match (self.standing, self.until) {
            (Standing::Unavailable, Some(until)) if until <= now => Standing::Active,
            (standing, _) => standing,
        }
    }
}

mod optional_ms {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::clock::Timestamp;

    pub(super) fn serialize<S: Serializer>(
        instant: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match instant {
            Some(instant) => serializer.serialize_i64(instant.ms()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Option::<i64>::deserialize(deserializer).map(|ms| ms.map(Timestamp::from_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_ends_at_its_instant() {
        let record: StandingRecord = serde_json::from_str(
            r#"{"s":"unavailable","t":1000,"u":5000,"r":"system-full","n":1}"#,
        )
        .unwrap();
        assert_eq!(record.at(Timestamp::from_ms(4_999)), Standing::Unavailable);
        assert_eq!(record.at(Timestamp::from_ms(5_000)), Standing::Active);
    }

    #[test]
    fn inactive_and_suppressed_do_not_end_by_themselves() {
        for word in ["inactive", "suppressed"] {
            let record: StandingRecord =
                serde_json::from_str(&format!(r#"{{"s":"{word}","t":1000,"r":"user-unknown"}}"#))
                    .unwrap();
            assert_eq!(record.at(Timestamp::from_ms(i64::MAX)).as_str(), word);
        }
    }
}
