//! Tests of the spans.

use domain::outcome::Outcome;
use domain::reply::Reply;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Sent;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

use super::links::ORIGINS_MAX;
use super::*;
use crate::budget::Budget;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn tracing() -> (Tracing, Arc<SpanQueue>) {
    tracing_with(&Settings::default())
}

fn tracing_with(settings: &Settings) -> (Tracing, Arc<SpanQueue>) {
    let queue = SpanQueue::new(&[], 100, Budget::of(100, None));
    let tracing = Tracing::new(queue.clone(), settings, "rd", IdHasher::new(b"key"));
    (tracing, queue)
}

/// Returns the spans that have ended.
fn ended(queue: &SpanQueue) -> Vec<Span> {
    let Some(request) = queue.next(true) else {
        return Vec::new();
    };
    let mut read = ExportTraceServiceRequest::decode(&*request.bytes).unwrap();
    read.resource_spans.remove(0).scope_spans.remove(0).spans
}

/// Returns the values of an attribute.
fn values(span: &Span, key: &str) -> Vec<String> {
    let attributes = span.attributes.iter();
    let found = attributes.filter(|attribute| attribute.key == key);
    let text = |value: &Sent| match value {
        Sent::StringValue(text) => text.clone(),
        Sent::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    found
        .map(|attribute| text(attribute.value.as_ref().unwrap().value.as_ref().unwrap()))
        .collect()
}

fn is_error(span: &Span) -> bool {
    let status = span.status.as_ref();
    status.is_some_and(|status| status.code() == StatusCode::Error)
}

fn attempt(tracing: &Tracing) -> AttemptSpan {
    attempt_of(tracing, &[SAMPLED])
}

fn attempt_of(tracing: &Tracing, origins: &[&str]) -> AttemptSpan {
    let starting = Starting {
        job: "default/jo@example.com",
        destination: "example.com",
        number: 1,
        message: "m1",
        previous: None,
        since_bounce: Duration::ZERO,
        late: Duration::ZERO,
    };
    tracing.process(&starting, origins.iter().copied())
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
fn a_span_is_sent_with_all_that_it_has() {
    let (tracing, queue) = tracing();
    let attempt = attempt(&tracing);
    let (context, settling) = (attempt.context().unwrap(), attempt.settling().unwrap());
    let outcome = Outcome::Refused(Reply::parse("550 5.1.1 no such user"));
    let judged = Judged {
        is_error: true,
        row: Some("unknown-user"),
        attempts_max: Some(3),
        ..judged(&outcome, "retire")
    };
    attempt.judge(&judged, |_| String::new());
    attempt.end(Duration::from_millis(5));
    let now = SystemTime::now();
    let settled = [(settling, None), (settling, Some(SettleError::Stale))];
    tracing.settled(settled.into_iter(), now - Duration::from_millis(2), now);

    let spans = ended(&queue);
    let [process, settle, stale] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!(process.kind(), SpanKind::Consumer);
    assert_eq!(process.trace_id, context.trace);
    assert_eq!(process.span_id, context.span);
    assert!(process.parent_span_id.is_empty());
    assert_eq!(process.flags, 0x101);
    let took = process.end_time_unix_nano - process.start_time_unix_nano;
    assert_eq!(took, 5_000_000);
    for (key, expected) in [
        ("messaging.system", "redeliver"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "rd"),
        ("redeliver.destination", "example.com"),
        ("redeliver.attempt.number", "1"),
        ("redeliver.attempt.max", "3"),
        ("redeliver.late", "DoubleValue(0.0)"),
        ("redeliver.policy.row", "unknown-user"),
        ("redeliver.verdict", "retire"),
        ("smtp.reply.code", "550"),
        ("smtp.reply.enhanced_code", "5.1.1"),
        ("error.type", "refused"),
    ] {
        assert_eq!(values(process, key), [expected], "{key}");
    }
    assert_eq!(values(process, "messaging.message.id")[0].len(), 16);
    assert!(is_error(process));
    let origin = TraceContext::parse(SAMPLED).unwrap();
    let link = &process.links[0];
    assert_eq!(
        (&link.trace_id[..], &link.span_id[..]),
        (&origin.trace[..], &origin.span[..])
    );
    assert_eq!(link.attributes[0].key, "retry.link");
    assert_eq!(link.flags, 0x301);

    assert_eq!(settle.kind(), SpanKind::Client);
    assert_eq!(settle.parent_span_id, context.span);
    assert_eq!(settle.trace_id, context.trace);
    let took = settle.end_time_unix_nano - settle.start_time_unix_nano;
    assert_eq!(took, 2_000_000);
    let conversation = |span| values(span, "messaging.message.conversation_id");
    assert_eq!(conversation(settle), conversation(process));
    assert!(!is_error(settle));
    assert!(is_error(stale));
    assert_eq!(values(stale, "error.type"), ["stale"]);
}

#[test]
fn an_attempt_of_several_messages_has_the_last_verdict_alone() {
    let (tracing, queue) = tracing();
    let span = attempt(&tracing);
    let [first, last] = ["250 2.0.0 ok", "452 4.2.2 full"].map(Reply::parse);
    let text = |_: &Reply| String::new();
    span.judge(&judged(&Outcome::Delivered(first), "close"), text);
    span.judge(&judged(&Outcome::Deferred(last), "retry"), text);
    span.end(Duration::ZERO);
    let span = &ended(&queue)[0];
    assert_eq!(values(span, own::VERDICT), ["retry"]);
    assert_eq!(values(span, own::REPLY_CODE), ["452"]);
    assert!(!is_error(span));
}

#[test]
fn an_attempt_that_does_not_end_is_an_error() {
    let (tracing, queue) = tracing();
    let span = attempt(&tracing);
    let outcome = Outcome::Delivered(Reply::parse("250 2.0.0 ok"));
    span.judge(&judged(&outcome, "close"), |_| String::new());
    drop(span);
    let span = &ended(&queue)[0];
    assert_eq!(values(span, otel::ERROR_TYPE), ["crashed"]);
    assert_eq!(values(span, own::VERDICT), [""; 0]);
    assert!(is_error(span));
}

fn arriving(traceparent: Option<&str>) -> Arriving<'_> {
    Arriving {
        job: "default/jo@example.com",
        destination: "example.com",
        message: "m1",
        traceparent,
    }
}

#[test]
fn after_the_end_of_telemetry_a_message_keeps_the_trace_of_the_platform() {
    let (tracing, queue) = tracing();
    let arriving = arriving(Some(SAMPLED));
    assert!(tracing.send(&arriving).traceparent().is_some());
    queue.close();
    assert_eq!(tracing.send(&arriving).traceparent(), None);
}

#[test]
fn a_span_follows_its_parent_or_else_its_first_origin() {
    let (tracing, queue) = tracing();
    let sent = tracing
        .send(&arriving(Some(NOT_SAMPLED)))
        .traceparent()
        .unwrap();
    assert!(sent.ends_with("-00"), "{sent}");
    for (origins, is_sent) in [
        (&[][..], true),
        (&[NOT_SAMPLED], false),
        (&[NOT_SAMPLED, SAMPLED], true),
    ] {
        assert!(ended(&queue).is_empty());
        drop(attempt_of(&tracing, origins));
        assert_eq!(!ended(&queue).is_empty(), is_sent, "{origins:?}");
    }
}

#[test]
fn with_trace_style_parent_an_attempt_is_a_child_of_its_origin() {
    let settings = Settings {
        trace_style: TraceStyle::Parent,
        ..Settings::default()
    };
    let (tracing, queue) = tracing_with(&settings);
    drop(attempt(&tracing));
    let (span, origin) = (&ended(&queue)[0], TraceContext::parse(SAMPLED).unwrap());
    assert_eq!(span.trace_id, origin.trace);
    assert_eq!(span.parent_span_id, origin.span);
    assert_eq!(span.flags, 0x301, "the parent is of another process");
}

fn origin(n: u8, is_sampled: bool) -> TraceContext {
    let flags = u8::from(is_sampled);
    let text = format!(
        "00-{:032x}-{:016x}-{flags:02x}",
        u128::from(n) + 1,
        u64::from(n) + 1
    );
    TraceContext::parse(&text).unwrap()
}

#[test]
fn an_attempt_links_to_some_origins_and_a_sampled_one_comes_first() {
    for (sampled, count) in [(0, 3), (2, 3), (11, 12), (7, 9)] {
        let links = linked_origins((0..count).map(|n| origin(n, n == sampled)));
        assert!(links[0].is_sampled, "{sampled} of {count}");
        assert_eq!(links.len(), usize::from(count).min(ORIGINS_MAX));
    }
    let none = linked_origins((0..3).map(|n| origin(n, false)));
    assert!(none.iter().all(|link| !link.is_sampled));
    let same = linked_origins([origin(1, true), origin(1, true)].into_iter());
    assert_eq!(same.len(), 1);
}
