//! The standing of an address: whether mail may be sent to it, and if not, until when and why. It
//! outlives the address's job.

use serde::{Deserialize, Serialize};

use crate::clock::{Timestamp, as_ms};
use crate::evidence::{Evidence, if_readable};
use crate::outcome::without_addresses;

/// The state of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Mail may be sent to it.
    Active,
    /// It gets no mail until an instant.
    Unavailable,
    /// It gets no mail until an operator or a sign of life reinstates it.
    Inactive,
    /// It gets no mail until an operator reinstates it.
    Suppressed,
}

impl Standing {
    /// Returns the word used in JSON, Redis and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unavailable => "unavailable",
            Self::Inactive => "inactive",
            Self::Suppressed => "suppressed",
        }
    }
}

/// The standing of an address as stored in Redis: a field of `rd:{n}:standing`, written by the
/// scripts. No record means active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingRecord {
    /// The state.
    #[serde(rename = "s")]
    pub standing: Standing,
    /// Since when the address has this standing.
    #[serde(rename = "t", with = "as_ms")]
    pub since: Timestamp,
    /// When `unavailable` ends.
    #[serde(
        rename = "u",
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_ms"
    )]
    pub until: Option<Timestamp>,
    /// The policy row, the fact or the operator that set the standing.
    #[serde(rename = "r")]
    pub reason: String,
    /// How many times in a row the address became unavailable without a delivery in between.
    #[serde(rename = "n", default)]
    pub strikes: u32,
    /// Why the address has this standing, if that is known. It is forgotten when the address is
    /// active again.
    #[serde(
        rename = "e",
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "if_readable"
    )]
    pub evidence: Option<Box<Evidence>>,
}

impl StandingRecord {
    /// Reads a stored record. A record that cannot be read counts as suppressed, as it does for the
    /// scripts: its address gets no mail until an operator reinstates it.
    pub fn from_store(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|why| {
            let why = without_addresses(&why.to_string());
            tracing::error!(
                why,
                "a standing in redis cannot be read; its address counts as suppressed"
            );
            let (since, reason) = (Timestamp::default(), "unreadable".to_owned());
            Self {
                standing: Standing::Suppressed,
                since,
                until: None,
                reason,
                strikes: 0,
                evidence: None,
            }
        })
    }

    /// Returns the standing at `now`. An `unavailable` that has run out counts as active even
    /// before upkeep has removed it.
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
    fn unreadable_evidence_does_not_make_the_standing_unreadable() {
        for evidence in ["7", "null", r#"{"a":1}"#, r#"[{"t":"soon"}]"#] {
            let json = format!(r#"{{"s":"inactive","t":1,"r":"user-unknown","e":{evidence}}}"#);
            let record = StandingRecord::from_store(&json);
            assert_eq!(record.standing, Standing::Inactive, "{evidence}");
            assert_eq!(record.evidence, None, "{evidence}");
        }
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
