//! Finds variables of OpenTelemetry that are set and have no effect.

use std::env;

use crate::variables;

/// Returns the names of the variables of this process that have no effect, sorted.
pub(crate) fn found() -> Vec<String> {
    let of_process = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    among(of_process)
}

fn among(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let has_no_effect = |(name, value): (String, String)| {
        let value = value.trim();
        let is_ours = name.starts_with("OTEL_")
            // Kubernetes sets these to compose the variable that is read.
            && !name.starts_with("OTEL_RESOURCE_ATTRIBUTES_")
            && !variables::is_read(&name);
        let is_met = value.is_empty()
            || match name.as_str() {
                // Metrics are read from `/metrics`.
                "OTEL_METRICS_EXPORTER" => ["none", "prometheus"].contains(&value),
                "OTEL_PROPAGATORS" => value.split(',').all(|one| one.trim() == "tracecontext"),
                _ => false,
            };
        (is_ours && !is_met).then_some(name)
    };
    let mut names: Vec<String> = variables.filter_map(has_no_effect).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_found_and_what_is_read_or_met_is_not() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            among(pairs)
        };
        let none = with(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
            ("OTEL_SERVICE_NAME", "mail"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ("OTEL_RESOURCE_ATTRIBUTES_POD_NAME", "pod"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_PROPAGATORS", "tracecontext"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", ""),
            ("PATH", "/bin"),
        ]);
        assert!(none.is_empty(), "{none:?}");
        let names = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "zzz"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_PROPAGATORS", "tracecontext,b3"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "8"),
        ];
        assert_eq!(with(&names), names.map(|(name, _)| name));
    }
}
