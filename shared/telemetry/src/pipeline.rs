//! The way of spans and logs to a collector: exporters, queues, and how they end.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    LogExporter, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{
    BatchConfigBuilder as LogBatchConfig, BatchLogProcessor, SdkLoggerProvider,
};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder as SpanBatchConfig, BatchSpanProcessor, SdkTracerProvider,
};
use tokio::runtime::Builder;

use crate::budget::{Budget, Budgeted, Lost, OnRuntime, Reactor};
use crate::ids::IdHasher;
use crate::metrics::Metrics;
use crate::names::{SCHEMA_URL, SCOPE};
use crate::sampler::FollowsOrigin;
use crate::settings::{Protocol, Settings, Signal};
use crate::spans::Tracing;

/// How long one call to the collector may take.
const EXPORT_MAX: Duration = Duration::from_secs(10);

/// How long the end of traces and logs together may take.
const SHUTDOWN_MAX: Duration = Duration::from_millis(1_800);

/// What a process is, for those who read its telemetry.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its part in the fleet: `scheduler` or `worker`.
    pub role: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The prefix of the keys in Redis. It is the name of the queue.
    pub queue: String,
}

/// The running telemetry of a process. Nothing is sent after it was shut down. Dropping it does the
/// same as [`shutdown`](Self::shutdown).
#[derive(Default)]
pub struct Pipeline {
    traces: Option<(SdkTracerProvider, Arc<Budget>)>,
    logs: Option<(SdkLoggerProvider, Arc<Budget>)>,
}

impl Pipeline {
    /// Starts to send what the settings have an endpoint for.
    ///
    /// # Errors
    /// If an endpoint or a variable of OpenTelemetry has a value that cannot be used. The text
    /// names it.
    pub fn start(settings: &Settings, process: &Process) -> Result<Self, String> {
        let endpoints = (
            settings.endpoint(Signal::Traces),
            settings.endpoint(Signal::Logs),
        );
        if endpoints == (None, None) {
            return Ok(Self::default());
        }
        // Errors and the log may name an endpoint, so it must contain no secret.
        if [&endpoints.0, &endpoints.1]
            .into_iter()
            .flatten()
            .any(|endpoint| endpoint.contains('@'))
        {
            return Err(
                "the endpoint of telemetry names a user; send a password or a token with \
                 OTEL_EXPORTER_OTLP_HEADERS"
                    .to_owned(),
            );
        }
        system::tls::prepare();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .enable_all()
            .build()
            .map_err(|err| format!("the thread of telemetry cannot be started: {err}"))?;
        let reactor = Reactor::new(runtime);
        let resource = resource(process);
        let traces = match endpoints.0 {
            None => None,
            Some(endpoint) => Some(traces(settings, &endpoint, &reactor, resource.clone())?),
        };
        let logs = match endpoints.1 {
            None => None,
            Some(endpoint) => Some(logs(settings, &endpoint, &reactor, resource)?),
        };
        Ok(Self { traces, logs })
    }

    /// Returns what makes spans. It makes none if traces are not sent.
    pub fn tracing(&self, settings: &Settings, process: &Process, ids: IdHasher) -> Tracing {
        match &self.traces {
            None => Tracing::off(),
            Some((provider, _)) => {
                let scope = InstrumentationScope::builder(SCOPE).with_schema_url(SCHEMA_URL);
                let tracer = provider.tracer_with_scope(scope.build());
                Tracing::new(tracer, settings, &process.queue, ids)
            }
        }
    }

    /// Returns what sends logs, if they are sent.
    pub(crate) fn logger(&self) -> Option<&SdkLoggerProvider> {
        self.logs.as_ref().map(|(provider, _)| provider)
    }

    /// From now on, `metrics` also has what the collector did not get.
    pub fn report_losses(&self, metrics: &Metrics) {
        let traces = self.traces.as_ref().map(|(_, budget)| budget);
        let logs = self.logs.as_ref().map(|(_, budget)| budget);
        for (signal, budget) in [("traces", traces), ("logs", logs)] {
            if let Some(budget) = budget.cloned() {
                metrics.before_write(move |metrics| metrics.lost(signal, budget.lost()));
            }
        }
    }

    /// Returns how many spans, and how many log records, the collector did not get.
    pub fn lost(&self) -> (Lost, Lost) {
        (lost(self.traces.as_ref()), lost(self.logs.as_ref()))
    }

    /// Sends what waits now. It blocks until the collector has answered.
    pub fn flush(&self) {
        if let Some((provider, _)) = &self.traces {
            let _ = provider.force_flush();
        }
    }

    /// Sends what still waits, for a bounded time, and ends. It blocks for two seconds at most, so
    /// call it where a thread may block.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let (traces, logs) = (self.traces.take(), self.logs.take());
        if traces.is_none() && logs.is_none() {
            return;
        }
        // Both at once, because a collector that hangs holds up each for as long as it may.
        thread::scope(|scope| {
            scope
                .spawn(|| traces.map(|(provider, _)| provider.shutdown_with_timeout(SHUTDOWN_MAX)));
            scope.spawn(|| logs.map(|(provider, _)| provider.shutdown_with_timeout(SHUTDOWN_MAX)));
        });
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("traces", &self.traces.is_some())
            .field("logs", &self.logs.is_some())
            .finish()
    }
}

