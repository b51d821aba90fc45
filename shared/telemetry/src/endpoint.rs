//! Where telemetry is sent: checks endpoints, and shows them without what may be secret.

use reqwest::Url;

use crate::settings::{Protocol, Signal};

/// The paths that are added to an endpoint, or belong to one signal alone.
const PATHS: [&str; 3] = ["/v1/traces", "/v1/logs", "/v1/metrics"];

/// Where a signal is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is sent: `traces` or `logs`.
    pub signal: &'static str,
    /// Where it is sent, without a user, a password or a query.
    pub endpoint: String,
    /// How it is sent, in the words of `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: &'static str,
}

impl Place {
    pub(crate) fn new(signal: Signal, endpoint: &str, protocol: Protocol) -> Self {
        Self {
            signal: signal.name(),
            endpoint: shown(endpoint),
            protocol: match protocol {
                Protocol::Grpc => "grpc",
                Protocol::Http => "http/protobuf",
            },
        }
    }
}

/// Returns what is wrong with an endpoint to which the path of each signal is added. `None` if it
/// can be used. It must not contain a user, because the text shows the endpoint.
pub fn fault_of_base(endpoint: &str) -> Option<String> {
    if !is_http_url(endpoint) {
        return Some(format!(
            "is \"{endpoint}\", but must be a URL like http://collector:4317 or \
             https://collector:4317"
        ));
    }
    let path = PATHS
        .iter()
        .find(|path| endpoint.trim_end_matches('/').ends_with(*path))?;
    Some(format!(
        "is \"{endpoint}\", but must be without {path}: it is for all signals, and HTTP adds the \
         path of each"
    ))
}

/// Whether this is a whole URL of HTTP that names no user.
pub(crate) fn is_http_url(text: &str) -> bool {
    // A URL with fewer slashes is repaired by the parser, but not by all that use it.
    let has_slashes = ["http://", "https://"].iter().any(|scheme| {
        let start = text.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    has_slashes && !text.contains('@') && Url::parse(text).is_ok_and(|url| url.has_host())
}

/// Returns an endpoint for people, without a user, a password, a query and a fragment.
fn shown(endpoint: &str) -> String {
    let Ok(mut url) = Url::parse(endpoint) else {
        return "an endpoint that is no URL".to_owned();
    };
    // These fail only for URLs without a host, which have no user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_without_what_may_be_secret() {
        for (endpoint, expected) in [
            ("http://c:4317", "http://c:4317"),
            (
                "https://jo:secret@c/v1/logs?token=secret#x",
                "https://c/v1/logs",
            ),
        ] {
            assert_eq!(shown(endpoint), expected);
        }
    }

    #[test]
    fn an_endpoint_for_all_signals_is_a_whole_url_without_the_path_of_one() {
        for right in ["http://c:4317", "HTTPS://c/", "http://c:4318/otlp"] {
            assert_eq!(fault_of_base(right), None);
        }
        for (wrong, hint) in [
            ("https:/x", "must be a URL"),
            ("collector:4317", "must be a URL"),
            ("http://c:4318/v1/traces", "without /v1/traces"),
            ("http://c:4318/otlp/v1/logs/", "without /v1/logs"),
        ] {
            let fault = fault_of_base(wrong).unwrap();
            assert!(fault.contains(hint), "{fault}");
        }
    }
}
