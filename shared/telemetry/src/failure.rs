//! Why a call to a collector failed, in words for the operator.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use domain::outcome::without_addresses;
use tonic::Status;

/// How many characters of the error itself are kept. A collector may answer with any text.
const DETAIL_CHARS_MAX: usize = 300;

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What happened, and what may help.
    pub(crate) cause: &'static str,
    /// The error itself, with its causes.
    pub(crate) detail: String,
}

const REFUSED: &str = "nothing listens there: the connection was refused";
const UNKNOWN_HOST: &str = "the name of its host cannot be resolved";
const SILENT: &str = "it does not answer in time";
const NOT_GRPC: &str = "it does not speak gRPC; if it speaks HTTP, set telemetry.protocol = \
    \"http\" or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf (usual ports: 4317 for gRPC, 4318 for \
    HTTP)";
const NOT_HTTP: &str = "it does not speak HTTP/1.1; if it speaks gRPC, set telemetry.protocol = \
    \"grpc\" or OTEL_EXPORTER_OTLP_PROTOCOL=grpc (usual ports: 4317 for gRPC, 4318 for HTTP)";
const NO_TLS: &str = "TLS with it failed";
const NO_CONNECTION: &str = "the connection to it failed";
const ERROR: &str = "it answered with an error";

impl Failure {
    /// The call took longer than it may.
    pub(crate) fn timeout(longest: Duration) -> Self {
        Self::new(SILENT, &format!("no answer within {longest:?}"))
    }

    /// The collector answered with an error.
    pub(crate) fn answer(detail: &str) -> Self {
        Self::new(ERROR, detail)
    }

    /// A call by gRPC failed.
    pub(crate) fn of_grpc(status: &Status) -> Self {
        let text = format!("{}: {}", status.code(), status.message());
        match status.source() {
            None => Self::answer(&text),
            Some(error) => Self::of_connection(error),
        }
    }

    /// A call by HTTP got no answer. The text of the error must not contain the URL, because the
    /// query may be secret.
    pub(crate) fn of_http(error: reqwest::Error) -> Self {
        Self::of_connection(&error.without_url())
    }

    /// There is no connection, or it was lost.
    pub(crate) fn of_connection(error: &(dyn Error + 'static)) -> Self {
        let detail = chain(error);
        let has = |parts: &[&str]| parts.iter().any(|part| detail.contains(part));
        let cause = match io_kind(error) {
            Some(io::ErrorKind::ConnectionRefused) => REFUSED,
            Some(io::ErrorKind::TimedOut) => SILENT,
            _ if has(&["dns error", "failed to lookup"]) => UNKNOWN_HOST,
            _ if has(&["frame with invalid size", "FRAME_SIZE_ERROR"]) => NOT_GRPC,
            _ if has(&["invalid HTTP version"]) => NOT_HTTP,
            _ if has(&[
                "certificate",
                "CertNotValid",
                "tls",
                "TLS",
                "HandshakeFailure",
            ]) =>
            {
                NO_TLS
            }
            _ => NO_CONNECTION,
        };
        Self::new(cause, &detail)
    }

    fn new(cause: &'static str, detail: &str) -> Self {
        let detail = without_addresses(detail);
        let detail = detail.chars().take(DETAIL_CHARS_MAX).collect();
        Self { cause, detail }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.cause, self.detail)
    }
}

/// Returns an error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Returns the kind of the first error of the system among the causes.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::environment::Sending;
    use crate::settings::{Protocol, Signal};
    use crate::transport::Transport;

    async fn failure(protocol: Protocol, endpoint: &str) -> Failure {
        system::tls::prepare();
        let how = Sending {
            call_max: Duration::from_millis(500),
            ..Sending::from_environment(Signal::Logs)
        };
        let mut transport = Transport::new(Signal::Logs, protocol, endpoint, &how).unwrap();
        let sent = transport.send_within(how.call_max, Vec::new()).await;
        sent.unwrap_err()
    }

    /// Starts a server that answers each connection with this, and keeps it open.
    async fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                let _ = connection.read(&mut [0; 1_024]).await;
                let _ = connection.write_all(answer).await;
                kept.push(connection);
            }
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn each_cause_has_its_own_words() {
        let of_http1 = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let web = server(of_http1).await;
        let silent = server(b"").await;
        for (protocol, endpoint, expected) in [
            (Protocol::Grpc, "http://127.0.0.1:9", REFUSED),
            (
                Protocol::Http,
                "http://127.0.0.1:9/v1/logs?token=secret",
                REFUSED,
            ),
            (Protocol::Grpc, "http://nowhere.invalid:4317", UNKNOWN_HOST),
            (Protocol::Http, "http://nowhere.invalid:4318/", UNKNOWN_HOST),
            (Protocol::Grpc, &silent, SILENT),
            (Protocol::Http, &silent, SILENT),
            (Protocol::Grpc, &web, NOT_GRPC),
            (Protocol::Http, &web, ERROR),
        ] {
            let failure = failure(protocol, endpoint).await;
            assert_eq!(
                failure.cause, expected,
                "{protocol:?} {endpoint}: {failure}"
            );
            assert!(!failure.detail.contains("secret"), "{failure}");
        }
    }

    #[test]
    fn what_a_collector_answers_is_cut_and_contains_no_address() {
        let failure = Failure::answer(&format!("no jo@example.com {}", "x".repeat(1_000)));
        assert!(!failure.detail.contains("example.com"));
        assert_eq!(failure.detail.chars().count(), DETAIL_CHARS_MAX);
    }

    #[tokio::test]
    async fn a_redirect_is_an_error_and_is_not_followed() {
        let elsewhere = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let answer =
            format!("HTTP/1.1 302 Found\r\nlocation: {elsewhere}/\r\ncontent-length: 0\r\n\r\n");
        let endpoint = server(answer.leak().as_bytes()).await;
        let found = failure(Protocol::Http, &endpoint).await;
        assert!(found.detail.contains("302"), "{found:?}");
    }
}
