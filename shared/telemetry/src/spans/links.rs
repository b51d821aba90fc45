//! The links from a span to the spans that its messages came from.

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, SpanContext};

use crate::names::own;

/// How many messages of a job, or of a claim, a span links to.
pub(super) const ORIGINS_MAX: usize = 8;

/// Returns links to origins, each once. An origin that is sent to the collector comes first,
/// because the sampler follows the first link. Further origins are left out.
pub(super) fn origin_links(origins: impl Iterator<Item = SpanContext>) -> Vec<Link> {
    let mut found: Vec<SpanContext> = Vec::new();
    for origin in origins {
        let has_sampled = found.first().is_some_and(SpanContext::is_sampled);
        let is_full = found.len() == ORIGINS_MAX;
        if is_full && has_sampled {
            break;
        }
        if found.contains(&origin) {
            continue;
        }
        if origin.is_sampled() && !has_sampled {
            found.insert(0, origin);
            found.truncate(ORIGINS_MAX);
        } else if !is_full {
            found.push(origin);
        }
    }
    found
        .into_iter()
        .map(|origin| link(origin, "origin"))
        .collect()
}

/// Returns a link with what it leads to: `origin` or `previous`.
pub(super) fn link(context: SpanContext, what: &'static str) -> Link {
    Link::new(context, vec![KeyValue::new(own::LINK, what)], 0)
}
