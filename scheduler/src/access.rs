//! Access to the API: bearer tokens with scopes (RFC 6750). A scheduler knows only the hashes of
//! tokens. These are in the configuration, and in a file that is read again when it changes. A
//! token may have a rate limit, which each scheduler applies on its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use domain::clock::Clock;
use signing::api_token::{Grant, Scope, TokenHash};
use telemetry::metrics::Metrics;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::problem::Problem;

/// How often the file of tokens is checked for changes.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The longest Authorization header that is read, in bytes.
const AUTHORIZATION_MAX: usize = 512;

/// The tokens that are accepted, and what each may do.
#[derive(Debug)]
pub struct Access {
    settings: config::access::Access,
    clock: Arc<dyn Clock>,
    bearers: RwLock<HashMap<TokenHash, Arc<Bearer>>>,
    metrics: Metrics,
}

/// What the bearer of one token may do, and at which rate.
#[derive(Debug)]
struct Bearer {
    grant: Grant,
    bucket: Mutex<Bucket>,
}

/// The requests that a token has saved up, and when they were counted.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    saved: f64,
    /// By [`Clock::monotonic`], because requests must be saved up even if the wall clock is set
    /// back.
    at: Duration,
}

impl Access {
    /// The access that is configured.
    ///
    /// # Errors
    /// If the file of tokens cannot be read. The text names the line and what is wrong with it.
    pub fn from_config(
        settings: &config::access::Access,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let access = Self {
            settings: settings.clone(),
            clock,
            bearers: RwLock::default(),
            metrics: Metrics::default(),
        };
        let text = access
            .settings
            .tokens_file
            .as_deref()
            .map(read_file)
            .transpose()?;
        access.apply_grants(text.as_deref().unwrap_or_default())?;
        Ok(access)
    }

