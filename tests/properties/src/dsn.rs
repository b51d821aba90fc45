//! Reports that come as mail: each is within bounds, has every name on one line, and has no failure
//! with a status of success.

use domain::status::StatusClass;
use reports::bounds::{MAX_DIAGNOSTIC, MAX_NAME, MAX_RECIPIENTS};
use reports::mailbox;
use reports::reader::MAX_BYTES;
use reports::report::{Kind, Recipient, Report};

use crate::is_one_line;
use crate::reply::{check_code_and_status, check_reply};

/// Parses any bytes as a message, and as a mailbox file.
///
/// # Panics
/// If the report breaks a property.
pub fn check(bytes: &[u8]) {
    let report = Report::read(bytes);
    assert!(report.recipients.len() <= MAX_RECIPIENTS);
    report.recipients.iter().for_each(check_recipient);

    let failed = report.recipients.iter().any(Recipient::has_failed);
    assert_eq!(
        report.kind == Kind::Failed,
        failed,
        "the kind is failed if a recipient has failed: {report:?}"
    );
    assert!(
        report.kind != Kind::None || report.recipients.is_empty(),
        "mail that is not a report has no recipients"
    );

    let ids = [&report.envelope_id, &report.message_id]
        .into_iter()
        .flatten();
    for name in ids.chain(&report.original_to).chain(&report.delivered_to) {
        check_name(name);
    }

    if bytes.len() > MAX_BYTES {
        assert_eq!(
            Report::read(&bytes[..MAX_BYTES]),
            report,
            "bytes beyond the bound are not read"
        );
    }
    assert_eq!(
        mailbox::messages(bytes).concat(),
        bytes,
        "a mailbox file consists of its messages"
    );
}

fn check_recipient(recipient: &Recipient) {
    check_reply(&recipient.reply);
    assert!(
        recipient.diagnostic.len() <= MAX_DIAGNOSTIC && is_one_line(&recipient.diagnostic),
        "{recipient:?}"
    );
    for name in [&recipient.original, &recipient.last, &recipient.remote_mta]
        .into_iter()
        .flatten()
    {
        check_name(name);
    }
    if recipient.has_failed() {
        check_code_and_status(&recipient.reply);
        let success = recipient.reply.class() == Some(StatusClass::Success);
        assert!(
            !success,
            "a failure has no status of success: {recipient:?}"
        );
    }
}

/// Checks a name that another party chose: not empty, within bounds, and on one line.
fn check_name(name: &str) {
    assert!(
        !name.trim().is_empty() && name.len() <= MAX_NAME && is_one_line(name),
        "{name:?}"
    );
}
