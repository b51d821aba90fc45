//! The settings of telemetry: `[telemetry]` in the configuration. The `OTEL_*` variables of the
//! OpenTelemetry specification apply in addition, and an endpoint there turns telemetry on too.

use std::env;
use std::fmt;
use std::time::Duration;

/// How spans and logs are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, as protobuf.
    Http,
}

/// How the spans of a job's attempts belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceStyle {
    /// Each attempt is a trace of its own, which links to the origin and to the attempt before.
    #[default]
    Links,
    /// An attempt that follows its bounce within [`PARENT_WITHIN`] is part of the origin's trace.
    /// Later attempts are traces of their own.
    Parent,
}

/// The longest time from a bounce to an attempt that is still part of the same trace, with
/// [`TraceStyle::Parent`].
pub const PARENT_WITHIN: Duration = Duration::from_secs(15 * 60);

/// `[telemetry]`
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where a collector listens. `None`: where `OTEL_EXPORTER_OTLP_ENDPOINT` names one.
    pub endpoint: Option<String>,
    /// How spans and logs are sent. `None`: as `OTEL_EXPORTER_OTLP_PROTOCOL` has it, or by gRPC.
    pub protocol: Option<Protocol>,
    /// Whether logs are sent too.
    pub logs: bool,
    /// How the spans of a job belong together.
    pub trace_style: TraceStyle,
    /// Whether message ids are sent as they are, and not as keyed hashes. They may contain
    /// addresses.
    pub message_ids: bool,
    /// Whether the fingerprint of a reply's text is sent.
    pub reply_text: bool,
    /// The address of a trace in a trace viewer, with `{trace_id}` in it.
    pub trace_url: Option<String>,
    /// How many spans, and how many log records, wait at most. More are dropped and counted.
    pub queue_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: None,
            logs: true,
            trace_style: TraceStyle::Links,
            message_ids: false,
            reply_text: false,
            trace_url: None,
            queue_max: 8_192,
        }
    }
}

/// The two kinds of data that are sent to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Logs,
}

impl Signal {
    /// Returns the word of this signal in the names of variables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Logs => "LOGS",
        }
    }

    /// Returns the name of this signal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }

    /// Returns the path of this signal (OTLP specification, "OTLP/HTTP Request").
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Settings {
    /// Returns where a signal is sent. `None` if it is not sent at all.
    pub(crate) fn endpoint(&self, signal: Signal) -> Option<String> {
        self.endpoint_among(signal, &|name| env::var(name).ok())
    }

    fn endpoint_among(
        &self,
        signal: Signal,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Option<String> {
        let variable = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        if variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return None;
        }
        let exporter = variable(&format!("OTEL_{}_EXPORTER", signal.word()));
        if exporter.is_some_and(|text| text == "none") {
            return None;
        }
        if signal == Signal::Logs && !self.logs {
            return None;
        }
        let of_signal = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.word());
        if let Some(own) = variable(&of_signal) {
            return Some(own);
        }
        let base = self
            .endpoint
            .clone()
            .or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"))?;
        Some(match self.protocol_among(signal, &variable) {
            Protocol::Grpc => base,
            Protocol::Http => format!("{}{}", base.trim_end_matches('/'), signal.path()),
        })
    }

    /// Returns how a signal is sent.
    pub(crate) fn protocol(&self, signal: Signal) -> Protocol {
        self.protocol_among(signal, &|name| env::var(name).ok())
    }

    fn protocol_among(
        &self,
        signal: Signal,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Protocol {
        // An empty variable counts as none.
        let variable = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        let named = variable(&format!("OTEL_EXPORTER_OTLP_{}_PROTOCOL", signal.word()))
            .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
        match (self.protocol, named.as_deref()) {
            (Some(protocol), _) => protocol,
            (None, Some("http/protobuf")) => Protocol::Http,
            (None, _) => Protocol::Grpc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let pair = pairs.iter().find(|(known, _)| *known == name)?;
            Some(pair.1.to_owned())
        }
    }

    #[test]
    fn telemetry_is_off_without_an_endpoint() {
        let settings = Settings::default();
        for pairs in [&[][..], &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]] {
            assert_eq!(settings.endpoint_among(Signal::Traces, &among(pairs)), None);
        }
    }

    #[test]
    fn an_endpoint_comes_from_the_variable_of_the_signal_then_the_settings_then_the_general_one() {
        let named = Settings {
            endpoint: Some("http://here:4318/".to_owned()),
            protocol: Some(Protocol::Http),
            ..Settings::default()
        };
        let (none, general) = (
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317")][..],
        );
        let own = &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:1/x"),
        ][..];
        for (settings, pairs, expected) in [
            (&named, none, "http://here:4318/v1/traces"),
            (&named, general, "http://here:4318/v1/traces"),
            (&named, own, "http://traces:1/x"),
            (&Settings::default(), general, "http://all:4317"),
        ] {
            assert_eq!(
                settings
                    .endpoint_among(Signal::Traces, &among(pairs))
                    .as_deref(),
                Some(expected),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn an_empty_variable_for_the_protocol_counts_as_none() {
        let pairs = among(&[
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", ""),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ]);
        let protocol = Settings::default().protocol_among(Signal::Traces, &pairs);
        assert_eq!(protocol, Protocol::Http);
    }

    #[test]
    fn the_variables_of_the_specification_turn_it_off() {
        let on = Settings {
            endpoint: Some("http://here:4317".to_owned()),
            ..Settings::default()
        };
        let disabled = among(&[("OTEL_SDK_DISABLED", "TRUE")]);
        let without_traces = among(&[("OTEL_TRACES_EXPORTER", "none")]);
        assert_eq!(on.endpoint_among(Signal::Traces, &disabled), None);
        assert_eq!(on.endpoint_among(Signal::Traces, &without_traces), None);
        assert!(on.endpoint_among(Signal::Logs, &without_traces).is_some());
    }
}
