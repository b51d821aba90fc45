//! Reads the header of the mail that a report returns: from a part of its own, or from the end of
//! the text.

use crate::bounded::{cut, name};
use crate::fields::{Group, groups};
use crate::mime::Mail;
use crate::text;

/// How much of the returned mail is searched for its header, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// The largest number of header fields of one name that are read.
const MAX_FIELDS: usize = 8;

/// The largest number of addresses that are read from them.
const MAX_ADDRESSES: usize = 16;

/// Returns the original's `Message-ID` without its angle brackets.
pub(crate) fn message_id(mail: &Mail<'_>) -> Option<String> {
    head(mail)?
        .get("message-id")
        .and_then(|id| name(id.trim_matches(['<', '>', ' '])))
}

/// Returns the return path of the original, as the system that delivered it recorded it.
pub(crate) fn return_path(mail: &Mail<'_>) -> Option<String> {
    let head = head(mail)?;
    let path = head.get("return-path")?.trim_matches(['<', '>', ' ']);
    (!path.is_empty()).then(|| path.to_owned())
}

/// Returns the addresses in the `To` field of the original.
pub(crate) fn recipients(mail: &Mail<'_>) -> Vec<String> {
    head(mail)
        .map(|head| addresses(head.get("to").unwrap_or_default()).collect())
        .unwrap_or_default()
}

/// Returns the addresses that the report itself was delivered to: first those that mail systems add
/// on delivery, then those of its `To` field.
pub(crate) fn delivered_to(mail: &Mail<'_>) -> Vec<String> {
    let fields = [
        "X-Original-To",
        "Delivered-To",
        "Envelope-To",
        "X-Envelope-To",
        "To",
    ];
    fields
        .iter()
        .flat_map(|name| mail.headers(name, MAX_FIELDS).flat_map(addresses))
        .take(MAX_ADDRESSES)
        .collect()
}

/// Returns the addresses in a field, without names and comments, and at most [`MAX_ADDRESSES`].
fn addresses(field: &str) -> impl Iterator<Item = String> {
    let addresses = field.split(',').filter_map(|one| {
        let one = one
            .rsplit_once('<')
            .map_or(one, |(_, rest)| rest.split('>').next().unwrap_or_default())
            .trim();
        (one.contains('@') && !one.contains(char::is_whitespace))
            .then(|| name(one))
            .flatten()
    });
    addresses.take(MAX_ADDRESSES)
}

/// Returns the header section of the original.
fn head(mail: &Mail<'_>) -> Option<Group> {
    let returned = mail.original().or_else(|| {
        mail.texts()
            .find_map(|part| text::split_at_original(part).1)
    })?;
    let mut groups = groups(cut(returned, MAX_HEAD));
    let place = groups
        .iter()
        .position(|group| group.get("message-id").is_some())
        .unwrap_or_default();
    (place < groups.len()).then(|| groups.swap_remove(place))
}
