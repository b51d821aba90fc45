//! Asks the platform to send by itself: posts each attempt as a signed request, and turns the
//! answer into the outcome. So a platform in any language can be a sender. If the platform renders
//! its mail again for each attempt, no content needs to be stored.
//!
//! Each route has one URL. Redirects are not followed, and proxies from the environment are
//! ignored. So mail goes only to the host of that URL. TLS certificates are verified.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use domain::clock::{Clock, Timestamp};
use domain::exchange::{Exchange, HttpExchange};
use domain::outcome::{Fault, FaultKind, Outcome};
use domain::reply::Reply;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, Response};
use signing::webhook_signature::seconds;
use system::whose_fault::{own_error, system_error};
use url::Url;

use crate::attempt::Attempt;
use crate::sender::Sender;
use crate::settings::http::HttpSettings;

mod answer;
mod request;

/// Sends through the platform's own API.
pub struct HttpSender {
    client: Client,
    settings: HttpSettings,
    clock: Arc<dyn Clock>,
    /// What spans show of a request that was not answered.
    unanswered: HttpExchange,
}

impl HttpSender {
    /// Returns a sender for one URL. It does not connect yet.
    ///
    /// # Errors
    /// If `ca_file` contains no certificates.
    pub fn new(settings: HttpSettings, clock: Arc<dyn Clock>) -> Result<Self, String> {
        system::tls::prepare();
        let mut builder = Client::builder()
            .user_agent(concat!("redeliver/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.timeout);
        if let Some(pem) = &settings.ca {
            let certificates =
                Certificate::from_pem_bundle(pem).map_err(|err| format!("ca_file: {err}"))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder
            .build()
            .map_err(|err| format!("cannot create an HTTP client: {}", error_chain(&err)))?;
        Ok(Self {
            client,
            unanswered: unanswered(&settings.url),
            settings,
            clock,
        })
    }

    async fn post(
        &self,
        attempt: &Attempt,
        body: Vec<u8>,
        exchange: &mut HttpExchange,
    ) -> Result<Outcome, Fault> {
        let now = self.clock.now();
        let key = attempt.key();
        let request = self
            .client
            .post(self.settings.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", &key)
            .header("webhook-id", &key)
            .header("webhook-timestamp", seconds(now))
            .header(
                "webhook-signature",
                self.settings.signer.sign(&key, now, &body),
            );
        let request = match &attempt.traceparent {
            Some(trace) => request.header("traceparent", trace.as_str()),
            None => request,
        };
        let began = Instant::now();
        let answer = request.body(body).send().await.map_err(fault)?;
        let answered_at = Instant::now();
        let status = answer.status().as_u16();
        exchange.status = Some(status);
        exchange.answered_after = Some(answered_at - began);
        let retry_after_s = retry_after_s(answer.headers(), now);
        // If the body cannot be read, the status alone decides.
        let body = self.read(answer).await.unwrap_or_default();
        exchange.read_in = Some(answered_at.elapsed());
        answer::outcome(status, retry_after_s, body.as_deref())
    }

    /// Returns the answer's body, or `None` if it is larger than `answer_max`.
    async fn read(&self, mut answer: Response) -> Result<Option<Vec<u8>>, Fault> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(fault)? {
            if body.len() + chunk.len() > self.settings.answer_max {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }
}

#[async_trait]
impl Sender for HttpSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_with_exchange(attempt).await.0
    }

    async fn send_with_exchange(&self, attempt: &Attempt) -> (Outcome, Option<Exchange>) {
        let body = request::body(attempt, self.settings.content);
        if body.len() > self.settings.request_max {
            let reply = "552 5.3.4 the message is larger than request_max of its http route";
            return (Outcome::Refused(Reply::parse(reply)), None);
        }
        let mut exchange = self.unanswered.clone();
        let outcome = self.post(attempt, body, &mut exchange).await;
        let outcome = outcome.unwrap_or_else(Outcome::Unreachable);
        (outcome, Some(Exchange::Http(exchange)))
    }

    fn has_one_peer(&self) -> bool {
        true
    }

    /// Any answer shows that the platform can be reached.
    async fn probe(&self) -> bool {
        let url = self.settings.url.clone();
        self.client
            .request(Method::OPTIONS, url)
            .send()
            .await
            .is_ok()
    }

    fn wants_content(&self) -> bool {
        self.settings.content
    }
}

/// Returns what spans show of a request to this URL that was not answered.
fn unanswered(url: &Url) -> HttpExchange {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // It fails only for URLs that can have no user.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    HttpExchange {
        url: shown.into(),
        host: url.host_str().unwrap_or_default().to_owned(),
        port: url.port_or_known_default().unwrap_or_default(),
        ..HttpExchange::default()
    }
}

/// Returns the seconds in `Retry-After`, which is a number of seconds or a date (RFC 9110, section
/// 10.2.3).
fn retry_after_s(headers: &HeaderMap, now: Timestamp) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    value.parse().ok().or_else(|| {
        let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
        Some(
            Timestamp::from_ms(date.timestamp_millis())
                .since(now)
                .as_secs(),
        )
    })
}

/// Returns the fault for a failed request. It is on our side and never counts against the
/// recipient. `Unanswered` means that the platform may have read the request, so it is unknown
/// whether the mail was sent.
fn fault(err: reqwest::Error) -> Fault {
    let kind = if err.is_connect() {
        FaultKind::Connect
    } else {
        FaultKind::Unanswered
    };
    let err = err.without_url();
    match system_error(&err).and_then(own_error) {
        Some(cause) => cause.fault(kind, &error_chain(&err)),
        None => Fault::ours(kind, error_chain(&err)),
    }
}

/// Returns the error's text, followed by its causes.
fn error_chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
