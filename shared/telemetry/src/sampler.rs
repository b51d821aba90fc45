//! Which traces are sent. A trace that starts with one of our spans follows the decision that was
//! made for its origin: the span's first link carries it. The samplers of OpenTelemetry look at
//! parents only.

use std::env;

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// Follows the parent of a span, else its first link, else `root`.
#[derive(Clone, Debug)]
pub(crate) struct FollowsOrigin {
    root: Sampler,
}

impl FollowsOrigin {
    /// Returns a sampler that decides as `OTEL_TRACES_SAMPLER` has it if a trace starts here and
    /// has no origin. The default is to send it.
    pub(crate) fn from_environment() -> Self {
        let variable = |name| env::var(name).unwrap_or_default();
        Self {
            root: root(
                &variable("OTEL_TRACES_SAMPLER"),
                &variable("OTEL_TRACES_SAMPLER_ARG"),
            ),
        }
    }
}

/// Reads the values that the specification has for `OTEL_TRACES_SAMPLER`. What they do with parents
/// is ours in any case.
fn root(name: &str, argument: &str) -> Sampler {
    match name.strip_prefix("parentbased_").unwrap_or(name) {
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(argument.parse().unwrap_or(1.0)),
        _ => Sampler::AlwaysOn,
    }
}

impl ShouldSample for FollowsOrigin {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent = parent_context
            .map(|context| context.span().span_context().clone())
            .filter(opentelemetry::trace::SpanContext::is_valid);
        let is_sampled = match (&parent, links.first()) {
            (Some(parent), _) => parent.is_sampled(),
            (None, Some(origin)) => origin.span_context.is_sampled(),
            (None, None) => {
                return self.root.should_sample(
                    parent_context,
                    trace_id,
                    name,
                    span_kind,
                    attributes,
                    links,
                );
            }
        };
        SamplingResult {
            decision: if is_sampled {
                SamplingDecision::RecordAndSample
            } else {
                SamplingDecision::Drop
            },
            attributes: Vec::new(),
            trace_state: parent
                .map_or_else(TraceState::default, |parent| parent.trace_state().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};

    use super::*;

    fn context(is_sampled: bool) -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes([7; 16]),
            SpanId::from_bytes([7; 8]),
            if is_sampled {
                TraceFlags::SAMPLED
            } else {
                TraceFlags::default()
            },
            true,
            TraceState::default(),
        )
    }

    fn decides(root: Sampler, parent: Option<bool>, links: &[bool]) -> bool {
        let parent =
            parent.map(|sampled| Context::new().with_remote_span_context(context(sampled)));
        let links: Vec<Link> = links
            .iter()
            .map(|sampled| Link::with_context(context(*sampled)))
            .collect();
        let trace = TraceId::from_bytes([1; 16]);
        let sampler = FollowsOrigin { root };
        let result = sampler.should_sample(
            parent.as_ref(),
            trace,
            "process",
            &SpanKind::Consumer,
            &[],
            &links,
        );
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn a_span_follows_its_parent_then_its_first_link_then_the_configured_sampler() {
        use Sampler::{AlwaysOff, AlwaysOn};
        for (root, parent, links, expected) in [
            (AlwaysOff, Some(true), &[][..], true),
            (AlwaysOn, Some(false), &[true], false),
            (AlwaysOff, None, &[true, false], true),
            (AlwaysOn, None, &[false, true], false),
            (AlwaysOn, None, &[], true),
            (AlwaysOff, None, &[], false),
        ] {
            assert_eq!(
                decides(root, parent, links),
                expected,
                "{parent:?} {links:?}"
            );
        }
    }

    #[test]
    fn the_names_of_samplers_are_those_of_the_specification() {
        assert!(matches!(root("", ""), Sampler::AlwaysOn));
        assert!(matches!(
            root("parentbased_always_off", ""),
            Sampler::AlwaysOff
        ));
        assert!(matches!(
            root("parentbased_traceidratio", "0.25"),
            Sampler::TraceIdRatioBased(share) if (share - 0.25).abs() < 1e-9
        ));
    }
}
