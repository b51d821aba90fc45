//! The evidence for a standing: the last thing that was known about the address when its standing
//! was set. It is stored with the standing, so it has to stay small.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::clock::{Timestamp, as_ms};
use crate::status::EnhancedStatus;

/// How much of the reply is kept, in characters.
const REPLY_CHARS_MAX: usize = 160;

/// How much of the host's name is kept, in characters: as many as a domain name has (RFC 1035,
/// section 2.3.4).
const HOST_CHARS_MAX: usize = 255;

/// How long an operator's note may be, in characters.
pub const NOTE_CHARS_MAX: usize = 200;

/// The most bytes that the JSON of one evidence takes.
pub const EVIDENCE_BYTES_MAX: usize = 3_072;

/// The source of a failure that an attempt of ours has met.
pub const OWN_ATTEMPT: &str = "attempt";

/// The source of an operator's command.
pub const OPERATOR: &str = "operator";

/// Why an address has its standing. The policy row, or the kind of the fact, is the reason of the
/// standing itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The number of the attempt that failed. The platform's own was 0. For a fact, the number of
    /// the last attempt; none if the address had no job.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// When it happened, as far as that is known.
    #[serde(rename = "t", with = "as_ms")]
    pub at: Timestamp,
    /// How we learned of it: [`OWN_ATTEMPT`], [`OPERATOR`], or the way by which it was reported,
    /// such as `dsn`.
    #[serde(rename = "o")]
    pub source: String,
    /// The status of the failure.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub status: Option<EnhancedStatus>,
    /// The host that refused the mail, if it is known.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub remote_mta: Option<String>,
    /// The reply, shortened. Empty for a fact.
    #[serde(rename = "r", default, skip_serializing_if = "String::is_empty")]
    pub reply: String,
    /// What an operator wrote as the reason of a command.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Evidence {
    /// Returns the evidence of a failure. The reply and the host's name are shortened.
    pub fn new(
        attempt: u32,
        at: Timestamp,
        source: &str,
        status: Option<EnhancedStatus>,
        remote_mta: Option<&str>,
        reply: &str,
    ) -> Self {
        Self {
            attempt: Some(attempt),
            at,
            source: source.to_owned(),
            status,
            remote_mta: remote_mta.map(|host| shortened(host, HOST_CHARS_MAX).to_owned()),
            reply: shortened(reply, REPLY_CHARS_MAX).to_owned(),
            note: None,
        }
    }

    /// Returns the JSON that the scripts store: one line, of at most [`EVIDENCE_BYTES_MAX`] bytes.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("text and numbers always serialize")
    }
}

/// Returns the beginning of a text, at most `chars_max` characters.
pub(crate) fn shortened(text: &str, chars_max: usize) -> &str {
    let end = text.char_indices().nth(chars_max);
    end.map_or(text, |(end, _)| &text[..end])
}

/// Reads the evidence in the record of a standing. Evidence that cannot be read is left out, so
/// that it does not make the whole record unreadable.
pub(crate) fn if_readable<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<Evidence>>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_small_whatever_a_server_replied() {
        for character in ["x", "é", "🦀", "\u{1}", "\"", "\n"] {
            let long = character.repeat(100_000);
            let status = "5.999.999".parse().ok();
            let at = Timestamp::from_ms(1_763_716_200_000);
            let evidence = Evidence::new(u32::MAX, at, "sparkpost", status, Some(&long), &long);
            assert_eq!(evidence.reply.chars().count(), REPLY_CHARS_MAX);
            let line = evidence.line();
            assert!(line.len() <= EVIDENCE_BYTES_MAX, "{}", line.len());
            assert!(!line.contains('\n'));
            let read: Evidence = serde_json::from_str(&line).unwrap();
            assert_eq!(read, evidence);
        }
    }
}
