//! Converts the dates of header fields.

use domain::clock::Timestamp;
use mail_parser::DateTime;

/// Returns the date of a header field as an instant, or `None` if that day does not exist.
pub(crate) fn instant(date: &DateTime) -> Option<Timestamp> {
    let seconds = Some(date).filter(|date| date.is_valid())?.to_timestamp();
    Some(Timestamp::from_ms(seconds.checked_mul(1_000)?))
}
