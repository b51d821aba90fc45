//! What a write has to reach before it counts as stored, and how that is asked for: in the same
//! round trip, on the same connection, because a server answers WAIT and WAITAOF for what that very
//! connection has written.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_redis::redis::{Pipeline, RedisError, Value, cmd, from_redis_value};

use crate::connection::fault::{sort, sort_answer};
use crate::connection::link::Link;
use crate::connection::settings::Durability;
use crate::error::StoreError;

/// What is asked of a server behind a write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Barrier {
    durability: Durability,
    timeout: Duration,
}

impl Barrier {
    /// What `durability` asks for; none where the answer to the write says it all.
    pub(super) fn new(durability: Durability, timeout: Duration) -> Option<Self> {
        (durability != Durability::Memory).then_some(Self {
            durability,
            timeout,
        })
    }

    /// Adds the question behind the write that is in `commands`, with a write of its own to `key`.
    /// A script that found its work done before writes nothing, and a server answers only for what
    /// the connection wrote: without a write of its own, a call that is repeated would be told that
    /// all is well while the first is still under way.
    pub(super) fn add(self, commands: &mut Pipeline, key: &str) {
        let timeout = u64::try_from(self.timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        commands.cmd("SET").arg(key).arg(1);
        match self.durability {
            Durability::Replicas(n) => commands.cmd("WAIT").arg(n).arg(timeout),
            _ => commands.cmd("WAITAOF").arg(1).arg(0).arg(timeout),
        };
    }

    /// What the server answered to the two: nothing, or what is missing.
    pub(super) fn read(self, answers: &[Value]) -> Result<Option<String>, StoreError> {
        if let Some(Value::ServerError(err)) = answers
            .iter()
            .find(|answer| matches!(answer, Value::ServerError(_)))
        {
            // The script has written what it had to. Only the write that is waited for needs more
            // memory than there is.
            if err.code() == "OOM" {
                return Ok(Some(
                    "the server's memory is full, so it cannot be asked how far the write has come"
                        .to_owned(),
                ));
            }
            return Err(sort_answer(err));
        }
        let timeout = humantime::format_duration(self.timeout);
        let reached = answers
            .get(1)
            .cloned()
            .ok_or_else(|| StoreError::Refused("no answer to WAIT".to_owned()))?;
        let unread = |_| StoreError::Refused("WAIT answered in another shape".to_owned());
        if let Durability::Replicas(n) = self.durability {
            let confirmed: u16 = from_redis_value(reached).map_err(unread)?;
            let missing =
                || format!("only {confirmed} of {n} replicas confirmed the write within {timeout}");
            return Ok((confirmed < n).then(missing));
        }
        let (synced, _): (u16, u16) = from_redis_value(reached).map_err(unread)?;
        Ok((synced < 1).then(|| format!("the append-only file was not synced within {timeout}")))
    }
}

/// Whether the servers sync their append-only file before every answer, so that nobody has to ask.
///
/// # Errors
/// [`StoreError::Mismatch`] where they can neither be asked nor do so by themselves.
pub(super) async fn syncs_by_itself(link: &mut Link) -> Result<bool, StoreError> {
    let mut wait = cmd("WAITAOF");
    wait.arg(1).arg(0).arg(1);
    let refused = match link.ask_masters(wait).await {
        Ok(_) => return Ok(false),
        Err(err) => err,
    };
    if says(&refused, "NOPERM", "") {
        return Err(mismatch(
            "redis does not let this user ask WAITAOF; allow it with ACL SETUSER … +waitaof",
        ));
    }
    if says(&refused, "ERR", "appendonly is disabled") {
        return Err(mismatch(
            "redis keeps no append-only file; set appendonly yes there",
        ));
    }
    if !says(&refused, "ERR", "unknown command") {
        return Err(sort(&refused));
    }
    // Before 7.2 nobody can ask. But a server that syncs at every write does so before it answers.
    for (name, wanted) in [("appendonly", "yes"), ("appendfsync", "always")] {
        let mut config = cmd("CONFIG");
        config.arg("GET").arg(name);
        let answers = link.ask_masters(config).await.map_err(|err| match sort(&err) {
            err @ StoreError::Unavailable(_) => err,
            _ => mismatch(
                "redis does not tell how it syncs; allow it with ACL SETUSER … +config|get, or use 7.2 or newer",
            ),
        })?;
        for answer in answers {
            let values: HashMap<String, String> = from_redis_value(answer)
                .map_err(|_| mismatch("redis answered CONFIG GET in another shape"))?;
            if values.get(name).map(String::as_str) != Some(wanted) {
                return Err(mismatch(&format!(
                    "this redis is older than 7.2 and cannot be asked for a sync; set {name} {wanted} there"
                )));
            }
        }
    }
    Ok(true)
}

fn says(err: &RedisError, code: &str, text: &str) -> bool {
    err.code() == Some(code) && err.detail().unwrap_or_default().contains(text)
}

fn mismatch(why: &str) -> StoreError {
    StoreError::Mismatch(format!(
        "redis.durability is \"aof\", but {why}, or set redis.durability to what it can do"
    ))
}
