//! The way of logs to a collector.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::logs::LogRecord;
use opentelemetry::trace::{SpanId, TraceFlags, TraceId};
use opentelemetry_otlp::{
    LogExporter as OtlpExporter, RetryPolicy, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{
    BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord,
    SdkLoggerProvider,
};
use tokio::time::timeout;

use crate::budget::Budget;
use crate::current;
use crate::environment::CALL_MAX;
use crate::reactor::Reactor;
use crate::settings::{Protocol, Settings, Signal};
use crate::transport;

/// Starts to send logs.
///
/// # Errors
/// If the endpoint cannot be used.
pub(crate) fn start(
    settings: &Settings,
    endpoint: &str,
    reactor: &Arc<Reactor>,
    resource: Resource,
) -> Result<(SdkLoggerProvider, Arc<Budget>), String> {
    let builder = OtlpExporter::builder();
    let exporter = match settings.protocol(Signal::Logs) {
        Protocol::Grpc => builder
            .with_tonic()
            .with_channel(transport::channel(endpoint)?)
            .with_retry_policy(RetryPolicy::disabled())
            .build(),
        Protocol::Http => builder
            .with_http()
            .with_http_client(transport::client()?)
            .with_endpoint(endpoint)
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_retry_policy(RetryPolicy::disabled())
            .build(),
    };
    let exporter = exporter.map_err(|why| why.to_string())?;
    let budget = Budget::new(settings.queue_max);
    let exporter = OnReactor {
        exporter,
        reactor: reactor.clone(),
        budget: budget.clone(),
    };
    let config = BatchConfigBuilder::default().with_max_queue_size(2 * settings.queue_max);
    let processor = BatchLogProcessor::builder(exporter)
        .with_batch_config(config.build())
        .build();
    let processor = Budgeted {
        processor,
        budget: budget.clone(),
    };
    let provider = SdkLoggerProvider::builder()
        .with_log_processor(processor)
        .with_resource(resource)
        .build();
    Ok((provider, budget))
}

/// A batch processor in front of which there is a budget.
struct Budgeted {
    processor: BatchLogProcessor,
    budget: Arc<Budget>,
}

impl fmt::Debug for Budgeted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgeted").finish_non_exhaustive()
    }
}

impl LogProcessor for Budgeted {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if !self.budget.take() {
            return;
        }
        if let Some(span) = current::span() {
            let (trace, span) = (
                TraceId::from_bytes(span.trace),
                SpanId::from_bytes(span.span),
            );
            record.set_trace_context(trace, span, Some(TraceFlags::SAMPLED));
        }
        self.processor.emit(record, scope);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.budget.end_pauses();
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// An exporter whose calls run on a runtime of their own. Batch processors call their exporter on a
/// plain thread, where the clients for gRPC and HTTP would find no timer and no reactor. A
/// processor may still be in a call after its shutdown has timed out, so the exporter keeps the
/// runtime alive.
#[derive(Debug)]
struct OnReactor {
    exporter: OtlpExporter,
    reactor: Arc<Reactor>,
    budget: Arc<Budget>,
}

impl LogExporter for OnReactor {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        let runtime = self.reactor.runtime();
        let call = async { timeout(CALL_MAX, self.exporter.export(batch)).await };
        let result = runtime
            .block_on(call)
            .unwrap_or(Err(OTelSdkError::Timeout(CALL_MAX)));
        runtime.block_on(self.budget.give_back(items, result.as_ref()));
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
