//! Checks the `OTEL_*` variables that are read, by us or by the OpenTelemetry libraries. The
//! libraries ignore a value that they cannot read, and then send nothing, or all, or elsewhere. So
//! such a value is refused when a process starts.

use std::env;

use reqwest::header::HeaderName;

use crate::endpoint::{fault_of_base, is_http_url};

/// What a variable may be.
#[derive(Clone, Copy)]
enum Rule {
    /// `true` or `false`, in any case.
    Switch,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A URL of HTTP.
    Url,
    /// The same, without the path of a signal.
    Base,
    /// A whole number, at least this.
    Number(u32),
    /// Keys and values: `key=value,key=value`. They may be secret, so they are not shown.
    Pairs,
    /// The same, for headers of HTTP.
    Headers,
}

const EXPORTERS: Rule = Rule::OneOf(&["otlp", "none"]);
const PROTOCOLS: Rule = Rule::OneOf(&["grpc", "http/protobuf"]);
const COMPRESSIONS: Rule = Rule::OneOf(&["gzip"]);
const SAMPLERS: Rule = Rule::OneOf(&[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]);

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// All variables that are read, except for two: `OTEL_SERVICE_NAME` may be any text, and what
/// `OTEL_TRACES_SAMPLER_ARG` may be depends on the sampler.
const RULES: [(&str, Rule); 25] = [
    ("OTEL_SDK_DISABLED", Rule::Switch),
    ("OTEL_TRACES_EXPORTER", EXPORTERS),
    ("OTEL_LOGS_EXPORTER", EXPORTERS),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", Rule::Base),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", Rule::Url),
    ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", Rule::Url),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOLS),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", PROTOCOLS),
    ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", PROTOCOLS),
    ("OTEL_EXPORTER_OTLP_HEADERS", Rule::Headers),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", Rule::Headers),
    ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", Rule::Headers),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", COMPRESSIONS),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", COMPRESSIONS),
    ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", COMPRESSIONS),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", Rule::Number(1)),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", Rule::Number(1)),
    ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", Rule::Number(1)),
    (SAMPLER, SAMPLERS),
    ("OTEL_BSP_SCHEDULE_DELAY", Rule::Number(1)),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", Rule::Number(1)),
    ("OTEL_BLRP_SCHEDULE_DELAY", Rule::Number(1)),
    ("OTEL_BLRP_EXPORT_TIMEOUT", Rule::Number(1)),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", Rule::Number(1)),
    ("OTEL_RESOURCE_ATTRIBUTES", Rule::Pairs),
];

/// Whether this variable is read.
pub(crate) fn is_read(name: &str) -> bool {
    name == SAMPLER_ARG
        || name == "OTEL_SERVICE_NAME"
        || RULES.iter().any(|(known, _)| *known == name)
}

/// Checks all variables of this process. Those for the protocol are not read if the settings name
/// one (`has_protocol`).
///
/// # Errors
/// If one has a value that would not be understood. The text names all of these, and what each may
/// be.
pub(crate) fn check(has_protocol: bool) -> Result<(), String> {
    let faults = faults(has_protocol, &|name| env::var(name).ok());
    if faults.is_empty() {
        return Ok(());
    }
    Err(faults.join("; "))
}

fn faults(has_protocol: bool, variable: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    // An empty variable counts as none.
    let variable = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
    let mut faults = Vec::new();
    for (name, rule) in &RULES {
        if has_protocol && name.ends_with("_PROTOCOL") {
            continue;
        }
        if let Some(fault) = variable(name).and_then(|text| rule.fault(&text)) {
            faults.push(format!("{name} {fault}"));
        }
    }
    let sampler = variable(SAMPLER).unwrap_or_default();
    if let Some(share) = variable(SAMPLER_ARG)
        && sampler.ends_with("traceidratio")
        && !share
            .parse()
            .is_ok_and(|share: f64| (0.0..=1.0).contains(&share))
    {
        faults.push(format!(
            "{SAMPLER_ARG} is \"{share}\", but must be a share from 0 to 1, such as 0.05"
        ));
    }
    faults
}

