//! The way of spans and logs to a collector: exporters, queues, and how they end.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;

use crate::budget::{Budget, Lost};
use crate::environment::Sending;
use crate::ids::IdHasher;
use crate::logs;
use crate::metrics::Metrics;
use crate::queue::SpanQueue;
use crate::reactor::Reactor;
use crate::sender::SpanSender;
use crate::settings::{Settings, Signal};
use crate::spans::Tracing;
use crate::transport::Transport;
use crate::variables;

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
    traces: Option<SpanSender>,
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
        variables::check(settings.protocol.is_some())?;
        system::tls::prepare();
        let reactor = Reactor::start()?;
        // The clients use the runtime from the start.
        let _inside = reactor.runtime().enter();
        let sending = Sending::from_environment();
        let resource = resource(process);
        let traces = endpoints.0.map(|endpoint| {
            let transport = Transport::new(settings.protocol(Signal::Traces), &endpoint, &sending);
            let transport = transport.map_err(|why| not_usable(Signal::Traces, &endpoint, &why))?;
            let budget = Budget::new(settings.queue_max);
            let request_max = sending.request_max.min(settings.queue_max);
            let queue = SpanQueue::new(&texts(&resource), request_max, budget.clone());
            let reactor = reactor.clone();
            let sending = sending.clone();
            Ok::<_, String>(SpanSender::start(
                queue, budget, transport, sending, reactor,
            ))
        });
        let logs = endpoints.1.map(|endpoint| {
            logs::start(settings, &endpoint, &reactor, resource.clone())
                .map_err(|why| not_usable(Signal::Logs, &endpoint, &why))
        });
        Ok(Self {
            traces: traces.transpose()?,
            logs: logs.transpose()?,
        })
    }

    /// Returns what makes spans. It makes none if traces are not sent.
    pub fn tracing(&self, settings: &Settings, process: &Process, ids: IdHasher) -> Tracing {
        match &self.traces {
            None => Tracing::off(),
            Some(sender) => Tracing::new(sender.queue.clone(), settings, &process.queue, ids),
        }
    }

    /// Returns what sends logs, if they are sent.
    pub(crate) fn logger(&self) -> Option<&SdkLoggerProvider> {
        self.logs.as_ref().map(|(provider, _)| provider)
    }

    /// From now on, `metrics` also has what the collector did not get.
    pub fn report_losses(&self, metrics: &Metrics) {
        let traces = self.traces.as_ref().map(|sender| &sender.budget);
        let logs = self.logs.as_ref().map(|(_, budget)| budget);
        for (signal, budget) in [("traces", traces), ("logs", logs)] {
            if let Some(budget) = budget.cloned() {
                metrics.before_write(move |metrics| metrics.lost(signal, budget.lost()));
            }
        }
    }

    /// Sends what still waits, for a bounded time, and ends. It blocks for two seconds at most, so
    /// call it where a thread may block. Returns what was lost of traces, and of logs.
    pub fn shutdown(mut self) -> (Lost, Lost) {
        self.end()
    }

    fn end(&mut self) -> (Lost, Lost) {
        let (traces, logs) = (self.traces.take(), self.logs.take());
        // Both at once, because a collector that hangs holds up each for as long as it may.
        thread::scope(|scope| {
            let logs = logs.map(|(provider, budget)| {
                scope.spawn(move || {
                    let _ = provider.shutdown_with_timeout(SHUTDOWN_MAX);
                    budget.lost_in_the_end()
                })
            });
            let traces = traces.map(|sender| sender.shutdown(SHUTDOWN_MAX));
            let logs = logs.and_then(|logs| logs.join().ok());
            (traces.unwrap_or_default(), logs.unwrap_or_default())
        })
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.end();
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

/// Returns the attributes of a resource, each as text.
fn texts(resource: &Resource) -> Vec<(String, String)> {
    let pair = |(key, value): (&opentelemetry::Key, &opentelemetry::Value)| {
        (key.to_string(), value.to_string())
    };
    resource.iter().map(pair).collect()
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
