//! The encoding of request bodies. Bodies are read as they are, so an encoded one is refused before
//! anything reads it as JSON.

use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;

use super::problem::Problem;

/// Refuses a request with a `Content-Encoding`, such as gzip. The answer lists the encodings that
/// are accepted (RFC 9110, section 15.5.16).
pub(super) async fn refuse_encoded(request: Request, next: Next) -> Result<Response, Problem> {
    let values = request.headers().get_all(header::CONTENT_ENCODING);
    let mut encodings = values
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|encoding| !encoding.is_empty());
    if encodings.all(|encoding| encoding.eq_ignore_ascii_case(b"identity")) {
        Ok(next.run(request).await)
    } else {
        Err(Problem::encoded())
    }
}
