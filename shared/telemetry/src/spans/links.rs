//! Which spans an attempt, or a claim, links to.

use crate::traceparent::TraceContext;

/// How many messages of a job, or of a claim, a span links to.
pub(super) const ORIGINS_MAX: usize = 8;

/// Returns the origins to link to, each once. An origin that is sent to the collector comes first,
/// because sampling follows the first link. Further origins are left out.
pub(super) fn linked_origins(origins: impl Iterator<Item = TraceContext>) -> Vec<TraceContext> {
    let mut found: Vec<TraceContext> = Vec::new();
    for origin in origins {
        let has_sampled = found.first().is_some_and(|first| first.is_sampled);
        let is_full = found.len() == ORIGINS_MAX;
        if is_full && has_sampled {
            break;
        }
        if found.contains(&origin) {
            continue;
        }
        if origin.is_sampled && !has_sampled {
            found.insert(0, origin);
            found.truncate(ORIGINS_MAX);
        } else if !is_full {
            found.push(origin);
        }
    }
    found
}
