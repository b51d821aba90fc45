//! Destinations, for operators: shows the state of one, holds and releases it, and overrides its
//! limits. A destination has a name of its own (`google`). The name of a domain (`gmail.com`)
//! means the destination of that domain.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use domain::address::Address;
use domain::clock::Timestamp;
use domain::destination::Destination;
use domain::pace::{BURST_ALLOWED, PaceLimits, RATE_ALLOWED, WINDOW_ALLOWED};
use serde_json::{Value, json};
use store::destination_controls::{BreakerState, PaceReport, Waiting};

use super::Api;
use super::fields::{Body, Fields};
use super::problem::Problem;
use crate::access::caller::Caller;

pub mod list;

/// The longest reason of a hold, in characters.
const REASON_CHARS_MAX: usize = 500;

/// The `{name}` in the path of a request.
type Name = Result<Path<String>, PathRejection>;

/// A destination, and the name by which the request asked for it.
struct Found {
    asked: String,
    destination: Destination,
}

/// `GET /v1/destinations/{name}`: its current pace.
pub async fn get(State(api): State<Api>, name: Name) -> Result<Json<Value>, Problem> {
    let found = find(&api, name).await?;
    describe(&api, &found).await
}

/// `PUT /v1/destinations/{name}/hold`: no attempts are made until an instant, or until the
/// destination is released.
pub async fn hold(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    name: Name,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let found = find(&api, name).await?;
    let fields = Fields::read(body, &["reason", "until"])?;
    let until = fields.instant_after("until", api.store.clock().now())?;
    let reason = fields.line("reason", REASON_CHARS_MAX)?.ok_or_else(|| {
        Problem::bad_field(
            "reason",
            "every hold needs a reason, for other operators who see the hold later",
        )
    })?;
    let store = api.store.on_behalf_of(caller.token());
    store.hold(&found.destination, until, &reason).await?;
    log(&caller, "hold", &found);
    describe(&api, &found).await
}

/// `DELETE /v1/destinations/{name}/hold`: attempts are made again at once.
pub async fn release(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    name: Name,
) -> Result<Json<Value>, Problem> {
    let found = find(&api, name).await?;
    let store = api.store.on_behalf_of(caller.token());
    if !store.unhold(&found.destination).await? {
        return Err(Problem::not_found(format!(
            "{} is not held; there is nothing to release",
            found.destination
        )));
    }
    log(&caller, "release", &found);
    describe(&api, &found).await
}

/// `PUT /v1/destinations/{name}/limits`: these limits override the configuration. A limit that is
/// left out stays as configured.
pub async fn limit(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    name: Name,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let found = find(&api, name).await?;
    let fields = Fields::read(body, &["rate", "burst", "window"])?;
    if fields.is_empty() {
        return Err(Problem::bad_request(
            "set at least one of rate, burst and window; DELETE removes all of them",
        ));
    }
    let (rate, burst) = (
        fields.number("rate", RATE_ALLOWED)?,
        fields.number("burst", BURST_ALLOWED)?,
    );
    let window = fields.whole("window", WINDOW_ALLOWED)?;
    let pace = api.store.pace(&found.destination).await?;
    let (configured, _) = api.store.limits_without_override(&found.destination, &pace);
    let limits = PaceLimits {
        rate: rate.unwrap_or(configured.rate),
        burst: burst.unwrap_or(configured.burst),
        window: window.unwrap_or(configured.window),
    };
    let store = api.store.on_behalf_of(caller.token());
    store
        .override_limits(&found.destination, Some(limits))
        .await?;
    log(&caller, "limit", &found);
    describe(&api, &found).await
}

/// `DELETE /v1/destinations/{name}/limits`: the limits of the configuration apply again.
pub async fn unlimit(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    name: Name,
) -> Result<Json<Value>, Problem> {
    let found = find(&api, name).await?;
    if api
        .store
        .pace(&found.destination)
        .await?
        .override_limits
        .is_none()
    {
        let detail = format!(
            "no operator has set limits for {}; there is nothing to remove",
            found.destination
        );
        return Err(Problem::not_found(detail));
    }
    let store = api.store.on_behalf_of(caller.token());
    store.override_limits(&found.destination, None).await?;
    log(&caller, "unlimit", &found);
    describe(&api, &found).await
}

