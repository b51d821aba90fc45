//! Access to the API: bearer tokens with scopes (RFC 6750). A scheduler knows only the hashes of
//! tokens. These are in the configuration, and in a file that is read again when it changes. A
//! token may be for some accounts only, may expire, and may have a rate limit, which each scheduler
//! applies on its own.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use domain::account::Accounts;
use domain::clock::Clock;
use signing::api_token::{Grant, Scope, TokenHash};
use system::limiter::Limiter;
use telemetry::metrics::Metrics;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::problem::Problem;
use crate::connections::http::Peer;

mod bearer;
pub mod caller;

use bearer::Bearer;
use caller::{CHALLENGE_WRONG, Caller};

/// How often the file of tokens is checked for changes.
const FILE_CHECK_INTERVAL: Duration = Duration::from_millis(700);

/// How long a changed file of tokens must stay the same before it is applied. A file that is
/// rewritten in place is empty for a moment, and must not withdraw all tokens.
const FILE_SETTLE_TIME: Duration = Duration::from_millis(250);

/// The longest Authorization header that is read, in bytes.
const AUTHORIZATION_MAX: usize = 512;

/// The tokens that are accepted, and what each may do.
#[derive(Debug)]
pub struct Access {
    settings: config::access::Access,
    clock: Arc<dyn Clock>,
    bearers: RwLock<HashMap<TokenHash, Arc<Bearer>>>,
    metrics: Metrics,
    limiter: Limiter,
}

/// What a route requires of a token.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// The scope that the token must have.
    pub scope: Scope,
    /// Whether the token must be for all accounts, because the route concerns all of them.
    pub all_accounts: bool,
}

impl Requirement {
    /// A token with this scope. The handler checks the accounts.
    pub const fn scope(scope: Scope) -> Self {
        Self {
            scope,
            all_accounts: false,
        }
    }

    /// A token with this scope, for all accounts.
    pub const fn all_accounts(scope: Scope) -> Self {
        Self {
            scope,
            all_accounts: true,
        }
    }
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
            limiter: Limiter::default(),
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

    /// Checks whether a request with these headers meets the requirement. Returns who sends it.
    fn check(
        &self,
        required: Requirement,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Caller, Problem> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return if self.is_open() {
                Ok(Caller::default())
            } else {
                self.note_failure("no token", peer, None);
                Err(Problem::unauthorized(NO_TOKEN, CHALLENGE))
            };
        };
        if !self.settings.has_tokens() {
            return Ok(Caller::default());
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
            self.note_failure("unknown token", peer, None);
            return Err(Problem::unauthorized(WRONG_TOKEN, CHALLENGE_WRONG));
        };
        let name = &bearer.grant.name;
        if let Some(expires) = bearer.grant.expires
            && bearer.grant.is_expired(self.clock.now())
        {
            self.note_failure("expired token", peer, Some(name));
            let detail = format!("the token {name} expired at {expires}; ask for a new one");
            return Err(Problem::unauthorized(detail, CHALLENGE_EXPIRED));
        }
        if let Some(rate) = bearer.grant.rate.or(self.settings.rate) {
            bearer
                .spend_one(rate, self.clock.monotonic())
                .map_err(|wait| {
                    let detail = format!("the token {name} may send {rate} requests per second");
                    Problem::too_many(detail, wait)
                })?;
        }
        check_grant(&bearer.grant, required)?;
        Ok(Caller(Some(bearer)))
    }

    /// Counts and logs that a request was not authenticated. There is one line per kind and minute.
    /// The line never has the token, only the name of a known one.
    fn note_failure(&self, kind: &'static str, peer: Option<IpAddr>, name: Option<&str>) {
        self.metrics.failed_sign_in();
        if let Some(left_out) = self.limiter.admit(kind, Instant::now()) {
            let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
            tracing::warn!(kind, peer, by = name, left_out, "a sign-in failed");
        }
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
                    let rate = grant.rate.or(self.settings.rate);
                    Arc::new(Bearer::new(grant.clone(), rate, now))
                };
                (grant.hash, known.unwrap_or_else(bearer))
            });
        let new: HashMap<TokenHash, Arc<Bearer>> = new.collect();
        for (hash, bearer) in bearers.iter() {
            if !new.get(hash).is_some_and(|kept| Arc::ptr_eq(kept, bearer)) {
                bearer.withdraw();
            }
        }
        *bearers = new;
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
            let text = read_in_background(&path).await;
            if last.as_ref() == Some(&text) {
                continue;
            }
            sleep(FILE_SETTLE_TIME).await;
            if read_in_background(&path).await != text {
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
const CHALLENGE_EXPIRED: &str = "Bearer realm=\"redeliver\", error=\"invalid_token\", \
                                 error_description=\"the token has expired\"";

/// Checks whether a token with this grant meets the requirement.
fn check_grant(grant: &Grant, required: Requirement) -> Result<(), Problem> {
    let Grant {
        name,
        scopes,
        accounts,
        ..
    } = grant;
    if !scopes.contains(&required.scope) {
        let has: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let (needed, has) = (required.scope.as_str(), has.join(", "));
        return Err(Problem::forbidden(format!(
            "this needs a token with the scope {needed}; the token {name} has {has}"
        )));
    }
    if required.all_accounts && *accounts != Accounts::All {
        return Err(Problem::forbidden(format!(
            "this concerns all accounts, so it needs a token for all of them; \
             the token {name} is only for {accounts}"
        )));
    }
    Ok(())
}

/// Passes a request on if its token allows it, with its [`Caller`] as an extension.
///
/// # Errors
/// 401 without a known token, or if it has expired; 403 if the token lacks the scope, or is not for
/// all accounts and the request needs that; 429 after too many requests.
pub async fn guard(
    State((access, required)): State<(Arc<Access>, Requirement)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let peer = request.extensions().get().map(|peer: &Peer| peer.0);
    let caller = access.check(required, request.headers(), peer)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Reads the file of tokens without blocking other tasks.
async fn read_in_background(path: &Path) -> Result<String, String> {
    let path: PathBuf = path.to_owned();
    tokio::task::spawn_blocking(move || read_file(&path))
        .await
        .unwrap_or_else(|_| Err(String::new()))
}

fn read_file(path: &Path) -> Result<String, String> {
    let fault = |why: String| format!("access.tokens_file: {}: {why}", path.display());
    typed_toml::files::read_text(path).map_err(fault)
}
