//! What a caller can do about an error of Redis.

use deadpool_redis::redis::{ErrorKind, RedisError, ServerError};

use crate::store::StoreError;

/// Codes of servers that will take the call later: too little memory or replicas, a disk that cannot be written, a script
/// that takes long, a failover, a slot that moves.
const PASSING: [&str; 13] = [
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
    "UNKILLABLE",
];

/// What the code is of a server that has become a replica: others know by now who is the master.
pub(super) const DEMOTED: &str = "READONLY";

/// What the caller can do about an error. A server that is loading, has lost its master or has become a replica is as
/// good as away: the next connection finds the new master.
pub(super) fn sort(err: &RedisError) -> StoreError {
    if let Some(errors) = err.clone().into_server_errors()
        && let Some((_, first)) = errors.first()
    {
        return sort_answer(first);
    }
    if let Some(code) = err.code() {
        return sort_code(code, err.detail());
    }
    // What the system says of a connection names no argument of a call.
    let text = if err.is_io_error() { err.to_string() } else { err.category().to_owned() };
    let is_refusal = err.kind() == ErrorKind::AuthenticationFailed;
    let away = err.is_timeout()
        || err.is_io_error()
        || err.is_unrecoverable_error()
        || matches!(err.kind(), ErrorKind::Io | ErrorKind::ClusterConnectionNotFound);
    if away && !is_refusal { StoreError::Unavailable(text) } else { StoreError::Refused(text) }
}

/// What the caller can do about a server's answer that is an error.
pub(super) fn sort_answer(err: &ServerError) -> StoreError {
    sort_code(err.code(), err.details())
}

fn sort_code(code: &str, detail: Option<&str>) -> StoreError {
    // A server's error can quote an argument, and arguments name people: only its code is kept.
    if PASSING.contains(&code) {
        return StoreError::Unavailable(code.to_owned());
    }
    // A fault in a script names a place in it, and no arguments.
    let place = detail.filter(|detail| detail.contains("user_script")).unwrap_or_default();
    StoreError::Refused(format!("{code} {place}").trim_end().to_owned())
}
