//! A collector of telemetry: a server for OTLP over gRPC and over HTTP. It keeps what it receives,
//! and can refuse it or never answer.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONTENT_ENCODING, USER_AGENT};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::wait::eventually;

/// What the collector does with what it receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// It keeps it.
    #[default]
    Keep,
    /// It answers 503.
    Refuse,
    /// It never answers.
    Hang,
}

/// A span as it was received.
#[derive(Clone, Debug)]
pub struct Received {
    /// The attributes of the process that sent it.
    pub resource: HashMap<String, String>,
    /// The span.
    pub span: Span,
}

/// A collector. It stops with the test's runtime.
#[derive(Clone)]
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    answer: Answer,
    spans: Vec<Received>,
    logs: Vec<LogRecord>,
    /// How many requests came, also those that were not kept.
    requests: usize,
    /// All that was received, as it came.
    bytes: Vec<u8>,
    /// What the senders of the requests call themselves.
    agents: HashSet<String>,
}

impl Collector {
    /// Starts a collector for OTLP over HTTP.
    pub async fn http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let collector = Self::at(listener.local_addr().expect("the socket is bound"));
        let routes = Router::new()
            .route("/v1/traces", post(take_traces))
            .route("/v1/logs", post(take_logs))
            .with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        collector
    }

    /// Starts a collector for OTLP over gRPC.
    pub async fn grpc() -> Self {
        let address = "127.0.0.1:0".parse().expect("it is an address");
        let incoming = TcpIncoming::bind(address).expect("a port is free");
        let collector = Self::at(incoming.local_addr().expect("the socket is bound"));
        let server = Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(LogsServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        collector
    }

    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            kept: Arc::default(),
        }
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, requests are answered like this.
    pub fn answer_with(&self, answer: Answer) {
        self.kept().answer = answer;
    }

    /// Returns all spans that were kept, in the order in which they came.
    pub fn spans(&self) -> Vec<Received> {
        self.kept().spans.clone()
    }

    /// Returns all log records that were kept.
    pub fn logs(&self) -> Vec<LogRecord> {
        self.kept().logs.clone()
    }

    /// Returns how many requests came.
    pub fn requests(&self) -> usize {
        self.kept().requests
    }

    /// Returns what the senders of the requests call themselves, each once.
    pub fn agents(&self) -> Vec<String> {
        self.kept().agents.iter().cloned().collect()
    }

    /// Whether this text is anywhere in what was received.
    pub fn contains(&self, text: &str) -> bool {
        let kept = self.kept();
        kept.bytes
            .windows(text.len())
            .any(|bytes| bytes.eq_ignore_ascii_case(text.as_bytes()))
    }

    /// Returns all that was received, as it came. Bytes that are no text are replaced.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.kept().bytes).into_owned()
    }

    /// Waits until spans of this name have come, and returns them.
    pub async fn wait_for(&self, name: &str, count: usize) -> Vec<Received> {
        eventually("spans", async || {
            let mut spans = self.spans();
            spans.retain(|received| received.span.name == name);
            (spans.len() >= count).then_some(spans)
        })
        .await
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept
            .lock()
            .expect("no task panics while it holds this lock")
    }

    /// Records a request. Returns false if it is to be refused.
    async fn take(&self, headers: &HeaderMap, bytes: &[u8]) -> bool {
        let agent = headers.get(USER_AGENT).and_then(|name| name.to_str().ok());
        let agent = agent.unwrap_or("no user agent").to_owned();
        let answer = {
            let mut kept = self.kept();
            kept.agents.insert(agent);
            kept.requests += 1;
            kept.bytes.extend_from_slice(bytes);
            kept.answer
        };
        if answer == Answer::Hang {
            std::future::pending::<()>().await;
        }
        answer == Answer::Keep
    }

    fn keep_spans(&self, request: ExportTraceServiceRequest) {
        let mut kept = self.kept();
        for of_process in request.resource_spans {
            let resource = of_process.resource.unwrap_or_default();
            let resource: HashMap<String, String> = resource
                .attributes
                .iter()
                .map(|attribute| (attribute.key.clone(), text_of(attribute)))
                .collect();
            for span in of_process
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                let resource = resource.clone();
                kept.spans.push(Received { resource, span });
            }
        }
    }

    fn keep_logs(&self, request: ExportLogsServiceRequest) {
        let scopes = request
            .resource_logs
            .into_iter()
            .flat_map(|logs| logs.scope_logs);
        let records = scopes.flat_map(|scope| scope.log_records);
        self.kept().logs.extend(records);
    }
}

impl Received {
    /// Returns an attribute as text. `None` if the span does not have it.
    pub fn attribute(&self, key: &str) -> Option<String> {
        let found = self
            .span
            .attributes
            .iter()
            .find(|attribute| attribute.key == key);
        found.map(text_of)
    }

    /// Returns its links: what each is, as `retry.link` has it, and the span that it leads to.
    pub fn links(&self) -> Vec<(String, Vec<u8>)> {
        let what = |attributes: &[KeyValue]| attributes.first().map(text_of).unwrap_or_default();
        let links = self.span.links.iter();
        links
            .map(|link| (what(&link.attributes), link.span_id.clone()))
            .collect()
    }
}

fn text_of(attribute: &KeyValue) -> String {
    match &attribute.value {
        Some(AnyValue { value: Some(value) }) => match value {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::DoubleValue(number) => number.to_string(),
            Value::BoolValue(is) => is.to_string(),
            other => format!("{other:?}"),
        },
        _ => String::new(),
    }
}

async fn take_traces(
    State(collector): State<Collector>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let answer = ExportTraceServiceResponse::default();
    let keep = |request| collector.keep_spans(request);
    answer_http(&collector, &headers, body, keep, &answer).await
}

async fn take_logs(
    State(collector): State<Collector>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let answer = ExportLogsServiceResponse::default();
    let keep = |request| collector.keep_logs(request);
    answer_http(&collector, &headers, body, keep, &answer).await
}

/// Answers a request for one of the signals.
async fn answer_http<T: Message + Default>(
    collector: &Collector,
    headers: &HeaderMap,
    body: Bytes,
    keep: impl FnOnce(T),
    answer: &impl Message,
) -> (StatusCode, Vec<u8>) {
    let body = unpacked(headers, body);
    if !collector.take(headers, &body).await {
        return (StatusCode::SERVICE_UNAVAILABLE, Vec::new());
    }
    match T::decode(body) {
        Ok(request) => keep(request),
        Err(_) => return (StatusCode::BAD_REQUEST, Vec::new()),
    }
    (StatusCode::OK, answer.encode_to_vec())
}

/// Returns the body as it was before it was compressed.
fn unpacked(headers: &HeaderMap, body: Bytes) -> Bytes {
    if headers
        .get(CONTENT_ENCODING)
        .is_none_or(|coding| coding != "gzip")
    {
        return body;
    }
    let mut unpacked = Vec::new();
    let read = GzDecoder::new(&*body).read_to_end(&mut unpacked);
    read.expect("the body is gzip, as its header says");
    unpacked.into()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let request = request.into_inner();
        if !self.take(&headers, &request.encode_to_vec()).await {
            return Err(Status::unavailable("refused by the test"));
        }
        self.keep_spans(request);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let request = request.into_inner();
        if !self.take(&headers, &request.encode_to_vec()).await {
            return Err(Status::unavailable("refused by the test"));
        }
        self.keep_logs(request);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
