//! Sends the spans and logs of a process to a collector: starts what sends them, and shuts it down.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;

use crate::budget::{Budget, Lost};
use crate::endpoint::Place;
use crate::environment::Sending;
use crate::ids::IdHasher;
use crate::logs;
use crate::metrics::Metrics;
use crate::queue::SpanQueue;
use crate::reactor::Reactor;
use crate::sampling::Sampling;
use crate::sender::SpanSender;
use crate::settings::{Settings, Signal};
use crate::spans::Tracing;
use crate::transport::Transport;
use crate::{unsupported, variables};

/// How long the shutdown may take. Traces and logs are shut down at the same time.
const SHUTDOWN_MAX: Duration = Duration::from_millis(1_800);

/// Describes a process in its telemetry.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its role in the fleet: `scheduler` or `worker`.
    pub role: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The name of the queue in spans: the prefix of the keys in Redis.
    pub queue: String,
}

/// Sends the traces and logs of a process. Nothing is sent after it was shut down. Dropping it does
/// the same as [`shutdown`](Self::shutdown).
#[derive(Default)]
pub struct Pipeline {
    traces: Option<SpanSender>,
    logs: Option<(SdkLoggerProvider, Arc<Budget>)>,
    /// Where traces and logs are sent.
    places: Vec<Place>,
}

impl Pipeline {
    /// Starts to send traces and logs, each only if the settings have an endpoint for it.
    ///
    /// # Errors
    /// If an endpoint or a variable of OpenTelemetry has a value that cannot be used, or if the
    /// thread that sends cannot be started.
    pub fn start(settings: &Settings, process: &Process) -> Result<Self, String> {
        let traces_endpoint = settings.endpoint(Signal::Traces);
        let logs_endpoint = settings.endpoint(Signal::Logs);
        if traces_endpoint.is_none() && logs_endpoint.is_none() {
            return Ok(Self::default());
        }
        // Errors and the log may contain an endpoint, so an endpoint must contain no secret.
        if [&traces_endpoint, &logs_endpoint]
            .into_iter()
            .flatten()
            .any(|endpoint| endpoint.contains('@'))
        {
            return Err(
                "the endpoint of telemetry contains a user or a password; set \
                 OTEL_EXPORTER_OTLP_HEADERS to send a password or a token"
                    .to_owned(),
            );
        }
        variables::check(settings.protocol.is_some())?;
        system::tls::prepare();
        let reactor = Reactor::start()?;
        // The clients can be created only inside the runtime.
        let _runtime_guard = reactor.runtime().enter();
        let place =
            |signal, endpoint: &String| Place::new(signal, endpoint, settings.protocol(signal));
        let [traces_place, logs_place] = [
            traces_endpoint.as_ref().map(|at| place(Signal::Traces, at)),
            logs_endpoint.as_ref().map(|at| place(Signal::Logs, at)),
        ];
        let sending = Sending::from_environment(Signal::Traces);
        let resource = resource(process);
        let traces = traces_endpoint.map(|endpoint| {
            let protocol = settings.protocol(Signal::Traces);
            let transport = Transport::new(Signal::Traces, protocol, &endpoint, &sending)
                .map_err(|why| endpoint_error(Signal::Traces, &endpoint, &why))?;
            let budget = Budget::of(settings.queue_max, traces_place.clone());
            let request_max = sending.request_max.min(settings.queue_max);
            let queue = SpanQueue::new(&texts(&resource), request_max, budget.clone());
            let reactor = reactor.clone();
            let sending = sending.clone();
            Ok::<_, String>(SpanSender::start(
                queue, budget, transport, sending, reactor,
            ))
        });
        let logs = logs_endpoint.zip(logs_place.as_ref());
        let logs = logs.map(|(endpoint, place)| {
            logs::start(settings, &endpoint, place, &reactor, resource.clone())
                .map_err(|why| endpoint_error(Signal::Logs, &endpoint, &why))
        });
        Ok(Self {
            traces: traces.transpose()?,
            logs: logs.transpose()?,
            places: [traces_place, logs_place].into_iter().flatten().collect(),
        })
    }

