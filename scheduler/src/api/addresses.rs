//! Addresses: shows what is known about one, checks many, suppresses and reinstates one.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, Request, State};
use domain::account::Account;
use domain::address::Address;
use domain::evidence::NOTE_CHARS_MAX;
use domain::job::{FailedAttempt, JobId};
use domain::standing::{Standing, StandingRecord};
use serde::Deserialize;
use serde_json::{Value, json};
use store::address::JobReport;
use store::facts::FactOrCommand;
use store::wait_reason::WaitsFor;
use telemetry::traceparent::TraceContext;

use super::Api;
use super::fields::{Body, Fields, Object};
use super::problem::Problem;
use crate::access::caller::Caller;

/// How many addresses one check may have.
const CHECK_MAX: usize = 10_000;

/// The query of a request about one address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountQuery {
    pub(super) account: Option<String>,
}

/// The body of `POST /v1/addresses/check`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    account: Option<String>,
    addresses: Vec<String>,
}

/// `GET /v1/addresses/{address}`: its standing, and its job if it has one.
pub async fn get(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    address: Result<Path<String>, PathRejection>,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let id = read_job_id(&caller, address, query)?;
    let report = api.store.address(&id).await?;
    let mut wire = describe_with_evidence(&id, report.standing.as_ref(), &api);
    wire["conversation_id"] = json!(api.store.ids().hash(&id.key()));
    wire["job"] = report
        .job
        .map_or(Value::Null, |job| describe_job(&job, &api));
    Ok(Json(wire))
}

/// `POST /v1/addresses/check`: lists which of these addresses are not active, so that a campaign
/// can leave them out.
pub async fn check(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let Object(fields) = body?;
    let read = Check::deserialize(Value::Object(fields));
    // Serde's own text would name our types.
    let wrong = "the body must have the documented fields: addresses, a list of texts, and account";
    let Check { account, addresses } = read.map_err(|_| Problem::bad_request(wrong))?;
    if addresses.len() > CHECK_MAX {
        let detail = format!(
            "{} addresses; one request takes at most {CHECK_MAX}",
            addresses.len()
        );
        return Err(Problem::too_large(detail));
    }
    let account = read_account(&caller, account.as_deref())?;
    let mut ids = Vec::with_capacity(addresses.len());
    let mut refused = Vec::new();
    for address in &addresses {
        match Address::parse(address) {
            Ok(recipient) => ids.push((
                address,
                JobId {
                    account: account.clone(),
                    recipient,
                },
            )),
            Err(why) => refused.push(json!({"address": address, "reason": why.to_string()})),
        }
    }
    let keys: Vec<JobId> = ids.iter().map(|(_, id)| id.clone()).collect();
    let standings = api.store.standings(&keys).await?;
    let now = api.store.clock().now();
    let not_active: Vec<Value> = ids
        .iter()
        .zip(&standings)
        .filter_map(|((address, id), record)| {
            let record = record
                .as_ref()
                .filter(|record| record.at(now) != Standing::Active)?;
            let mut wire = describe(id, Some(record), &api);
            // As the platform wrote it, so that the platform recognises it.
            wire["address"] = address.as_str().into();
            Some(wire)
        })
        .collect();
    Ok(Json(
        json!({"checked": ids.len(), "not_active": not_active, "refused": refused}),
    ))
}

/// `POST /v1/addresses/{address}/suppress`: the address gets no more mail. Waiting messages are
/// dropped. The body may have a `reason`, for other operators.
pub async fn suppress(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    address: Result<Path<String>, PathRejection>,
    query: Result<Query<AccountQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let id = read_job_id(&caller, address, query)?;
    let fields = Fields::read_optional(&api, request, &["reason"]).await?;
    let reason = fields.line("reason", NOTE_CHARS_MAX)?;
    apply(&api, &caller, id, FactOrCommand::Suppress, reason).await
}

/// `POST /v1/addresses/{address}/reinstate`: the address is active again, from any standing.
pub async fn reinstate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    address: Result<Path<String>, PathRejection>,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let id = read_job_id(&caller, address, query)?;
    apply(&api, &caller, id, FactOrCommand::Reinstate, None).await
}

async fn apply(
    api: &Api,
    caller: &Caller,
    id: JobId,
    command: FactOrCommand,
    note: Option<String>,
) -> Result<Json<Value>, Problem> {
    let accept = api.accept.on_behalf_of(caller.token());
    accept
        .apply_operator_command(id.clone(), command, note)
        .await?;
    let job = api.store.ids().hash(&id.key());
    let command = if command.suppresses() {
        "suppress"
    } else {
        "reinstate"
    };
    tracing::info!(
        by = caller.name(),
        command,
        job,
        "an operator changed the standing of an address"
    );
    let report = api.store.address(&id).await?;
    Ok(Json(describe_with_evidence(
        &id,
        report.standing.as_ref(),
        api,
    )))
}

/// Reads the id of a job: the address is in the path, and the account in the query. The caller must
/// be allowed to act for that account.
pub(super) fn read_job_id(
    caller: &Caller,
    address: Result<Path<String>, PathRejection>,
    query: Result<Query<AccountQuery>, QueryRejection>,
) -> Result<JobId, Problem> {
    let Query(AccountQuery { account }) = query?;
    read_id(caller, address, account.as_deref())
}