impl Rule {
    /// Returns what is wrong with a value. `None` if it is understood.
    fn fault(self, text: &str) -> Option<String> {
        let is_understood = match self {
            Self::Switch => ["true", "false"].contains(&text.to_ascii_lowercase().as_str()),
            Self::OneOf(words) => words.contains(&text),
            Self::Url => is_http_url(text),
            Self::Base if text.contains('@') => false,
            Self::Base => return fault_of_base(text),
            Self::Number(least) => text.parse().is_ok_and(|number: u32| number >= least),
            Self::Pairs => all_pairs(text, |key| !key.is_empty()),
            Self::Headers => all_pairs(text, |key| HeaderName::from_bytes(key.as_bytes()).is_ok()),
        };
        let shown = match self {
            // They may contain a password or a token.
            Self::Pairs | Self::Headers => "cannot be read".to_owned(),
            Self::Url | Self::Base if text.contains('@') => "cannot be used".to_owned(),
            _ => format!("is \"{text}\""),
        };
        (!is_understood).then(|| format!("{shown}, but must be {}", self.allowed()))
    }

    /// Returns which values are understood.
    fn allowed(self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::OneOf([only]) => format!("{only}, or be left out"),
            Self::OneOf(words) => format!("one of: {}", words.join(", ")),
            Self::Url | Self::Base => {
                "a URL like http://collector:4317 or https://collector:4317".to_owned()
            }
            Self::Number(least) => format!("a whole number from {least}"),
            Self::Pairs | Self::Headers => {
                "key=value, or several of these with commas between".to_owned()
            }
        }
    }
}

fn all_pairs(text: &str, is_key: impl Fn(&str) -> bool) -> bool {
    text.split_terminator(',').all(|pair| {
        let pair = pair.split_once('=');
        pair.is_some_and(|(key, value)| is_key(key.trim()) && !value.trim().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_would_be_misread_is_refused_with_the_values_that_it_may_have() {
        let with = |pairs: &[(&str, &str)]| {
            faults(false, &|name| {
                let pair = pairs.iter().find(|(known, _)| *known == name)?;
                Some(pair.1.to_owned())
            })
        };
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        for (name, wrong, right, allowed) in [
            ("OTEL_SDK_DISABLED", "yes", "TRUE", "true or false"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "none", "otlp, none"),
            ("OTEL_LOGS_EXPORTER", "console", "otlp", "otlp, none"),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "collector:4317",
                "http://c:4317",
                "http://",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://c:4318/v1/traces",
                "http://c:4318/otlp",
                "without /v1/traces",
            ),
            (
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
                "https:/c",
                "https://c",
                "https://",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "unix:///c",
                "https://c/v1/traces",
                "https://",
            ),
            (
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "http/json",
                "http/protobuf",
                "grpc, http/protobuf",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                "GRPC",
                "grpc",
                "grpc, http/protobuf",
            ),
            (
                "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
                "http",
                "grpc",
                "grpc, http/protobuf",
            ),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Bearer xyz",
                "authorization=Bearer xyz",
                "key=value",
            ),
            (
                "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
                "a b=c",
                "a=b, c=d=",
                "key=value",
            ),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "gzip", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "10000", "whole number"),
            (
                "OTEL_TRACES_SAMPLER",
                "ratio",
                "parentbased_always_off",
                "traceidratio",
            ),
            ("OTEL_TRACES_SAMPLER_ARG", "5%", "0.05", "from 0 to 1"),
            ("OTEL_TRACES_SAMPLER_ARG", "5", "1", "from 0 to 1"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0", "5000", "from 1"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "-1", "512", "from 1"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "prod",
                "deployment.environment.name=prod",
                "key=value",
            ),
        ] {
            let found = with(&[(name, wrong), ratio]);
            assert_eq!(found.len(), 1, "{name}={wrong}: {found:?}");
            assert!(
                found[0].starts_with(name) && found[0].contains(allowed),
                "{found:?}"
            );
            let found = with(&[(name, right), ratio]);
            assert!(found.is_empty(), "{name}={right}: {found:?}");
            assert!(
                with(&[(name, " "), ratio]).is_empty(),
                "an empty {name} counts as none"
            );
        }
    }

    #[test]
    fn what_may_be_secret_is_not_shown_and_what_is_not_read_is_not_checked() {
        let variable = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_HEADERS" => Some("Bearer secret".to_owned()),
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT" => Some("ftp://jo:secret@c".to_owned()),
            "OTEL_EXPORTER_OTLP_PROTOCOL" => Some("http/json".to_owned()),
            "OTEL_TRACES_SAMPLER" => Some("always_on".to_owned()),
            "OTEL_TRACES_SAMPLER_ARG" => Some("no share".to_owned()),
            _ => None,
        };
        let found = faults(true, &variable);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(!found.concat().contains("secret"), "{found:?}");
    }
}
