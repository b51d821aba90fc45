//! Dates of header fields.

use domain::clock::Timestamp;
use mail_parser::DateTime;

/// A date of a header field as an instant; `None` if there is no such day.
pub(crate) fn instant(date: &DateTime) -> Option<Timestamp> {
    let seconds = Some(date).filter(|date| date.is_valid())?.to_timestamp();
    Some(Timestamp::from_ms(seconds.checked_mul(1_000)?))
}