/// Reads the id of a job from the address in the path, and from the account, which the caller must
/// be allowed to act for.
pub(super) fn read_id(
    caller: &Caller,
    address: Result<Path<String>, PathRejection>,
    account: Option<&str>,
) -> Result<JobId, Problem> {
    let Path(address) = address?;
    let recipient =
        Address::parse(&address).map_err(|why| Problem::bad_field("address", why.to_string()))?;
    Ok(JobId {
        account: read_account(caller, account)?,
        recipient,
    })
}

/// Returns the account that a request names, or the default one. The caller must be allowed to act
/// for it.
fn read_account(caller: &Caller, account: Option<&str>) -> Result<Account, Problem> {
    let account = account.map_or_else(
        || Ok(Account::default()),
        |name| Account::parse(name).map_err(|why| Problem::bad_field("account", why.to_string())),
    )?;
    caller.check_account(&account)?;
    Ok(account)
}

fn describe(id: &JobId, record: Option<&StandingRecord>, api: &Api) -> Value {
    let standing = record.map_or(Standing::Active, |record| {
        record.at(api.store.clock().now())
    });
    let mut wire =
        json!({"address": id.recipient.as_str(), "account": id.account, "standing": standing});
    if let Some(record) = record.filter(|_| standing != Standing::Active) {
        wire["since"] = json!(record.since);
        wire["until"] = json!(record.until);
        wire["reason"] = json!(record.reason);
    }
    wire
}

/// Describes an address like [`describe`], and why it is not active, if that is known.
fn describe_with_evidence(id: &JobId, record: Option<&StandingRecord>, api: &Api) -> Value {
    let mut wire = describe(id, record, api);
    let record = record.filter(|record| record.at(api.store.clock().now()) != Standing::Active);
    if let Some(record) = record {
        wire["evidence"] = json!(record.evidence.as_deref().map(|evidence| {
            let is_a_failure = record.standing != Standing::Suppressed;
            json!({
                "attempt": evidence.attempt,
                "at": evidence.at,
                "source": evidence.source,
                "status": evidence.status,
                "remote_mta": evidence.remote_mta,
                "reply": (!evidence.reply.is_empty()).then_some(&evidence.reply),
                "policy": is_a_failure.then_some(&record.reason),
                "note": evidence.note,
            })
        }));
    }
    wire
}

fn describe_job(report: &JobReport, api: &Api) -> Value {
    let table = api.accept.table();
    let job = &report.job;
    let messages: Vec<Value> = job
        .messages
        .iter()
        .map(|message| {
            let mut wire = json!({
                "message_id": message.id,
                "bounced_at": message.bounced_at,
                "expires_at": message.expires_at.map(|at| at.0),
                "stream": message.stream,
                "route": message.route,
                "metadata": message.metadata,
            });
            add_trace(
                &mut wire,
                message.traceparent.as_deref(),
                api.trace_url.as_deref(),
            );
            wire
        })
        .collect();
    let history: Vec<Value> = job
        .head
        .history
        .iter()
        .map(|tried| describe_attempt(tried, api.trace_url.as_deref()))
        .collect();
    json!({
        "id": job.id.key(),
        "destination": job.head.destination,
        "attempt": job.head.attempt,
        "max_attempts": table.named(&job.head.policy).map(|row| row.delays.len()),
        "due": report.due,
        "leased_until": report.leased_until,
        "quarantined_since": report.quarantined_since,
        "waits_for": report.waits_for.as_ref().map(describe_wait),
        "status": job.head.status,
        "policy": job.head.policy,
        "created": job.head.created,
        "messages": messages,
        "history": history,
    })
}

/// Describes an attempt, with its trace if it was sent to a collector.
fn describe_attempt(tried: &FailedAttempt, trace_url: Option<&str>) -> Value {
    let FailedAttempt {
        attempt,
        at,
        reply,
        traceparent,
    } = tried;
    let mut wire = json!({"attempt": attempt, "at": at, "reply": reply});
    add_trace(&mut wire, traceparent.as_deref(), trace_url);
    wire
}

/// Adds the trace of a span, if the span was sent to a collector.
fn add_trace(wire: &mut Value, traceparent: Option<&str>, trace_url: Option<&str>) {
    let trace = traceparent.and_then(TraceContext::parse);
    if let Some(trace) = trace.filter(TraceContext::is_sampled) {
        let trace = trace.trace_id();
        wire["trace_id"] = json!(trace);
        with_trace_url(wire, &trace, trace_url);
    }
}

/// Adds the address of a trace in the trace viewer, if one is configured.
pub(super) fn with_trace_url(wire: &mut Value, trace: &str, trace_url: Option<&str>) {
    if let Some(url) = trace_url {
        wire["trace_url"] = json!(url.replace("{trace_id}", trace));
    }
}

fn describe_wait(waits_for: &WaitsFor) -> Value {
    let mut wire = json!({"what": waits_for.as_str(), "until": waits_for.until()});
    match waits_for {
        WaitsFor::Hold(hold) => wire["reason"] = json!(hold.reason),
        WaitsFor::Route(route, _) => wire["route"] = json!(route),
        _ => {}
    }
    wire
}
