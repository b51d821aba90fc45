//! Who may use the API: bearer tokens with scopes (RFC 6750), known by their hashes, from the
//! configuration and from a file that is read again when it changes. Each token has its own rate,
//! if any, at each scheduler.

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
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::problem::Problem;

/// How often the file of tokens is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The longest token that is looked at, in bytes.
const TOKEN_MAX: usize = 512;

/// Whose tokens are taken, and for what.
#[derive(Debug)]
pub struct Access {
    settings: config::access::Access,
    clock: Arc<dyn Clock>,
    bearers: RwLock<HashMap<TokenHash, Arc<Bearer>>>,
}

/// What the bearer of one token may do, and how much of it at once.
#[derive(Debug)]
struct Bearer {
    grant: Grant,
    bucket: Mutex<Bucket>,
}

/// Requests that are saved up, and when they were counted.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    saved: f64,
    /// By [`Clock::running`], because a clock that is set back must not keep tokens from being
    /// saved up.
    at: Duration,
}

impl Access {
    /// The access that the configuration gives.
    ///
    /// # Errors
    /// Where the file of tokens cannot be read; the text says what is wrong with which line.
    pub fn from_config(
        settings: &config::access::Access,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let access = Self {
            settings: settings.clone(),
            clock,
            bearers: RwLock::default(),
        };
        let text = access
            .settings
            .tokens_file
            .as_deref()
            .map(read_file)
            .transpose()?;
        access.take(text.as_deref().unwrap_or_default())?;
        Ok(access)
    }

    /// Whether a scheduler with these settings may listen there: on loopback always, elsewhere only
    /// with tokens, or where somebody has said that it is meant to be open.
    ///
    /// # Errors
    /// Where not; the text says what to set.
    pub fn may_listen(
        settings: &config::access::Access,
        address: SocketAddr,
    ) -> Result<(), String> {
        if settings.open || settings.has_tokens() || address.ip().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "whoever reaches {address} could do everything, for there are no tokens: make one with `redeliver token new` and \
             name its file in access.tokens_file, or set access.open = true where something else keeps others away"
        ))
    }

    /// Whether who shows no token may do everything.
    fn is_open(&self) -> bool {
        self.settings.open || !self.settings.has_tokens()
    }

    /// Looks at a request.
    fn check(&self, scope: Scope, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return if self.is_open() {
                Ok(())
            } else {
                Err(Problem::unauthorized(NO_TOKEN, CHALLENGE))
            };
        };
        if !self.settings.has_tokens() {
            return Ok(());
        }
        let bearer = header.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ').filter(|_| text.len() <= TOKEN_MAX)?;
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
            return Err(Problem::unauthorized(WRONG_TOKEN, CHALLENGE_WRONG));
        };
        if let Some(rate) = bearer.grant.rate.or(self.settings.rate) {
            bearer
                .take_one(rate, self.clock.running())
                .map_err(|wait| {
                    let detail = format!(
                        "{} requests per second are granted to {}",
                        rate, bearer.grant.name
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
            "this needs a token with the scope {needed}; that of {} has {has}",
            bearer.grant.name
        )))
    }

    /// Takes over the grants of a file's text beside those of the configuration. Who was known
    /// keeps what it has saved up.
    fn take(&self, text: &str) -> Result<(), String> {
        let grants = Grant::parse_all(text).map_err(|faults| faults.join("; "))?;
        let now = self.clock.running();
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

    /// Reads the file of tokens again whenever it changes, until `stop` is cancelled. One that
    /// cannot be read, or has a fault, changes nothing.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let Some(path) = self.settings.tokens_file.clone() else {
            return;
        };
        let mut last = None;
        while stop
            .run_until_cancelled(sleep(self.clock.real(LOOK).max(Duration::from_millis(10))))
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
            let taken = text
                .as_ref()
                .map_err(String::clone)
                .and_then(|text| self.take(text));
            match taken {
                Ok(()) if last.is_some() => {
                    tracing::info!("access.tokens_file has changed and is in force");
                }
                Ok(()) => {}
                Err(why) => tracing::error!(
                    why,
                    "access.tokens_file has a fault; what it said before stays in force"
                ),
            }
            last = Some(text);
        }
    }
}

const NO_TOKEN: &str = "this needs a token: send the header \"Authorization: Bearer …\"; `redeliver token new` makes one";
const WRONG_TOKEN: &str = "nobody here knows this token; it may have been taken back";
const CHALLENGE: &str = "Bearer realm=\"redeliver\"";
const CHALLENGE_WRONG: &str = "Bearer realm=\"redeliver\", error=\"invalid_token\"";

/// Lets a request through that may have what it asks for.
///
/// # Errors
/// 401 without a token that is known, 403 without the scope, 429 where there are too many.
pub async fn guard(
    State((access, scope)): State<(Arc<Access>, Scope)>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    access.check(scope, request.headers())?;
    Ok(next.run(request).await)
}

impl Bearer {
    /// Takes one request; where none is saved up, how long that takes.
    fn take_one(&self, rate: f64, now: Duration) -> Result<(), Duration> {
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

/// How many requests may be saved up: those of a second, and one at least.
fn burst(rate: f64) -> f64 {
    rate.max(1.0)
}

fn read_file(path: &Path) -> Result<String, String> {
    let fault = |why: String| format!("access.tokens_file: {}: {why}", path.display());
    typed_toml::files::read_text(path).map_err(fault)
}
