//! Reads a message: tries each kind of report in turn, the most exact first.

use crate::bounded::is_readable;
use crate::report::{Kind, Report};
use crate::{answer, delivery_status, feedback, mime, notice, original, text};

/// How much of a message is read, in bytes. Reports come before the mail they return, so what is
/// cut off is that.
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
            // A person's mail may quote any mail; the report in it has to say itself whom it is
            // about.
            report.original_to = if mail.is_handed_on() {
                Vec::new()
            } else {
                original::recipients(&mail)
            };
        }
        report.came_to = original::came_to(&mail);
        report.written_at = mail.date();
        report
    }
}
