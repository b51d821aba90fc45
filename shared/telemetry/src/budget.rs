//! Bounds what waits to be sent to a collector. What does not fit is dropped and counted, so a
//! collector that is slow, hangs or is gone never slows this process down.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{
    BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord,
};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// How many items wait, and how many were lost.
#[derive(Debug)]
pub(crate) struct Budget {
    waiting: AtomicUsize,
    max: usize,
    dropped: AtomicU64,
    failed: AtomicU64,
    /// Whether the collector did not accept the last call.
    is_failing: AtomicBool,
}

/// What was not delivered to the collector since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Items that did not fit.
    pub dropped: u64,
    /// Items that the collector did not accept.
    pub failed: u64,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            max,
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
        })
    }

    /// Takes room for one item. Returns false if there is none; the item then counts as dropped.
    fn take(&self) -> bool {
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < self.max;
        if !has_room {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }

    /// Gives the room of items back that were sent, or could not be.
    fn give_back(&self, items: usize, is_sent: bool) {
        self.waiting.fetch_sub(items, Ordering::Relaxed);
        if !is_sent {
            self.failed.fetch_add(items as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn lost(&self) -> Lost {
        Lost {
            dropped: self.dropped.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// A batch processor in front of which there is a budget.
pub(crate) struct Budgeted<P> {
    processor: P,
    budget: Arc<Budget>,
}

impl<P> Budgeted<P> {
    pub(crate) fn new(processor: P, budget: Arc<Budget>) -> Self {
        Self { processor, budget }
    }
}

impl<P> fmt::Debug for Budgeted<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgeted").finish_non_exhaustive()
    }
}

impl SpanProcessor for Budgeted<BatchSpanProcessor> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.budget.take() {
            self.processor.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

impl LogProcessor for Budgeted<BatchLogProcessor> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.budget.take() {
            self.processor.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// A runtime that can be dropped anywhere: it waits for nothing that still runs on it.
#[derive(Debug)]
pub(crate) struct Reactor(Option<Runtime>);

impl Reactor {
    pub(crate) fn new(runtime: Runtime) -> Arc<Self> {
        Arc::new(Self(Some(runtime)))
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// An exporter whose calls run on a runtime of their own. Batch processors call their exporter on a
/// plain thread, where the clients for gRPC and HTTP would find no timer and no reactor. A
/// processor may still be in a call after its shutdown has timed out, so the exporter keeps the
/// runtime alive.
#[derive(Debug)]
pub(crate) struct OnRuntime<E> {
    exporter: E,
    reactor: Arc<Reactor>,
    budget: Arc<Budget>,
    longest: Duration,
}

impl<E> OnRuntime<E> {
    /// One call may take as long as `longest`.
    pub(crate) fn new(
        exporter: E,
        reactor: Arc<Reactor>,
        budget: Arc<Budget>,
        longest: Duration,
    ) -> Self {
        Self {
            exporter,
            reactor,
            budget,
            longest,
        }
    }

    fn run(&self, items: usize, call: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
        let longest = self.longest;
        let result = self
            .reactor
            .runtime()
            .block_on(async { timeout(longest, call).await })
            .unwrap_or(Err(OTelSdkError::Timeout(longest)));
        self.budget.give_back(items, result.is_ok());
        self.log_change(&result);
        result
    }
}

impl<E> OnRuntime<E> {
    /// Logs when calls begin to fail, and when they succeed again.
    fn log_change(&self, result: &OTelSdkResult) {
        let was_failing = self
            .budget
            .is_failing
            .swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(why) if !was_failing => tracing::warn!(
                %why,
                "the collector of telemetry does not accept what it is sent; that is lost"
            ),
            Ok(()) if was_failing => tracing::info!("the collector of telemetry accepts again"),
            _ => {}
        }
    }
}

impl<E: SpanExporter> SpanExporter for OnRuntime<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.run(batch.len(), self.exporter.export(batch))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for OnRuntime<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        self.run(items, self.exporter.export(batch))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let budget = Budget::new(2);
        assert_eq!(
            [budget.take(), budget.take(), budget.take()],
            [true, true, false]
        );
        budget.give_back(2, false);
        assert!(budget.take(), "there is room again");
        budget.give_back(1, true);
        assert_eq!(
            budget.lost(),
            Lost {
                dropped: 1,
                failed: 2
            }
        );
    }
}