fn log(caller: &Caller, command: &str, found: &Found) {
    tracing::info!(
        by = caller.name(),
        command,
        destination = %found.destination,
        "an operator changed a destination"
    );
}

/// Finds the destination of a name. The name of a domain means the destination where the domain is
/// placed. Any other name must be a known destination. Otherwise a misspelt provider would be read
/// as a host name without a dot, and a hold of that destination would have no effect.
async fn find(api: &Api, name: Name) -> Result<Found, Problem> {
    let Path(asked) = name?;
    let found = |destination| Found {
        asked: asked.clone(),
        destination,
    };
    let named = Destination::named(asked.to_lowercase());
    let domain = Address::parse(&format!("postmaster@{asked}"));
    if let Ok(address) = &domain {
        let own = Destination::own(address);
        let is_a_domain = own.as_str() == address.domain();
        if is_a_domain || named == own {
            return Ok(found(
                api.store.destinations(&[address.domain()]).await?.remove(0),
            ));
        }
        if !is_a_provider(api, &named)
            && !api.store.knows(&named).await?
            && api.store.knows(&own).await?
        {
            return Ok(found(own));
        }
    }
    if is_a_provider(api, &named) || api.store.knows(&named).await? {
        return Ok(found(named));
    }
    match domain {
        Ok(_) => Err(Problem::not_found(format!(
            "there is neither a provider nor a destination \"{asked}\"; \
             use the name that the job of an address shows, for example google, \
             or a domain, for example gmail.com"
        ))),
        Err(why) => Err(Problem::bad_field(
            "name",
            format!("\"{asked}\" is neither a destination nor a domain: {why}"),
        )),
    }
}

fn is_a_provider(api: &Api, destination: &Destination) -> bool {
    api.store
        .providers()
        .list()
        .iter()
        .any(|provider| provider.name == destination.as_str())
}

async fn describe(api: &Api, found: &Found) -> Result<Json<Value>, Problem> {
    let Found { asked, destination } = found;
    let pace = api.store.pace(destination).await?;
    let waiting = api.store.waiting(destination).await?;
    let (limits, from) = api.store.limits_in_force(destination, &pace);
    let mut wire = describe_in_short(api, destination, &pace, waiting);
    wire["asked"] = json!(asked);
    wire["limits"] = json!({
        "rate": limits.rate,
        "burst": limits.burst,
        "window": limits.window,
        "from": from.as_str(),
    });
    wire["tokens"] = json!(pace.tokens_at(limits, api.store.clock().now()));
    wire["delivered"] = json!(pace.delivered);
    Ok(Json(wire))
}

/// Describes a destination: the jobs that wait, the attempts in progress, and what holds back
/// further attempts.
fn describe_in_short(
    api: &Api,
    destination: &Destination,
    pace: &PaceReport,
    waiting: Waiting,
) -> Value {
    let now = api.store.clock().now();
    let hold = pace.hold_at(now);
    json!({
        "destination": destination,
        "waiting": waiting.jobs,
        "next_due": waiting.next_due,
        "in_flight": pace.in_flight,
        "window": api.store.window_in_force(destination, pace),
        "breaker": describe_breaker(pace.breaker, now),
        "hold": hold.map(|hold| json!({"reason": hold.reason, "until": hold.until})),
    })
}

/// Describes a breaker. If it is open and its time is over, `until` is null: the next due job is
/// the trial attempt.
fn describe_breaker(breaker: BreakerState, now: Timestamp) -> Value {
    match breaker {
        BreakerState::Closed => json!({"state": "closed"}),
        BreakerState::Open { until, times } => {
            let until = (until > now).then_some(until);
            json!({"state": "open", "until": until, "times": times})
        }
        BreakerState::HalfOpen { times } => json!({"state": "half_open", "times": times}),
    }
}