    /// Returns where traces and logs are sent: nothing, one place, or one of each.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Logs where telemetry is sent, if it is sent, and which variables of OpenTelemetry have no
    /// effect.
    pub(crate) fn announce(&self) {
        let place = |signal: Signal| self.places.iter().find(|at| at.signal == signal.name());
        let [traces, logs] = [Signal::Traces, Signal::Logs].map(place);
        let endpoint = |at: Option<&Place>| at.map(|at| at.endpoint.clone());
        if let Some(first) = self.places.first() {
            let by = |at: Option<&Place>| at.map(|at| at.protocol);
            tracing::info!(
                traces = endpoint(traces),
                logs = endpoint(logs),
                protocol = first.protocol,
                logs_protocol = by(logs).filter(|protocol| *protocol != first.protocol),
                sampler = traces.map(|_| Sampling::from_environment().to_string()),
                "telemetry is sent to a collector"
            );
        }
        let variables = unsupported::found();
        if !variables.is_empty() {
            tracing::warn!(
                variables = variables.join(", "),
                "these variables of OpenTelemetry are not supported, or not with this value, and \
                 have no effect"
            );
        }
    }

    /// Returns the maker of spans, which makes none if traces are not sent.
    pub fn tracing(&self, settings: &Settings, process: &Process, ids: IdHasher) -> Tracing {
        match &self.traces {
            None => Tracing::off(),
            Some(sender) => Tracing::new(sender.queue.clone(), settings, &process.queue, ids),
        }
    }

    /// Returns the provider of the loggers, if logs are sent.
    pub(crate) fn logger(&self) -> Option<&SdkLoggerProvider> {
        self.logs.as_ref().map(|(provider, _)| provider)
    }

    /// From now on, `metrics` also counts the spans and log records that the collector did not get.
    pub fn report_losses(&self, metrics: &Metrics) {
        let traces = self.traces.as_ref().map(|sender| &sender.budget);
        let logs = self.logs.as_ref().map(|(_, budget)| budget);
        for (signal, budget) in [("traces", traces), ("logs", logs)] {
            if let Some(budget) = budget.cloned() {
                metrics.before_write(move |metrics| metrics.lost(signal, budget.lost()));
            }
        }
    }

    /// Sends what still waits, and ends. This blocks for two seconds at most, so it must be called
    /// where a thread may block. Returns what was lost: first of traces, then of logs.
    pub fn shutdown(mut self) -> (Lost, Lost) {
        self.end()
    }

    fn end(&mut self) -> (Lost, Lost) {
        let (traces, logs) = (self.traces.take(), self.logs.take());
        // Both are shut down at the same time: if the collector hangs, each takes the longest time
        // that is allowed.
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

/// Returns the attributes that all spans and logs of this process have in common. The values of
/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` replace our own.
fn resource(process: &Process) -> Resource {
    let ours = Resource::builder_empty()
        .with_service_name(format!("redeliver-{}", process.role))
        .with_attribute(KeyValue::new("service.version", process.version))
        .with_attribute(KeyValue::new("service.namespace", "redeliver"))
        .with_attribute(KeyValue::new("service.instance.id", instance_id()))
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

/// Returns a name that no other process has or had: the host, the process id, which is often the
/// same in each container, and a random number.
fn instance_id() -> String {
    let host = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .unwrap_or_default();
    let random: u64 = rand::random();
    format!("{}-{}-{random:016x}", host.trim(), std::process::id())
}

/// Returns the attributes of a resource, each as text.
fn texts(resource: &Resource) -> Vec<(String, String)> {
    let pair = |(key, value): (&opentelemetry::Key, &opentelemetry::Value)| {
        (key.to_string(), value.to_string())
    };
    resource.iter().map(pair).collect()
}

/// Returns the text of the error that an endpoint cannot be used.
fn endpoint_error(signal: Signal, endpoint: &str, why: &dyn fmt::Display) -> String {
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
    async fn a_pipeline_may_be_dropped_in_async_code() {
        drop(start("http://127.0.0.1:9").unwrap());
    }

    #[test]
    fn each_start_has_a_name_of_its_own() {
        assert_ne!(instance_id(), instance_id());
    }

    #[test]
    fn an_endpoint_with_a_password_is_refused_and_not_shown() {
        let why = start("https://jo:secret@127.0.0.1:4317").unwrap_err();
        assert!(!why.contains("secret") && why.contains("HEADERS"), "{why}");
    }
}
