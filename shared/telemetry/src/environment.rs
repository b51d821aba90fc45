//! The variables of the OpenTelemetry specification that say how spans and log records are sent.
//! Those that cannot be understood were refused before.

use std::env;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::settings::Signal;

/// How long one call to the collector may take.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(10);

/// How a signal is sent.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// The headers of each request.
    pub(crate) headers: HeaderMap,
    /// Whether requests are compressed.
    pub(crate) is_gzip: bool,
    /// How long one call to the collector may take.
    pub(crate) call_max: Duration,
    /// How long a span waits for others.
    pub(crate) delay: Duration,
    /// How many spans are sent in one request, at most.
    pub(crate) request_max: usize,
}

impl Sending {
    pub(crate) fn from_environment(signal: Signal) -> Self {
        Self::among(signal, &|name| env::var(name).ok())
    }

    fn among(signal: Signal, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        // The variable of the signal comes before the general one.
        let exporter = |name: &str| {
            variable(&format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.word()))
                .or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let ms = |text: Option<String>| {
            let ms = text.and_then(|text| text.trim().parse().ok());
            ms.map(Duration::from_millis)
        };
        let request_max = variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE");
        Self {
            headers: exporter("HEADERS")
                .map(|text| headers(&text))
                .unwrap_or_default(),
            is_gzip: exporter("COMPRESSION").is_some_and(|text| text.trim() == "gzip"),
            call_max: ms(exporter("TIMEOUT")).unwrap_or(CALL_MAX).min(CALL_MAX),
            delay: ms(variable("OTEL_BSP_SCHEDULE_DELAY")).unwrap_or(Duration::from_secs(5)),
            request_max: request_max
                .and_then(|text| text.trim().parse().ok())
                .filter(|max| *max > 0)
                .unwrap_or(4_096),
        }
    }
}

/// Reads headers: `name=value`, separated by commas, with values in percent-encoding. What is no
/// header is left out.
fn headers(text: &str) -> HeaderMap {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::try_from(name.trim()).ok()?;
        let value = percent_encoding::percent_decode_str(value.trim()).collect::<Vec<u8>>();
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    text.split(',').filter_map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(pairs: &'static [(&str, &str)]) -> Sending {
        Sending::among(Signal::Traces, &move |name| {
            let pair = pairs.iter().find(|(known, _)| *known == name)?;
            Some(pair.1.to_owned())
        })
    }

    #[test]
    fn without_variables_requests_are_plain_and_have_ten_seconds() {
        let plain = among(&[("OTEL_EXPORTER_OTLP_TIMEOUT", " ")]);
        assert!(plain.headers.is_empty() && !plain.is_gzip);
        assert_eq!(plain.call_max, Duration::from_secs(10));
        assert_eq!(plain.delay, Duration::from_secs(5));
        assert_eq!(plain.request_max, 4_096);
    }

    #[test]
    fn the_variables_of_traces_come_before_the_general_ones() {
        let all = among(&[
            ("OTEL_EXPORTER_OTLP_HEADERS", "no=1"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
                "authorization=Bearer%20a=b, x-team = mail,?,",
            ),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "7"),
        ]);
        assert_eq!(all.headers["authorization"], "Bearer a=b");
        assert_eq!(all.headers["x-team"], "mail");
        assert_eq!(all.headers.len(), 2);
        assert!(all.is_gzip);
        assert_eq!(all.call_max, Duration::from_millis(250));
        assert_eq!(all.delay, Duration::from_millis(100));
        assert_eq!(all.request_max, 7);
    }

    #[test]
    fn a_call_is_never_longer_than_the_limit() {
        let long = among(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")]);
        assert_eq!(long.call_max, CALL_MAX);
    }

    #[test]
    fn headers_are_not_shown() {
        let secret = among(&[("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")]);
        assert!(!format!("{secret:?}").contains("secret"));
    }
}
