//! An object store on loopback. It supports only reading an object: `GET /bucket/key`, which is the
//! same for S3, Google Cloud Storage and Azure. It records the requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The answer for an object that does not exist: S3's error document.
const NO_SUCH_KEY: &str =
    "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";

#[derive(Default)]
struct Shared {
    objects: HashMap<String, String>,
    /// The required start of a request's signature. `None` accepts every request.
    signature: Option<&'static str>,
    asked: Mutex<Vec<String>>,
}

/// A listener on loopback. It stops when this is dropped.
pub struct Objects {
    /// The address that it listens on.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Objects {
    /// Starts a store with these objects, by `bucket/key`. It refuses requests whose signature does
    /// not start with `signature`; `None` accepts every request.
    pub async fn start(signature: Option<&'static str>, objects: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("the socket is bound");
        let objects = objects
            .iter()
            .map(|(name, content)| (format!("/{name}"), (*content).to_owned()))
            .collect();
        let shared = Arc::new(Shared {
            objects,
            signature,
            asked: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let stop = CancellationToken::new();
        let serving = async move { axum::serve(listener, router).await };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Returns the paths of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared
            .asked
            .lock()
            .expect("no task panics while it holds this lock")
            .clone()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().replace("%2F", "/").replace("%2E", ".");
    let authorization = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let signed = shared
        .signature
        .is_none_or(|signature| authorization.starts_with(signature));
    shared
        .asked
        .lock()
        .expect("no task panics while it holds this lock")
        .push(path.clone());
    let (status, body) = match shared.objects.get(&path) {
        _ if !signed => (StatusCode::FORBIDDEN, ""),
        Some(content) => (StatusCode::OK, content.as_str()),
        None => (StatusCode::NOT_FOUND, NO_SUCH_KEY),
    };
    Response::builder()
        .status(status)
        .header("last-modified", "Sat, 21 Nov 2026 09:30:00 GMT")
        .header("etag", "\"1\"")
        .body(Body::from(body.to_owned()))
        .expect("the answer is valid")
}
