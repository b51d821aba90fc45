//! Reports that come as mail: within bounds, names on one line, and never a failure that says
//! success.

use domain::status::StatusClass;
use reports::bounds::{MAX_DIAGNOSTIC, MAX_NAME, MAX_RECIPIENTS};
use reports::mailbox;
use reports::reader::MAX_BYTES;
use reports::report::{Kind, Recipient, Report};

use crate::is_one_line;
use crate::reply::{hold_of_reply, hold_together};

/// Reads any bytes as a message, and as a mailbox file.
///
/// # Panics
/// Where something does not hold of the report.
pub fn hold_of(bytes: &[u8]) {
    let report = Report::read(bytes);
    assert!(report.recipients.len() <= MAX_RECIPIENTS);
    report.recipients.iter().for_each(hold_of_recipient);

    let failed = report.recipients.iter().any(Recipient::has_failed);
    assert_eq!(
        report.kind == Kind::Failed,
        failed,
        "who has failed makes the kind: {report:?}"
    );
    assert!(
        report.kind != Kind::None || report.recipients.is_empty(),
        "what is no report says nothing of anybody"
    );

    let ids = [&report.envelope_id, &report.message_id]
        .into_iter()
        .flatten();
    for name in ids.chain(&report.original_to).chain(&report.came_to) {
        hold_of_name(name);
    }

    if bytes.len() > MAX_BYTES {
        assert_eq!(
            Report::read(&bytes[..MAX_BYTES]),
            report,
            "what is beyond the bound is not read"
        );
    }
    assert_eq!(
        mailbox::messages(bytes).concat(),
        bytes,
        "a mailbox file is its messages"
    );
}

fn hold_of_recipient(recipient: &Recipient) {
    hold_of_reply(&recipient.reply);
    assert!(
        recipient.diagnostic.len() <= MAX_DIAGNOSTIC && is_one_line(&recipient.diagnostic),
        "{recipient:?}"
    );
    for name in [&recipient.original, &recipient.last, &recipient.remote_mta]
        .into_iter()
        .flatten()
    {
        hold_of_name(name);
    }
    if recipient.has_failed() {
        hold_together(&recipient.reply);
        let success = recipient.reply.class() == Some(StatusClass::Success);
        assert!(!success, "a failure does not say success: {recipient:?}");
    }
}

/// What someone else chose is not empty, within bounds, and on one line.
fn hold_of_name(name: &str) {
    assert!(
        !name.trim().is_empty() && name.len() <= MAX_NAME && is_one_line(name),
        "{name:?}"
    );
}
