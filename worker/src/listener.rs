//! The HTTP listener of a worker: health checks and metrics, and nothing else. It is off by
//! default, and asks for no token: it is for a private address.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use store::handle::Store;
use telemetry::metrics::text::TextFormat;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How many connections there are at once. Others wait until one of them is closed.
const CONNECTIONS_MAX: usize = 16;

/// How long a client may take to send the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long a whole connection, which carries one request, may last.
const CONNECTION_MAX: Duration = Duration::from_secs(15);

/// The largest buffer of a connection, in bytes. This also bounds the head of a request.
const BUFFER_MAX: usize = 16 << 10;

/// The pause after a connection could not be accepted, for example because too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

const NOT_OPEN: &str = "redis has not answered since the start\n";

/// What the answers depend on.
#[derive(Clone)]
struct Asked {
    store: Arc<OnceLock<Store>>,
    draining: CancellationToken,
}

/// Listens on this address (`worker.listen`).
///
/// # Errors
/// If that is not possible. The text names the address and the key.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let with_address = |err: io::Error| {
        let text = format!("cannot listen on {address} (worker.listen): {err}");
        io::Error::new(err.kind(), text)
    };
    TcpListener::bind(address).await.map_err(with_address)
}

/// Answers requests until it is dropped. Until `store` is set, the worker is alive but not ready.
/// `draining` is the token that stops the worker: from then on it is not ready either, but its
/// metrics can still be read.
pub async fn serve(
    listener: TcpListener,
    store: Arc<OnceLock<Store>>,
    draining: CancellationToken,
) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Asked { store, draining });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // `acquire_owned` fails only if the semaphore is closed, which it never is.
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, router.clone(), place));
            }
            Err(err) => {
                tracing::debug!(%err, "a connection to worker.listen could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router, _place: OwnedSemaphorePermit) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(BUFFER_MAX)
        .keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // An error is ignored: a client that disconnects or takes too long gets no more answer.
    let _ = timeout(CONNECTION_MAX, connection).await;
}

/// `GET /metrics`, as OpenMetrics if `Accept` asks for it, otherwise in the classic text format.
async fn metrics(State(asked): State<Asked>, headers: HeaderMap) -> Response {
    let Some(store) = asked.store.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, NOT_OPEN).into_response();
    };
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = TextFormat::for_accept(accept.unwrap_or_default());
    let text = store.metrics().write(format);
    ([(CONTENT_TYPE, format.content_type())], text).into_response()
}

/// `GET /readyz`: the worker claims jobs, and the store answers.
async fn ready(State(asked): State<Asked>) -> (StatusCode, String) {
    if asked.draining.is_cancelled() {
        let text = "draining: this worker stops and claims nothing more\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
    }
    let Some(store) = asked.store.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, NOT_OPEN.to_owned());
    };
    match store.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(err) => (StatusCode::SERVICE_UNAVAILABLE, format!("{err}\n")),
    }
}
