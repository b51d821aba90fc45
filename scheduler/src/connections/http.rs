//! Serves HTTP on the connections that are admitted. A connection has buffers only from its first
//! byte on, so an idle one costs little. Knows no route.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Acceptor;
use super::timed_stream::TimedStream;
use super::{Busy, Gate, Place};

/// The largest buffer of a connection, in bytes. This also bounds the head of a request.
const BUFFER_MAX: usize = 64 << 10;

/// How long a client in the reserve may take to send its request. Health checks send it at once.
const RESERVE_HEAD: Duration = Duration::from_secs(1);

/// The address of the client, or of the proxy that forwards it. Every request has it as an
/// extension.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// The time limits for clients.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// For sending the head of a request.
    pub head: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
    /// For accepting any bytes of an answer.
    pub write: Duration,
}

/// What is served, and with which time limits.
#[derive(Clone, Debug)]
pub struct Served {
    /// The routes.
    pub router: Router,
    /// The routes on connections in the reserve.
    pub reserve: Router,
    /// The time limits for clients.
    pub timeouts: ClientTimeouts,
}

/// Serves until `stop` is cancelled, and then until the requests in progress are answered.
pub async fn serve(
    listener: TcpListener,
    gate: Arc<Gate>,
    served: Served,
    stop: CancellationToken,
) {
    let mut acceptor = Acceptor::new(listener, "HTTP");
    let (connections, served) = (TaskTracker::new(), Arc::new(served));
    while let Some((stream, address)) = stop.run_until_cancelled(acceptor.next(&gate)).await {
        if let Some(place) = gate.admit(address.ip()) {
            let peer = Peer(address.ip().to_canonical());
            connections.spawn(connection(
                stream,
                peer,
                place,
                served.clone(),
                stop.clone(),
            ));
        }
    }
    drop(acceptor);
    connections.close();
    connections.wait().await;
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    place: Arc<Place>,
    served: Arc<Served>,
    stop: CancellationToken,
) {
    let timeouts = if place.is_reserve() {
        served.timeouts.for_reserve()
    } else {
        served.timeouts
    };
    let has_begun = tokio::select! {
        readable = timeout(timeouts.keep_alive, stream.readable()) => {
            matches!(readable, Ok(Ok(())))
        }
        () = place.must_close() => false,
        () = stop.cancelled() => false,
    };
    if has_begun {
        Box::pin(requests(stream, peer, place, served, timeouts, stop)).await;
    }
}

async fn requests(
    stream: TcpStream,
    peer: Peer,
    place: Arc<Place>,
    served: Arc<Served>,
    timeouts: ClientTimeouts,
    stop: CancellationToken,
) {
    let router = if place.is_reserve() {
        &served.reserve
    } else {
        &served.router
    };
    let requests = Requests {
        router: TowerToHyperService::new(router.clone()),
        peer,
        place: place.clone(),
    };
    let stream = TokioIo::new(TimedStream::new(
        stream,
        place.clone(),
        timeouts.head,
        timeouts.write,
    ));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(timeouts.keep_alive)
        .max_buf_size(BUFFER_MAX);
    http.keep_alive(!place.is_reserve());
    let mut connection = pin!(http.serve_connection(stream, requests));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // An error is ignored: a client that disconnects or takes too long gets no more answer.
            _ = connection.as_mut() => return,
            () = place.must_close() => return,
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

impl ClientTimeouts {
    /// The time limits of a scheduler.
    pub fn from_config(settings: &config::model::Scheduler) -> Self {
        let config::connections::Connections {
            header_timeout: head,
            keep_alive,
            ..
        } = settings.connections;
        Self {
            head,
            keep_alive,
            write: settings.idle_max,
        }
    }

    fn for_reserve(self) -> Self {
        Self {
            head: RESERVE_HEAD,
            keep_alive: RESERVE_HEAD,
            ..self
        }
    }
}

/// The requests of one connection.
struct Requests {
    router: TowerToHyperService<Router>,
    peer: Peer,
    place: Arc<Place>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        let busy = self.place.set_busy();
        let answer = self.router.call(request);
        Box::pin(async move {
            Ok(answer
                .await?
                .map(|body| Body::new(Answer { body, _busy: busy })))
        })
    }
}

/// The body of an answer. The request is in progress until the body is sent.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