fn lost<P>(signal: Option<&(P, Arc<Budget>)>) -> Lost {
    signal.map_or_else(Lost::default, |(_, budget)| budget.lost())
}

/// Returns what all spans and logs of this process have in common. `OTEL_SERVICE_NAME` and
/// `OTEL_RESOURCE_ATTRIBUTES` come before our own values.
fn resource(process: &Process) -> Resource {
    let ours = Resource::builder_empty()
        .with_service_name(format!("redeliver-{}", process.role))
        .with_attribute(KeyValue::new("service.version", process.version))
        .with_attribute(KeyValue::new("service.namespace", "redeliver"))
        .with_attribute(KeyValue::new("service.instance.id", instance()))
        .build();
    let environment = Resource::builder_empty()
        .with_detector(Box::new(
            opentelemetry_sdk::resource::EnvResourceDetector::new(),
        ))
        .build();
    let mut builder = Resource::builder_empty();
    for (key, value) in ours.iter().chain(environment.iter()) {
        builder = builder.with_attribute(KeyValue::new(key.clone(), value.clone()));
    }
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => builder.with_service_name(name).build(),
        _ => builder.build(),
    }
}

/// Returns a name for this process that no other process has: its host and its process id.
fn instance() -> String {
    let host = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

/// Builds the exporter of a signal. A macro, because the builders of the two signals have the same
/// methods and no trait in common.
macro_rules! exporter {
    ($exporter:ident, $signal:expr, $settings:expr, $endpoint:expr) => {{
        let builder = $exporter::builder();
        let built = match $settings.protocol($signal) {
            Protocol::Grpc => builder
                .with_tonic()
                .with_endpoint($endpoint)
                .with_retry_policy(RetryPolicy::disabled())
                .build(),
            Protocol::Http => builder
                .with_http()
                .with_http_client(client()?)
                .with_endpoint($endpoint)
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_retry_policy(RetryPolicy::disabled())
                .build(),
        };
        built.map_err(|err| not_usable($signal, $endpoint, &err))?
    }};
}

fn traces(
    settings: &Settings,
    endpoint: &str,
    reactor: &Arc<Reactor>,
    resource: Resource,
) -> Result<(SdkTracerProvider, Arc<Budget>), String> {
    let _inside = reactor.runtime().enter();
    let exporter = exporter!(SpanExporter, Signal::Traces, settings, endpoint);
    let budget = Budget::new(settings.queue_max);
    let exporter = OnRuntime::new(exporter, reactor.clone(), budget.clone(), EXPORT_MAX);
    let config = SpanBatchConfig::default().with_max_queue_size(2 * settings.queue_max);
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(config.build())
        .build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(FollowsOrigin::from_environment())
        .with_span_processor(Budgeted::new(processor, budget.clone()))
        .with_resource(resource)
        .build();
    Ok((provider, budget))
}

fn logs(
    settings: &Settings,
    endpoint: &str,
    reactor: &Arc<Reactor>,
    resource: Resource,
) -> Result<(SdkLoggerProvider, Arc<Budget>), String> {
    let _inside = reactor.runtime().enter();
    let exporter = exporter!(LogExporter, Signal::Logs, settings, endpoint);
    let budget = Budget::new(settings.queue_max);
    let exporter = OnRuntime::new(exporter, reactor.clone(), budget.clone(), EXPORT_MAX);
    let config = LogBatchConfig::default().with_max_queue_size(2 * settings.queue_max);
    let processor = BatchLogProcessor::builder(exporter)
        .with_batch_config(config.build())
        .build();
    let provider = SdkLoggerProvider::builder()
        .with_log_processor(Budgeted::new(processor, budget.clone()))
        .with_resource(resource)
        .build();
    Ok((provider, budget))
}

fn client() -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .build()
        .map_err(|err| format!("the client for the collector cannot be created: {err}"))
}

fn not_usable(signal: Signal, endpoint: &str, why: &dyn fmt::Display) -> String {
    format!(
        "{signal} cannot be sent to \"{endpoint}\" (telemetry.endpoint or \
         OTEL_EXPORTER_OTLP_ENDPOINT): {why}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(endpoint: &str) -> Result<Pipeline, String> {
        let settings = Settings {
            endpoint: Some(endpoint.to_owned()),
            ..Settings::default()
        };
        let process = Process {
            role: "worker",
            version: "1",
            queue: "redeliver".to_owned(),
        };
        Pipeline::start(&settings, &process)
    }

    #[tokio::test]
    async fn a_process_that_ends_early_may_drop_it_in_async_code() {
        drop(start("http://127.0.0.1:9").unwrap());
    }

    #[test]
    fn an_endpoint_with_a_password_is_refused_and_not_shown() {
        let why = start("https://jo:secret@127.0.0.1:4317").unwrap_err();
        assert!(!why.contains("secret") && why.contains("HEADERS"), "{why}");
    }
}
