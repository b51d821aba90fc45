//! `GET /metrics`: the metrics of this process and of the fleet. It needs a token like all that
//! tells about the mail, and reads nothing from Redis.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::IntoResponse;
use telemetry::metrics::text::TextFormat;

use super::Api;

/// `GET /metrics`, as OpenMetrics if `Accept` asks for it, otherwise in the classic text format.
pub async fn get(State(api): State<Api>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = TextFormat::for_accept(accept.unwrap_or_default());
    let text = api.store.metrics().write(format);
    ([(CONTENT_TYPE, format.content_type())], text)
}
