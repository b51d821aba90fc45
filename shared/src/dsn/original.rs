//! What is known of the mail that a report returns: from the part that it stands in, or from the end of the text.

use super::fields::{Group, groups};
use super::mime::Mail;
use super::{MAX_NAME, cut, on_one_line, text};

/// How far into the returned mail its header is looked for, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// The original's `Message-ID` without its angle brackets.
pub(super) fn message_id(mail: &Mail<'_>) -> Option<String> {
    let id = head(mail)?.get("message-id").map(|id| on_one_line(id.trim_matches(['<', '>', ' ']), MAX_NAME))?;
    (!id.is_empty()).then_some(id)
}

/// Whom the original names in its `To`.
pub(super) fn recipients(mail: &Mail<'_>) -> Vec<String> {
    let Some(head) = head(mail) else { return Vec::new() };
    let to = head.get("to").unwrap_or_default();
    let addresses = to.split(',').filter_map(|one| {
        let one = one.rsplit_once('<').map_or(one, |(_, rest)| rest.split('>').next().unwrap_or_default()).trim();
        (one.contains('@') && !one.contains(' ')).then(|| cut(one, MAX_NAME).to_owned())
    });
    addresses.collect()
}

/// The original's header section.
fn head(mail: &Mail<'_>) -> Option<Group> {
    let returned = mail.original().or_else(|| mail.texts().find_map(|part| text::split_at_original(part).1))?;
    let mut groups = groups(cut(returned, MAX_HEAD)).into_iter();
    groups.find(|group| group.get("message-id").is_some()).or_else(|| groups.next())
}
