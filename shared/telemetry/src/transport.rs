//! Sends requests with spans to a collector, over gRPC or HTTP.

use std::fmt;
use std::io::Write as _;

use bytes::{Buf, BufMut, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Extensions, Request, Status};

use crate::environment::Sending;
use crate::settings::Protocol;

/// The method of the collector (OTLP specification, "OTLP/gRPC").
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A connection to a collector, which is made when it is needed.
pub(crate) enum Transport {
    Grpc(Grpc<Channel>, MetadataMap),
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
                Ok(Self::Grpc(grpc, MetadataMap::from_headers(headers)))
            }
            Protocol::Http => {
                let url = reqwest::Url::parse(endpoint).map_err(|why| why.to_string())?;
                let kind = HeaderValue::from_static("application/x-protobuf");
                headers.insert(CONTENT_TYPE, kind);
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

    /// Sends a request. Returns how many of its spans the collector did not accept.
    ///
    /// # Errors
    /// If the collector accepts none, or cannot be reached.
    pub(crate) async fn send(&mut self, request: Vec<u8>) -> Result<u64, String> {
        let answer = match self {
            Self::Grpc(grpc, metadata) => {
                let refused = |status: Status| format!("{}: {}", status.code(), status.message());
                grpc.ready().await.map_err(|why| chain(&why))?;
                let (metadata, method) = (metadata.clone(), PathAndQuery::from_static(METHOD));
                let request = Request::from_parts(metadata, Extensions::new(), request.into());
                let answer = grpc.unary(request, method, Raw).await;
                answer.map_err(refused)?.into_inner()
            }
            Self::Http {
                client,
                url,
                headers,
                is_gzip,
            } => {
                let body = if *is_gzip { gzip(&request)? } else { request };
                let request = client.post(&*url).headers(headers.clone()).body(body);
                let answer = request.send().await.map_err(|why| chain(&why))?;
                let status = answer.status();
                if !status.is_success() {
                    return Err(format!("its answer is {status}"));
                }
                answer.bytes().await.map_err(|why| chain(&why))?
            }
        };
        // What cannot be read is no complaint.
        let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
        let rejected = answer.partial_success.unwrap_or_default().rejected_spans;
        Ok(rejected.try_into().unwrap_or(0))
    }
}

/// Returns a connection for gRPC. Without a scheme, an endpoint means `https`.
pub(crate) fn channel(endpoint: &str) -> Result<Channel, String> {
    let endpoint = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("https://{endpoint}"),
    };
    let is_https = endpoint.starts_with("https://");
    let mut endpoint = Endpoint::from_shared(endpoint).map_err(|why| chain(&why))?;
    if is_https {
        let tls = ClientTlsConfig::new().with_native_roots();
        endpoint = endpoint.tls_config(tls).map_err(|why| chain(&why))?;
    }
    Ok(endpoint.connect_lazy())
}

/// Returns a client for HTTP.
pub(crate) fn client() -> Result<reqwest::Client, String> {
    let built = reqwest::Client::builder().build();
    built.map_err(|why| format!("the client cannot be created: {why}"))
}

fn gzip(plain: &[u8]) -> Result<Vec<u8>, String> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = packed.write_all(plain).and_then(|()| packed.finish());
    packed.map_err(|why| why.to_string())
}

/// Returns an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
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
