//! The span of one attempt, with its parts as children.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use domain::exchange::{HttpExchange, ProgramRun};
use domain::outcome::Outcome;
use domain::reply::Reply;
use domain::transcript::{Phase, Transcript};

use super::maker::{OpenSpan, add_reply};
use super::record::{Kind, Parent, SpanRecord};
use crate::current;
use crate::names::{otel, own};
use crate::protobuf::Value;
use crate::traceparent::TraceContext;
use crate::words::error_type;

/// How one message of an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// What the sender saw.
    pub outcome: &'a Outcome,
    /// What the policy decided, as a word.
    pub verdict: &'static str,
    /// The policy's row, if one applied.
    pub row: Option<&'a str>,
    /// How many attempts that row's schedule has.
    pub attempts_max: Option<u32>,
    /// Whether the messages are given up, or the fault is ours. An expected deferral is no error.
    pub is_error: bool,
}

/// The span of one attempt. Its parts are its children. It is empty if the attempt is not sent to
/// the collector. If it is dropped before its [`end`](Self::end), the attempt has crashed.
#[derive(Debug, Default)]
pub struct AttemptSpan(Option<Live>);

#[derive(Debug)]
struct Live {
    open: Mutex<OpenSpan>,
    context: TraceContext,
    /// The hash of the job.
    conversation: u64,
    began: SystemTime,
    /// How many bytes the span has without what the policy made of the last outcome.
    unjudged: usize,
    has_ended: bool,
}

/// Which span a settlement belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Settling {
    pub(super) context: TraceContext,
    pub(super) conversation: u64,
}

impl AttemptSpan {
    /// Returns the span of an attempt that is sent to the collector. It began at `began`.
    pub(super) fn begun(
        open: OpenSpan,
        context: TraceContext,
        conversation: u64,
        began: SystemTime,
    ) -> Self {
        Self(Some(Live {
            unjudged: open.record.length(),
            open: Mutex::new(open),
            context,
            conversation,
            began,
            has_ended: false,
        }))
    }

    /// Returns the context of this span. `None` if it is not sent.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|live| live.context)
    }

    /// Runs the attempt. The lines that it logs belong to this span.
    pub async fn around<T>(&self, attempt: impl Future<Output = T>) -> T {
        current::within(self.context(), attempt).await
    }

    /// Returns what the span of the settlement needs. `None` if it is not sent.
    pub fn settling(&self) -> Option<Settling> {
        self.0.as_ref().map(|live| Settling {
            context: live.context,
            conversation: live.conversation,
        })
    }

    /// Returns the time now, for the parts of this attempt. `None` if the attempt is not sent, so
    /// no clock is read.
    pub fn now(&self) -> Option<SystemTime> {
        self.0.as_ref().map(|_| SystemTime::now())
    }

    /// Records that a message's content was read since `began`, or could not be.
    pub fn content(&self, began: Option<SystemTime>, error: Option<&'static str>) {
        let (Some(live), Some(began)) = (&self.0, began) else {
            return;
        };
        live.child("content", began, SystemTime::now(), error, |_| ());
    }

    /// Records the network part of trying a message, which began at `began` and has just ended: the
    /// lookup of the hosts and the wait for a connection, if there were any, and the SMTP
    /// conversation.
    pub fn smtp(&self, began: Option<SystemTime>, transcript: &Transcript, outcome: &Outcome) {
        let (Some(live), Some(began)) = (&self.0, began) else {
            return;
        };
        let ended = SystemTime::now();
        let error = error_type(outcome);
        let mut phases = transcript.took_ms.iter().peekable();
        let mut at = began;
        let has_talked = talked(transcript).next().is_some();
        // What came before the conversation. Lookups and waits between the hosts that one attempt
        // tries are part of the conversation's span.
        for (name, phase) in [("dns", Phase::Lookup), ("wait", Phase::Wait)] {
            let is_last = transcript.phase == phase && !has_talked;
            let same = std::iter::from_fn(|| phases.next_if(|(next, _)| *next == phase));
            let took: Option<u64> = same.map(|(_, ms)| *ms).reduce(u64::saturating_add);
            let end = match took {
                Some(ms) if !is_last => (at + Duration::from_millis(ms)).min(ended),
                None if !is_last => continue,
                _ => ended,
            };
            live.child(name, at, end, error.filter(|_| is_last), |_| ());
            if is_last {
                return;
            }
            at = end;
        }
        live.child("smtp", at, ended, error, |span| {
            server_of(transcript, span);
            if let Some(tls) = &transcript.tls {
                span.text(own::TLS, tls);
            }
            span.text(own::PHASE, transcript.phase.as_str());
            span.attribute(own::REUSED, Value::Bool(transcript.reused));
            for (phase, ms) in talked(transcript) {
                let seconds = Value::Float(ms as f64 / 1_000.0);
                span.attribute(&own::phase_duration(phase.as_str()), seconds);
            }
            let waited = transcript.waited().as_secs_f64();
            span.attribute(own::WAITED, Value::Float(waited));
            if let Some(reply) = outcome.reply() {
                add_reply(span, reply);
            }
        });
    }

    /// Records that a message was posted to an HTTP service since `began`.
    pub fn http(&self, began: Option<SystemTime>, exchange: &HttpExchange, outcome: &Outcome) {
        let (Some(live), Some(began)) = (&self.0, began) else {
            return;
        };
        live.handed_over("http", began, outcome, |span| {
            span.text(otel::HTTP_METHOD, "POST");
            span.text(otel::URL, &exchange.url);
            span.text(otel::SERVER_ADDRESS, &exchange.host);
            span.int(otel::SERVER_PORT, exchange.port);
            if let Some(status) = exchange.status {
                span.int(otel::HTTP_STATUS, status);
            }
            for (key, took) in [
                (own::HTTP_ANSWERED, exchange.answered_after),
                (own::HTTP_READ, exchange.read_in),
            ] {
                if let Some(took) = took {
                    span.attribute(key, Value::Float(took.as_secs_f64()));
                }
            }
        });
    }

    /// Records that a message was given to a program since `began`.
    pub fn command(&self, began: Option<SystemTime>, run: &ProgramRun, outcome: &Outcome) {
        let (Some(live), Some(began)) = (&self.0, began) else {
            return;
        };
        live.handed_over("command", began, outcome, |span| {
            span.text(otel::PROGRAM, &run.name);
            if let Some(code) = run.exit_code {
                span.int(otel::EXIT_CODE, code);
            }
        });
    }

    /// Records what the policy made of the last outcome. `reply_text` makes the fingerprint of a
    /// reply's text; it is called only if the settings allow it.
    pub fn judge(&self, judged: &Judged<'_>, reply_text: impl FnOnce(&Reply) -> String) {
        let Some(live) = &self.0 else { return };
        let mut open = live.open();
        let shows_reply_text = open.maker.shows_reply_text;
        let span = &mut open.record;
        span.truncate(live.unjudged);
        if let Some(reply) = judged.outcome.reply() {
            add_reply(span, reply);
            if shows_reply_text {
                span.text(own::REPLY_TEXT, &reply_text(reply));
            }
        }
        span.text(own::VERDICT, judged.verdict);
        if let Some(row) = judged.row {
            span.text(own::POLICY_ROW, row);
        }
        if let Some(max) = judged.attempts_max {
            span.int(own::ATTEMPT_MAX, max);
        }
        if let Some(error) = error_type(judged.outcome) {
            span.text(otel::ERROR_TYPE, error);
            if judged.is_error {
                span.mark_as_error(error);
            }
        }
    }

    /// Ends the span of an attempt that took this long.
    pub fn end(self, took: Duration) {
        if let Some(mut live) = self.0 {
            live.has_ended = true;
            let ended = live.began + took;
            live.open().ended = Some(ended);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.has_ended {
            let unjudged = self.unjudged;
            let span = &mut self.open().record;
            span.truncate(unjudged);
            span.fail("crashed", "the attempt panicked or did not end");
        }
    }
}

