//! Pages of long lists: `limit` is the largest number of entries, and `after` the place to continue
//! from.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::Deserialize;
use store::batch::BATCH_MAX;

use super::problem::Problem;

/// How many entries a page has if the request has no limit.
const PAGE: usize = 100;

/// The query of a request for a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    limit: Option<String>,
    after: Option<String>,
}

/// Reads the largest number of entries, and the place after which the page starts.
pub(super) fn read<P>(
    query: Result<Query<Page>, QueryRejection>,
    read_place: impl FnOnce(&str) -> Option<P>,
) -> Result<(usize, Option<P>), Problem> {
    let Query(Page { limit, after }) = query?;
    let bad_limit = || {
        Problem::bad_field(
            "limit",
            format!("must be a whole number from 1 to {BATCH_MAX}"),
        )
    };
    let bad_place = || {
        Problem::bad_field(
            "after",
            "this is no place in the list; use the field next of an earlier answer",
        )
    };
    let limit = limit.map_or(Some(PAGE), |text| {
        text.parse()
            .ok()
            .filter(|limit| (1..=BATCH_MAX).contains(limit))
    });
    let after = after
        .map(|text| read_place(&text).ok_or_else(bad_place))
        .transpose()?;
    Ok((limit.ok_or_else(bad_limit)?, after))
}
