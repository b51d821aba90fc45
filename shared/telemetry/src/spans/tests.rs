//! Tests of the spans.

use std::sync::Mutex;

use domain::outcome::Outcome;
use domain::reply::Reply;
use domain::transcript::Phase;
use opentelemetry::trace::{SpanContext, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanProcessor};

use super::attempt::sums;
use super::links::ORIGINS_MAX;
use super::*;
use crate::sampler::FollowsOrigin;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Keeps the spans that have ended.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Kept {
    /// Returns the values of an attribute of the only span.
    fn values(&self, key: &str) -> Vec<String> {
        let spans = self.0.lock().unwrap();
        assert_eq!(spans.len(), 1, "one span has ended");
        let attributes = spans[0].attributes.iter();
        let found = attributes.filter(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.to_string()).collect()
    }

    fn is_error(&self) -> bool {
        matches!(self.0.lock().unwrap()[0].status, Status::Error { .. })
    }
}

fn tracing(kept: &Kept) -> (Tracing, SdkTracerProvider) {
    let provider = SdkTracerProvider::builder()
        .with_sampler(FollowsOrigin::from_environment())
        .with_span_processor(kept.clone())
        .build();
    let ids = IdHasher::new(b"key");
    let tracer = provider.tracer("test");
    let tracing = Tracing::new(tracer, &Settings::default(), "redeliver", ids);
    (tracing, provider)
}

fn attempt(tracing: &Tracing) -> AttemptSpan {
    let starting = Starting {
        job: "default/jo@example.com",
        destination: "example.com",
        number: 1,
        message: "m1",
        previous: None,
        since_bounce: Duration::ZERO,
        late: Duration::ZERO,
    };
    tracing.process(&starting, [SAMPLED].into_iter())
}

fn judged<'a>(outcome: &'a Outcome, verdict: &'static str) -> Judged<'a> {
    Judged {
        outcome,
        verdict,
        row: None,
        attempts_max: None,
        is_error: false,
    }
}

#[test]
fn an_attempt_of_several_messages_has_the_last_verdict_alone() {
    let kept = Kept::default();
    let (tracing, _provider) = tracing(&kept);
    let span = attempt(&tracing);
    let [first, last] = ["250 2.0.0 ok", "452 4.2.2 full"].map(Reply::parse);
    let text = |_: &Reply| String::new();
    span.judge(&judged(&Outcome::Delivered(first), "close"), text);
    span.judge(&judged(&Outcome::Deferred(last), "retry"), text);
    span.end();
    assert_eq!(kept.values(own::VERDICT), ["retry"]);
    assert_eq!(kept.values(own::REPLY_CODE), ["452"]);
    assert!(!kept.is_error());
}

#[test]
fn an_attempt_that_does_not_end_is_an_error() {
    let kept = Kept::default();
    let (tracing, _provider) = tracing(&kept);
    drop(attempt(&tracing));
    assert_eq!(kept.values(otel::ERROR_TYPE), ["crashed"]);
    assert!(kept.is_error());
}

#[test]
fn after_the_end_of_telemetry_a_message_keeps_the_trace_of_the_platform() {
    let (tracing, provider) = tracing(&Kept::default());
    let arriving = Arriving {
        job: "default/jo@example.com",
        destination: "example.com",
        message: "m1",
        traceparent: Some(SAMPLED),
    };
    assert!(tracing.send(&arriving).traceparent().is_some());
    provider.shutdown().unwrap();
    assert_eq!(tracing.send(&arriving).traceparent(), None);
}

fn origin(n: u8, is_sampled: bool) -> SpanContext {
    let flags = u8::from(is_sampled);
    let text = format!(
        "00-{:032x}-{:016x}-{flags:02x}",
        u128::from(n) + 1,
        u64::from(n) + 1
    );
    traceparent::read(&text).unwrap()
}

#[test]
fn an_attempt_links_to_some_origins_and_a_sampled_one_comes_first() {
    for (sampled, count) in [(0, 3), (2, 3), (11, 12), (7, 9)] {
        let links = origin_links((0..count).map(|n| origin(n, n == sampled)));
        assert!(links[0].span_context.is_sampled(), "{sampled} of {count}");
        assert_eq!(links.len(), usize::from(count).min(ORIGINS_MAX));
    }
    let none = origin_links((0..3).map(|n| origin(n, false)));
    assert!(none.iter().all(|link| !link.span_context.is_sampled()));
    let same = origin_links([origin(1, true), origin(1, true)].into_iter());
    assert_eq!(same.len(), 1);
}

#[test]
fn phases_that_ran_twice_are_added_up() {
    let took = [
        (Phase::Lookup, 9),
        (Phase::Connect, 1),
        (Phase::Greeting, 2),
        (Phase::Connect, 4),
    ];
    assert_eq!(sums(&took), [(Phase::Connect, 5), (Phase::Greeting, 2)]);
}