    /// Returns the same access, which counts failed sign-ins in `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Checks whether a scheduler with these settings may listen on this address: on loopback
    /// always, and elsewhere only with tokens or `access.open`.
    ///
    /// # Errors
    /// If it may not. The text names the keys to set.
    pub fn may_listen(
        settings: &config::access::Access,
        address: SocketAddr,
    ) -> Result<(), String> {
        if settings.open || settings.has_tokens() || address.ip().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "every client that reaches {address} could do everything, because there are no tokens: \
             make one with `redeliver token new` and set access.tokens_file to its file, \
             or set access.open = true if something else keeps other clients away"
        ))
    }

    /// Whether a client without a token may do everything.
    fn is_open(&self) -> bool {
        self.settings.open || !self.settings.has_tokens()
    }

    /// Checks whether a request with these headers has the scope.
    fn check(&self, scope: Scope, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return if self.is_open() {
                Ok(())
            } else {
                self.metrics.failed_sign_in();
                Err(Problem::unauthorized(NO_TOKEN, CHALLENGE))
            };
        };
        if !self.settings.has_tokens() {
            return Ok(());
        }
        let bearer = header.to_str().ok().and_then(|text| {
            let (scheme, token) = text
                .split_once(' ')
                .filter(|_| text.len() <= AUTHORIZATION_MAX)?;
            let hash = scheme
                .eq_ignore_ascii_case("bearer")
                .then(|| TokenHash::of(token.trim()))?;
            self.bearers
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&hash)
                .cloned()
        });
        let Some(bearer) = bearer else {
            self.metrics.failed_sign_in();
            return Err(Problem::unauthorized(WRONG_TOKEN, CHALLENGE_WRONG));
        };
        if let Some(rate) = bearer.grant.rate.or(self.settings.rate) {
            bearer
                .spend_one(rate, self.clock.monotonic())
                .map_err(|wait| {
                    let detail = format!(
                        "the token {} may send {rate} requests per second",
                        bearer.grant.name
                    );
                    Problem::too_many(detail, wait)
                })?;
        }
        if bearer.grant.scopes.contains(&scope) {
            return Ok(());
        }
        let has: Vec<&str> = bearer
            .grant
            .scopes
            .iter()
            .map(|scope| scope.as_str())
            .collect();
        let (needed, has) = (scope.as_str(), has.join(", "));
        Err(Problem::forbidden(format!(
            "this needs a token with the scope {needed}; the token {} has {has}",
            bearer.grant.name
        )))
    }

    /// Applies the grants in the text of a file, in addition to those of the configuration. A token
    /// with an unchanged grant keeps the requests that it has saved up.
    fn apply_grants(&self, text: &str) -> Result<(), String> {
        let grants = Grant::parse_all(text).map_err(|faults| faults.join("; "))?;
        let now = self.clock.monotonic();
        let mut bearers = self.bearers.write().unwrap_or_else(PoisonError::into_inner);
        let new = self
            .settings
            .tokens
            .iter()
            .cloned()
            .chain(grants)
            .map(|grant| {
                let known = bearers
                    .get(&grant.hash)
                    .filter(|known| known.grant == grant)
                    .cloned();
                let bearer = || {
                    let saved = burst(grant.rate.or(self.settings.rate).unwrap_or_default());
                    Arc::new(Bearer {
                        bucket: Mutex::new(Bucket { saved, at: now }),
                        grant: grant.clone(),
                    })
                };
                (grant.hash, known.unwrap_or_else(bearer))
            });
        *bearers = new.collect();
        Ok(())
    }

    /// Reads the file of tokens again whenever it changes, until `stop` is cancelled. A file that
    /// cannot be read or has a fault changes nothing.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let Some(path) = self.settings.tokens_file.clone() else {
            return;
        };
        let mut last = None;
        while stop
            .run_until_cancelled(sleep(
                self.clock
                    .real_duration(FILE_CHECK_INTERVAL)
                    .max(Duration::from_millis(10)),
            ))
            .await
            .is_some()
        {
            let path: PathBuf = path.clone();
            let text = tokio::task::spawn_blocking(move || read_file(&path))
                .await
                .unwrap_or_else(|_| Err(String::new()));
            if last.as_ref() == Some(&text) {
                continue;
            }
            let applied = text
                .as_ref()
                .map_err(String::clone)
                .and_then(|text| self.apply_grants(text));
            match applied {
                Ok(()) if last.is_some() => {
                    tracing::info!("access.tokens_file has changed and is in force");
                }
                Ok(()) => {}
                Err(why) => tracing::error!(
                    why,
                    "access.tokens_file has a fault; its earlier content stays in force"
                ),
            }
            last = Some(text);
        }
    }
}

const NO_TOKEN: &str = "this needs a token: send the header \"Authorization: Bearer …\"; \
                        `redeliver token new` makes one";
const WRONG_TOKEN: &str = "this token is not known; it may have been revoked";
const CHALLENGE: &str = "Bearer realm=\"redeliver\"";
const CHALLENGE_WRONG: &str = "Bearer realm=\"redeliver\", error=\"invalid_token\"";

/// Passes a request on if its token allows it.
///
/// # Errors
/// 401 without a known token, 403 without the scope, 429 if there are too many requests.
pub async fn guard(
    State((access, scope)): State<(Arc<Access>, Scope)>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    access.check(scope, request.headers())?;
    Ok(next.run(request).await)
}

impl Bearer {
    /// Spends one of the requests that are saved up. Fails if there is none, with the time to wait
    /// for the next.
    fn spend_one(&self, rate: f64, now: Duration) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let saved =
            (bucket.saved + now.saturating_sub(bucket.at).as_secs_f64() * rate).min(burst(rate));
        if saved < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - saved) / rate));
        }
        *bucket = Bucket {
            saved: saved - 1.0,
            at: now,
        };
        Ok(())
    }
}

/// Returns how many requests may be saved up: those of one second, but at least one.
fn burst(rate: f64) -> f64 {
    rate.max(1.0)
}

fn read_file(path: &Path) -> Result<String, String> {
    let fault = |why: String| format!("access.tokens_file: {}: {why}", path.display());
    typed_toml::files::read_text(path).map_err(fault)
}
