//! The way of logs to a collector.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::logs::LogRecord;
use opentelemetry::trace::{SpanId, TraceFlags, TraceId};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord,
    SdkLoggerProvider,
};
use prost::Message as _;
use tokio::sync::Mutex;

use crate::budget::Budget;
use crate::current;
use crate::endpoint::Place;
use crate::environment::Sending;
use crate::reactor::Reactor;
use crate::settings::{Settings, Signal};
use crate::transport::Transport;

/// Starts to send logs.
///
/// # Errors
/// If the endpoint cannot be used.
pub(crate) fn start(
    settings: &Settings,
    endpoint: &str,
    place: &Place,
    reactor: &Arc<Reactor>,
    resource: Resource,
) -> Result<(SdkLoggerProvider, Arc<Budget>), String> {
    let how = Sending::from_environment(Signal::Logs);
    let protocol = settings.protocol(Signal::Logs);
    let transport = Transport::new(Signal::Logs, protocol, endpoint, &how)?;
    let budget = Budget::of(settings.queue_max, Some(place.clone()));
    let exporter = OnReactor {
        transport: Mutex::new(transport),
        call_max: how.call_max,
        resource: ResourceAttributesWithSchema::default(),
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
        complete(record);
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

/// Adds to a record what the bridge from the log leaves out, and removes the name of its event,
/// which is a line of the source and changes with each version.
fn complete(record: &mut SdkLogRecord) {
    if let Some(time) = record.observed_timestamp() {
        record.set_timestamp(time);
    }
    record.set_event_name("");
    if let Some(span) = current::span() {
        let (trace, span) = (
            TraceId::from_bytes(span.trace),
            SpanId::from_bytes(span.span),
        );
        record.set_trace_context(trace, span, Some(TraceFlags::SAMPLED));
    }
}

/// An exporter whose calls run on a runtime of their own. Batch processors call their exporter on a
/// plain thread, where the clients for gRPC and HTTP would find no timer and no reactor. A
/// processor may still be in a call after its shutdown has timed out, so the exporter keeps the
/// runtime alive.
struct OnReactor {
    /// Calls are made one after the other.
    transport: Mutex<Transport>,
    call_max: Duration,
    /// The attributes of this process.
    resource: ResourceAttributesWithSchema,
    reactor: Arc<Reactor>,
    budget: Arc<Budget>,
}

impl fmt::Debug for OnReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnReactor").finish_non_exhaustive()
    }
}

impl LogExporter for OnReactor {
    /// Always succeeds for the processor, because the budget counts and reports failures.
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        let resource_logs = group_logs_by_resource_and_scope(&batch, &self.resource);
        let request = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
        self.reactor.runtime().block_on(async {
            let mut transport = self.transport.lock().await;
            let sent = transport.send_within(self.call_max, request).await;
            self.budget.refused(*sent.as_ref().unwrap_or(&0));
            self.budget.give_back(items, sent.map(drop)).await;
        });
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}
