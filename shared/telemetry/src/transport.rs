//! Sends requests with spans or log records to a collector, over gRPC or HTTP.

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Extensions, Request, Status};

use crate::environment::Sending;
use crate::failure::{Failure, chain};
use crate::settings::{Protocol, Signal};

/// How a collector sees us.
const AGENT: &str = concat!("redeliver/", env!("CARGO_PKG_VERSION"));

/// After how long a silent host counts as gone: while a connection is made, before a ping is sent
/// over it, and until the ping is answered.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// A connection to a collector, which is made when it is needed.
pub(crate) enum Transport {
    Grpc {
        client: Grpc<Channel>,
        method: PathAndQuery,
        metadata: MetadataMap,
    },
    Http {
        client: reqwest::Client,
        url: String,
        headers: HeaderMap,
        is_gzip: bool,
    },
}

impl Transport {
    /// # Errors
    /// If the endpoint is not an address.
    pub(crate) fn new(
        signal: Signal,
        protocol: Protocol,
        endpoint: &str,
        sending: &Sending,
    ) -> Result<Self, String> {
        let mut headers = sending.headers.clone();
        match protocol {
            Protocol::Grpc => {
                let channel = channel(endpoint)?;
                let mut grpc = Grpc::new(channel);
                if sending.is_gzip {
                    grpc = grpc.send_compressed(CompressionEncoding::Gzip);
                }
                let grpc = grpc.accept_compressed(CompressionEncoding::Gzip);
                Ok(Self::Grpc {
                    client: grpc,
                    method: PathAndQuery::from_static(method(signal)),
                    metadata: MetadataMap::from_headers(headers),
                })
            }
            Protocol::Http => {
                let url = reqwest::Url::parse(endpoint).map_err(|why| why.to_string())?;
                let kind = HeaderValue::from_static("application/x-protobuf");
                headers.insert(CONTENT_TYPE, kind);
                let agent = HeaderValue::from_static(AGENT);
                headers.entry(USER_AGENT).or_insert(agent);
                if sending.is_gzip {
                    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                }
                Ok(Self::Http {
                    client: client()?,
                    url: url.into(),
                    headers,
                    is_gzip: sending.is_gzip,
                })
            }
        }
    }

    /// Sends a request. Returns how many of its items the collector did not accept.
    ///
    /// # Errors
    /// If the collector accepts none, cannot be reached, or does not answer for as long as
    /// `longest`.
    pub(crate) async fn send_within(
        &mut self,
        longest: Duration,
        request: Vec<u8>,
    ) -> Result<u64, Failure> {
        let sent = timeout(longest, self.send(request)).await;
        sent.unwrap_or_else(|_| Err(Failure::timeout(longest)))
    }

    async fn send(&mut self, request: Vec<u8>) -> Result<u64, Failure> {
        let answer = match self {
            Self::Grpc {
                client,
                method,
                metadata,
            } => {
                client
                    .ready()
                    .await
                    .map_err(|why| Failure::of_connection(&why))?;
                let (metadata, method) = (metadata.clone(), method.clone());
                let request = Request::from_parts(metadata, Extensions::new(), request.into());
                let answer = client.unary(request, method, Raw).await;
                answer
                    .map_err(|status| Failure::of_grpc(&status))?
                    .into_inner()
            }
            Self::Http {
                client,
                url,
                headers,
                is_gzip,
            } => {
                let body = match is_gzip {
                    true => gzip(&request).map_err(|why| Failure::answer(&why))?,
                    false => request,
                };
                let request = client.post(&*url).headers(headers.clone()).body(body);
                let answer = request.send().await.map_err(Failure::of_http)?;
                let status = answer.status();
                if !status.is_success() {
                    return Err(Failure::answer(&format!("HTTP {status}")));
                }
                answer.bytes().await.map_err(Failure::of_http)?
            }
        };
        // What cannot be read is no complaint. The answer to log records has the same fields.
        let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
        let rejected = answer.partial_success.unwrap_or_default().rejected_spans;
        Ok(rejected.try_into().unwrap_or(0))
    }
}

/// Returns the method of the collector for a signal (OTLP specification, "OTLP/gRPC").
fn method(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// Returns a connection for gRPC. It is made anew if the collector's host is silent for long, also
/// if that host has vanished without closing the connection. Without a scheme, an endpoint means
/// `https`.
fn channel(endpoint: &str) -> Result<Channel, String> {
    let endpoint = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("https://{endpoint}"),
    };
    let is_https = endpoint.starts_with("https://");
    let endpoint = Endpoint::from_shared(endpoint).map_err(|why| chain(&why))?;
    let endpoint = endpoint
        .connect_timeout(SILENT_MAX)
        .http2_keep_alive_interval(SILENT_MAX)
        .keep_alive_timeout(SILENT_MAX);
    let mut endpoint = endpoint.user_agent(AGENT).map_err(|why| chain(&why))?;
    if is_https {
        let tls = ClientTlsConfig::new().with_native_roots();
        endpoint = endpoint.tls_config(tls).map_err(|why| chain(&why))?;
    }
    Ok(endpoint.connect_lazy())
}

/// Returns a client for HTTP. It follows no redirect: after most of them it would send no body, and
/// the headers, which may contain a key, would go to another host.
fn client() -> Result<reqwest::Client, String> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let built = client.build();
    built.map_err(|why| format!("the client cannot be created: {why}"))
}

fn gzip(plain: &[u8]) -> Result<Vec<u8>, String> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = packed.write_all(plain).and_then(|()| packed.finish());
    packed.map_err(|why| why.to_string())
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

/// Sends bytes as they are, and returns the answer as it came.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, request: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(request);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(answer.copy_to_bytes(answer.remaining())))
    }
}
