//! Serves HTTP on the connections that may come in. A connection costs little until its first byte
//! is there, and only then has buffers.

use std::convert::Infallible;
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
use super::patient::Patient;
use super::{Gate, Seat, UnderWay};

/// The largest buffer of a connection, in bytes, and with it the longest head of a request.
const BUFFER_MAX: usize = 64 << 10;

/// How long a connection of the reserve may take for its request. Health checks ask at once.
const RESERVE_HEAD: Duration = Duration::from_secs(1);

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of a request.
    pub head: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
    /// To take anything of an answer.
    pub write: Duration,
}

/// What is served, and how patiently.
#[derive(Clone, Debug)]
pub struct Served {
    /// What answers.
    pub router: Router,
    /// What answers on connections of the reserve.
    pub reserve: Router,
    /// How long clients may take.
    pub patience: Patience,
}

/// Serves until `stop` is cancelled, and then until the requests under way have been answered.
pub async fn serve(
    listener: TcpListener,
    gate: Arc<Gate>,
    served: Served,
    stop: CancellationToken,
) {
    let mut acceptor = Acceptor::new(listener, "HTTP");
    let (connections, served) = (TaskTracker::new(), Arc::new(served));
    while let Some((stream, address)) = stop.run_until_cancelled(acceptor.next(&gate)).await {
        if let Some(seat) = gate.admit(address.ip()) {
            connections.spawn(connection(stream, seat, served.clone(), stop.clone()));
        }
    }
    drop(acceptor);
    connections.close();
    connections.wait().await;
}

async fn connection(
    stream: TcpStream,
    seat: Arc<Seat>,
    served: Arc<Served>,
    stop: CancellationToken,
) {
    let patience = if seat.is_reserve() {
        served.patience.of_the_reserve()
    } else {
        served.patience
    };
    let has_begun = tokio::select! {
        readable = timeout(patience.keep_alive, stream.readable()) => matches!(readable, Ok(Ok(()))),
        () = seat.has_to_leave() => false,
        () = stop.cancelled() => false,
    };
    if has_begun {
        Box::pin(requests(stream, seat, served, patience, stop)).await;
    }
}

async fn requests(
    stream: TcpStream,
    seat: Arc<Seat>,
    served: Arc<Served>,
    patience: Patience,
    stop: CancellationToken,
) {
    let router = if seat.is_reserve() {
        &served.reserve
    } else {
        &served.router
    };
    let requests = Requests {
        router: TowerToHyperService::new(router.clone()),
        seat: seat.clone(),
    };
    let stream = TokioIo::new(Patient::new(
        stream,
        seat.clone(),
        patience.head,
        patience.write,
    ));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(patience.keep_alive)
        .max_buf_size(BUFFER_MAX);
    http.keep_alive(!seat.is_reserve());
    let mut connection = pin!(http.serve_connection(stream, requests));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // A client that breaks off, or takes too long, has had what it could get.
            _ = connection.as_mut() => return,
            () = seat.has_to_leave() => return,
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

impl Patience {
    /// That of a scheduler.
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

    fn of_the_reserve(self) -> Self {
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
    seat: Arc<Seat>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let under_way = self.seat.begin();
        let answer = self.router.call(request);
        Box::pin(async move {
            Ok(answer.await?.map(|body| {
                Body::new(Answer {
                    body,
                    _under_way: under_way,
                })
            }))
        })
    }
}

/// The body of an answer: until it is out, the request is under way.
struct Answer {
    body: Body,
    _under_way: UnderWay,
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
