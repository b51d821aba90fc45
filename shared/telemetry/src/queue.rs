//! The spans that wait to be sent to a collector. Each span is added to a request in its encoded
//! form, so nothing is left to encode when the request is sent.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::budget::Budget;
use crate::names::{SCHEMA_URL, SCOPE};
use crate::protobuf::{Value, attribute, bytes, close_message, message, open_message};

/// With how many bytes a request is full. A collector accepts 4 MiB by default (gRPC), and a span
/// has about 400 bytes.
const REQUEST_BYTES: usize = 1 << 20;

/// The numbers of the fields (opentelemetry/proto/trace/v1/trace.proto, and the files that it
/// imports).
mod field {
    pub(super) const RESOURCE_SPANS: u8 = 1;
    pub(super) const RESOURCE: u8 = 1;
    pub(super) const RESOURCE_ATTRIBUTES: u8 = 1;
    pub(super) const SCOPE_SPANS: u8 = 2;
    pub(super) const SCOPE: u8 = 1;
    pub(super) const SCOPE_NAME: u8 = 1;
    pub(super) const SPANS: u8 = 2;
    pub(super) const SCHEMA_URL: u8 = 3;
}

/// The queue of the spans of this process.
#[derive(Debug)]
pub(crate) struct SpanQueue {
    budget: Arc<Budget>,
    /// How many spans a request has at most.
    request_max: usize,
    /// A request without spans. All requests begin as copies of it.
    empty: Request,
    waiting: Mutex<Waiting>,
    /// Notified when a request is full, and when the queue is closed.
    pub(crate) changed: Notify,
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct Waiting {
    /// The full requests, the oldest first.
    full: VecDeque<Request>,
    /// The request to which the next span is added.
    filling: Request,
}

/// A request to the collector.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The encoded `ExportTraceServiceRequest`.
    pub(crate) bytes: Vec<u8>,
    /// How many spans it has.
    pub(crate) spans: usize,
    /// Where the two messages around the spans begin, `ResourceSpans` and `ScopeSpans`. Their
    /// lengths are written when the request is finished.
    open_messages: [usize; 2],
}

impl SpanQueue {
    /// Returns an empty queue. `resource` has the attributes of this process.
    pub(crate) fn new(
        resource: &[(String, String)],
        request_max: usize,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        let empty = Request::new(resource);
        let waiting = Waiting {
            full: VecDeque::new(),
            filling: empty.clone(),
        };
        Arc::new(Self {
            budget,
            request_max,
            empty,
            waiting: Mutex::new(waiting),
            changed: Notify::new(),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Adds an encoded span. Drops the span if the queue is closed or the budget has no room.
    pub(crate) fn push(&self, span: &[u8]) {
        if self.is_closed() || !self.budget.take() {
            return;
        }
        let mut waiting = self.waiting();
        let filling = &mut waiting.filling;
        bytes(&mut filling.bytes, field::SPANS, span);
        filling.spans += 1;
        if filling.spans >= self.request_max || filling.bytes.len() >= REQUEST_BYTES {
            // The next request will probably be as large.
            let mut next = self.empty.clone();
            next.bytes.reserve(filling.bytes.len());
            let full = mem::replace(filling, next);
            waiting.full.push_back(full);
            drop(waiting);
            self.changed.notify_one();
        }
    }

    /// Removes and returns the next request to be sent. If `all` is false, only a full request is
    /// returned.
    pub(crate) fn next(&self, all: bool) -> Option<Request> {
        let mut waiting = self.waiting();
        let next = waiting.full.pop_front().or_else(|| {
            let has_spans = all && waiting.filling.spans > 0;
            has_spans.then(|| mem::replace(&mut waiting.filling, self.empty.clone()))
        });
        drop(waiting);
        next.map(Request::finished)
    }

    /// Closes the queue: from now on, no span is added.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    /// Returns a request without spans.
    fn new(resource: &[(String, String)]) -> Self {
        let mut out = Vec::new();
        let resource_spans = open_message(&mut out, field::RESOURCE_SPANS);
        message(&mut out, field::RESOURCE, |out| {
            for (key, value) in resource {
                attribute(out, field::RESOURCE_ATTRIBUTES, key, Value::Text(value));
            }
        });
        let scope_spans = open_message(&mut out, field::SCOPE_SPANS);
        message(&mut out, field::SCOPE, |out| {
            bytes(out, field::SCOPE_NAME, SCOPE.as_bytes());
        });
        bytes(&mut out, field::SCHEMA_URL, SCHEMA_URL.as_bytes());
        Self {
            bytes: out,
            spans: 0,
            open_messages: [resource_spans, scope_spans],
        }
    }

    /// Returns the request in the form in which it can be sent.
    fn finished(mut self) -> Self {
        for start in self.open_messages {
            close_message(&mut self.bytes, start);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message;

    use super::*;

    fn span(name: &str) -> Vec<u8> {
        let name = name.to_owned();
        let span = Span {
            name,
            ..Span::default()
        };
        span.encode_to_vec()
    }

    fn names(request: &Request) -> Vec<String> {
        let decoded = ExportTraceServiceRequest::decode(&*request.bytes).unwrap();
        assert_eq!(decoded.resource_spans.len(), 1);
        let resource_spans = &decoded.resource_spans[0];
        let resource = resource_spans.resource.as_ref().unwrap();
        assert_eq!(resource.attributes[0].key, "service.name");
        let scope_spans = &resource_spans.scope_spans[0];
        assert_eq!(scope_spans.scope.as_ref().unwrap().name, SCOPE);
        assert_eq!(scope_spans.schema_url, SCHEMA_URL);
        assert_eq!(scope_spans.spans.len(), request.spans);
        scope_spans
            .spans
            .iter()
            .map(|span| span.name.clone())
            .collect()
    }

    fn queue(request_max: usize, max: usize) -> (Arc<SpanQueue>, Arc<Budget>) {
        let resource = [("service.name".to_owned(), "test".to_owned())];
        let budget = Budget::of(max, None);
        let queue = SpanQueue::new(&resource, request_max, budget.clone());
        (queue, budget)
    }

    #[test]
    fn spans_are_sent_in_requests_of_bounded_size() {
        let (queue, _) = queue(2, 100);
        for name in ["a", "b", "c"] {
            queue.push(&span(name));
        }
        assert_eq!(names(&queue.next(false).unwrap()), ["a", "b"]);
        assert!(
            queue.next(false).is_none(),
            "a request that is not full waits for more spans"
        );
        assert_eq!(names(&queue.next(true).unwrap()), ["c"]);
        assert!(queue.next(true).is_none());
        for _ in 0..3 {
            queue.push(&span(&"x".repeat(REQUEST_BYTES / 2)));
        }
        let first = queue.next(false).map(|request| request.spans);
        assert_eq!(first, Some(2), "many bytes fill a request too");
    }

    #[tokio::test]
    async fn a_full_or_closed_queue_takes_no_span() {
        let (queue, budget) = queue(10, 2);
        for name in ["a", "b", "c"] {
            queue.push(&span(name));
        }
        assert_eq!(budget.lost().dropped, 1);
        assert_eq!(names(&queue.next(true).unwrap()), ["a", "b"]);
        budget.give_back(2, Ok(())).await;
        queue.close();
        queue.push(&span("d"));
        assert!(queue.next(true).is_none());
    }
}
