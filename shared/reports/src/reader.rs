//! Reads a message: tries each kind of report in order, the most exact kind first.

use crate::bounded::is_readable;
use crate::report::{Kind, Report};
use crate::{answer, delivery_status, feedback, mime, notice, original, text};

/// How much of a message is read, in bytes. A report comes before the mail that it returns, so only
/// that mail is cut off.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;

impl Report {
    /// Reads a message. Takes time linear in its input, reads no more than its first [`MAX_BYTES`],
    /// and never panics.
    pub fn read(message: &[u8]) -> Self {
        let mail = mime::Mail::read(&message[..message.len().min(MAX_BYTES)]);
        let mut report = feedback::read(&mail)
            .or_else(|| delivery_status::read(&mail))
            .or_else(|| notice::read(&mail))
            .or_else(|| answer::unsubscribes(&mail))
            .or_else(|| text::read(&mail))
            .or_else(|| answer::read(&mail))
            .unwrap_or_default();
        if report.kind != Kind::None {
            report.message_id = report
                .message_id
                .or_else(|| original::message_id(&mail))
                .filter(|id| is_readable(id));
            report.envelope_id = report.envelope_id.filter(|id| is_readable(id));
            // A mail from a person may quote any mail. So if a report was forwarded, the report
            // itself must name its recipients.
            report.original_to = if mail.is_forwarded() {
                Vec::new()
            } else {
                original::recipients(&mail)
            };
        }
        report.delivered_to = original::delivered_to(&mail);
        report.dated = mail.date();
        report.has_unreadable_date =
            report.dated.is_none() && mail.header("Date").is_some_and(|date| !date.is_empty());
        report
    }
}