impl Live {
    fn open(&self) -> MutexGuard<'_, OpenSpan> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handed_over(
        &self,
        name: &'static str,
        began: SystemTime,
        outcome: &Outcome,
        add: impl FnOnce(&mut SpanRecord),
    ) {
        let error = error_type(outcome);
        self.child(name, began, SystemTime::now(), error, |span| {
            add(span);
            if let Some(reply) = outcome.reply() {
                add_reply(span, reply);
            }
        });
    }

    /// Records a part of the attempt. `add` adds its attributes.
    fn child(
        &self,
        name: &'static str,
        began: SystemTime,
        ended: SystemTime,
        error: Option<&'static str>,
        add: impl FnOnce(&mut SpanRecord),
    ) {
        let template = SpanRecord::template(name, Kind::Client);
        let mut span = template.begin(&self.context.child(), Parent::Ours(self.context));
        span.start(began);
        span.text(otel::OPERATION_NAME, name);
        span.attribute(otel::CONVERSATION_ID, Value::Hash(self.conversation));
        add(&mut span);
        if let Some(error) = error {
            span.fail(error, error);
        }
        span.end(ended);
        self.open().maker.queue.push(span.as_bytes());
    }
}

/// Adds the server of a conversation, also if no connection to it could be made.
fn server_of(transcript: &Transcript, span: &mut SpanRecord) {
    let address = transcript.address.parse::<SocketAddr>().ok();
    if !transcript.host.is_empty() {
        span.text(otel::SERVER_ADDRESS, &transcript.host);
    } else if let Some(address) = address {
        span.text(otel::SERVER_ADDRESS, &address.ip().to_string());
    }
    let port = address.map_or(transcript.port, |address| address.port());
    if port > 0 {
        span.int(otel::SERVER_PORT, port);
    }
}

/// Returns the phases of the conversation, each with its whole duration. The lookup has a span of
/// its own, and the wait for a connection an attribute of its own.
fn talked(transcript: &Transcript) -> impl Iterator<Item = (Phase, u64)> {
    let phases = transcript.sums().into_iter();
    phases.filter(|(phase, _)| phase.is_conversation())
}
