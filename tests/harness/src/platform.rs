//! A platform that sends mail itself, for tests of the `http` sender: a real HTTP server on
//! loopback that answers by a script.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::serve::Listener;
use axum::{Router, body};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::certificates::Certificates;

/// One request that the platform has received.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as bytes.
    pub body: Bytes,
    /// Its body, parsed.
    pub json: Value,
}

/// What the platform does with a request.
pub enum Action {
    /// Answers with a status, a header if one is given, and a body.
    Answer(u16, Option<(&'static str, &'static str)>, String),
    /// Answers with a status, and cuts the connection in the middle of the body.
    BreakOff(u16),
    /// Never answers.
    NeverAnswer,
}

type Script = dyn Fn(&Posted) -> Action + Send + Sync;

struct Shared {
    script: Box<Script>,
    posted: Mutex<Vec<Posted>>,
}

/// A listener on loopback. It stops when this is dropped.
pub struct Platform {
    /// The address that it listens on.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Platform {
    /// Starts a platform that follows `script`.
    pub async fn start(script: impl Fn(&Posted) -> Action + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("the socket is bound");
        Self::serve(listener, address, script)
    }

    /// Like [`Self::start`], but over TLS, with this certificate.
    pub async fn start_with_tls(
        files: &Certificates,
        script: impl Fn(&Posted) -> Action + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("the socket is bound");
        Self::serve(
            Encrypted {
                listener,
                tls: files.acceptor(),
            },
            address,
            script,
        )
    }

    fn serve<L: Listener>(
        listener: L,
        address: SocketAddr,
        script: impl Fn(&Posted) -> Action + Send + Sync + 'static,
    ) -> Self
    where
        L::Addr: std::fmt::Debug,
    {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            posted: Mutex::default(),
        });
        let router = Router::new().fallback(take).with_state(shared.clone());
        let stop = CancellationToken::new();
        let serving = async move { axum::serve(listener, router).await };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Returns all requests so far.
    pub fn posted(&self) -> Vec<Posted> {
        self.shared.posted.lock().expect("no script panics").clone()
    }
}

/// A listener that uses TLS. It skips connections whose handshake fails.
struct Encrypted {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn take(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body::to_bytes(body, 64 << 20).await.unwrap_or_default();
    let json = serde_json::from_slice(&body).unwrap_or_default();
    let posted = Posted {
        headers: parts.headers,
        body,
        json,
    };
    shared
        .posted
        .lock()
        .expect("no script panics")
        .push(posted.clone());
    match (shared.script)(&posted) {
        Action::Answer(status, header, body) => {
            let answer = Response::builder().status(status);
            let answer = header
                .into_iter()
                .fold(answer, |answer, (name, value)| answer.header(name, value));
            answer
                .body(Body::from(body))
                .expect("the script's answer is valid")
        }
        Action::BreakOff(status) => {
            let cut = async {
                // After this pause, the first part of the body has been sent.
                sleep(Duration::from_millis(50)).await;
                Err(io::Error::other("cut"))
            };
            let body = stream::iter([Ok("and so")]).chain(stream::once(cut));
            Response::builder()
                .status(status)
                .body(Body::from_stream(body))
                .expect("the script's answer is valid")
        }
        Action::NeverAnswer => std::future::pending().await,
    }
}

/// Decodes a JSON string that is base64.
///
/// # Panics
/// If it is not base64.
pub fn decoded(value: &Value) -> Vec<u8> {
    BASE64_STANDARD
        .decode(value.as_str().unwrap_or_default())
        .expect("the sender writes base64")
}
