//! The rows of a policy for each reason, the most specific first. So the first row that matches
//! applies, and most rows are never tried. Must not know what a row does.

use classify::reason::{REASONS, Reason};
use domain::reply::Reply;
use domain::status::pattern::StatusPattern;
use domain::status::{EnhancedStatus, StatusClass};

use crate::row::{FailedMail, Row};

/// One status pattern of a row.
#[derive(Clone, Debug)]
struct Entry {
    /// One of the row's patterns.
    status: StatusPattern,
    /// The position of the row in the table.
    row: usize,
}

/// The entries of all rows, the most specific first. The first lists are for replies without a
/// reason, the others for each reason in turn: one list for each of [`KINDS`].
#[derive(Clone, Debug)]
pub(crate) struct Ranking(Vec<[Vec<Entry>; KINDS.len()]>);

/// The kinds of replies that have lists of their own, so that fewer patterns are compared: without
/// a status, and with a status of each class.
const KINDS: [Option<StatusClass>; 4] = [
    None,
    Some(StatusClass::Success),
    Some(StatusClass::Transient),
    Some(StatusClass::Permanent),
];

/// Whether a pattern can match a reply of this kind.
fn can_match(pattern: &StatusPattern, kind: Option<StatusClass>) -> bool {
    match *pattern {
        StatusPattern::Any => true,
        StatusPattern::Bare | StatusPattern::Code(_) => kind.is_none(),
        StatusPattern::Class(class) => kind.is_none_or(|kind| kind == class),
        StatusPattern::Subject(class, _) | StatusPattern::Details(class, ..) => kind == Some(class),
        StatusPattern::Exact(status) | StatusPattern::Both(_, status) => {
            kind == Some(status.class())
        }
    }
}

impl Ranking {
    pub(crate) fn new(rows: &[Row]) -> Self {
        let mut ranked: Vec<(usize, bool, u16, Entry)> = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            let conditions = [&row.account, &row.stream, &row.destination]
                .into_iter()
                .flatten()
                .count();
            let by_words = row.text.is_some() || !row.reason.is_empty();
            let entry = |status: &StatusPattern| {
                let exactness = status.exactness();
                (
                    conditions,
                    by_words,
                    exactness,
                    Entry {
                        status: status.clone(),
                        row: n,
                    },
                )
            };
            ranked.extend(row.status.iter().map(entry));
        }
        // Of two equally specific rows, the later one comes first.
        ranked.sort_by_key(|(conditions, by_words, exactness, entry)| {
            (*conditions, *by_words, *exactness, entry.row)
        });
        let ranked: Vec<Entry> = ranked.into_iter().rev().map(|(.., entry)| entry).collect();
        let entries_for = |reason: Option<Reason>| {
            let may_match = |row: &Row| {
                row.reason.is_empty() || reason.is_some_and(|reason| row.reason.contains(&reason))
            };
            let entries: Vec<&Entry> = ranked
                .iter()
                .filter(|entry| may_match(&rows[entry.row]))
                .collect();
            KINDS.map(|kind| {
                let entries = entries.iter().copied();
                entries
                    .filter(|entry| can_match(&entry.status, kind))
                    .cloned()
                    .collect()
            })
        };
        let reasons = REASONS.iter().map(|(_, reason)| Some(*reason));
        let lists = std::iter::once(None).chain(reasons).map(entries_for);
        Self(lists.collect())
    }

    /// Returns the position of the most specific row for `reply`, which has this reason. Returns
    /// `None` if no row matches.
    pub(crate) fn first(
        &self,
        rows: &[Row],
        reply: &Reply,
        reason: Option<Reason>,
        mail: FailedMail<'_>,
    ) -> Option<usize> {
        // List 0 is for no reason. The others are in the order of the declaration of [`Reason`].
        let lists = self.0.get(reason.map_or(0, |reason| reason as usize + 1))?;
        let class = reply.status.map(EnhancedStatus::class);
        let entries = &lists[KINDS.iter().position(|kind| *kind == class)?];
        let found = entries
            .iter()
            .find(|entry| entry.status.matches(reply) && rows[entry.row].is_for(reply, mail))?;
        Some(found.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_in_the_order_of_their_declaration() {
        for (n, (word, reason)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, n, "{word}");
        }
    }
}
