//! The rows of a policy in the order of how specific they are, by the reply's reason, so that the
//! first that matches is the one, and most rows are never asked. Knows nothing of what a row calls
//! for.

use classify::reason::{REASONS, Reason};
use domain::reply::Reply;
use domain::status::pattern::StatusPattern;

use crate::row::Row;
use crate::whose::Whose;

/// What a reply has to match to fall under a row.
#[derive(Clone, Debug)]
struct Entry {
    /// One of the row's patterns.
    status: StatusPattern,
    /// The row's place in the table.
    row: usize,
}

/// The entries of all rows, the most specific first: for replies without a reason, then for those
/// of each reason.
#[derive(Clone, Debug)]
pub(crate) struct Ranking(Vec<Vec<Entry>>);

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
        // The later row where two are equally specific.
        ranked.sort_by_key(|(conditions, by_words, exactness, entry)| {
            (*conditions, *by_words, *exactness, entry.row)
        });
        let ranked: Vec<Entry> = ranked.into_iter().rev().map(|(.., entry)| entry).collect();
        let of = |reason: Option<Reason>| {
            let may = |row: &Row| {
                row.reason.is_empty() || reason.is_some_and(|reason| row.reason.contains(&reason))
            };
            ranked
                .iter()
                .filter(|entry| may(&rows[entry.row]))
                .cloned()
                .collect()
        };
        let reasons = REASONS.iter().map(|(_, reason)| Some(*reason));
        Self(std::iter::once(None).chain(reasons).map(of).collect())
    }

    /// The place of the most specific row for `reply`, which has this reason; `None` where no row
    /// matches.
    pub(crate) fn first(
        &self,
        rows: &[Row],
        reply: &Reply,
        reason: Option<Reason>,
        whose: Whose<'_>,
    ) -> Option<usize> {
        // The reasons are listed in the order in which they are declared.
        let entries = self.0.get(reason.map_or(0, |reason| reason as usize + 1))?;
        let found = entries
            .iter()
            .find(|entry| entry.status.matches(reply) && rows[entry.row].is_for(reply, whose))?;
        Some(found.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_in_the_order_in_which_they_are_declared() {
        for (n, (word, reason)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, n, "{word}");
        }
    }
}
