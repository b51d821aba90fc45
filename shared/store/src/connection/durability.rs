//! What a write must reach before it counts as stored, and how the server is asked for it. The
//! question goes in the same round trip on the same connection, because WAIT and WAITAOF cover only
//! what that connection has written.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_redis::redis::{Pipeline, RedisError, Value, cmd, from_redis_value};

use crate::connection::fault::{sort, sort_answer};
use crate::connection::link::Link;
use crate::connection::settings::Durability;
use crate::error::StoreError;

/// The question that follows a write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Barrier {
    durability: Durability,
    timeout: Duration,
}

impl Barrier {
    /// Returns the question for `durability`; none if the answer to the write is enough.
    pub(super) fn new(durability: Durability, timeout: Duration) -> Option<Self> {
        (durability != Durability::Memory).then_some(Self {
            durability,
            timeout,
        })
    }

    /// Adds the question after the write in `commands`, with a separate write to `key`. A server
    /// answers only for what the connection wrote, and a script that was run before may find
    /// nothing to write. Without the separate write, a repeated call would be confirmed while the
    /// first is still under way.
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

    /// Reads the answers to both commands. Returns what is missing, if anything is.
    pub(super) fn read(self, answers: &[Value]) -> Result<Option<String>, StoreError> {
        if let Some(Value::ServerError(err)) = answers
            .iter()
            .find(|answer| matches!(answer, Value::ServerError(_)))
        {
            // The script's own writes have succeeded. Only the separate write needs more memory
            // than there is.
            if err.code() == "OOM" {
                return Ok(Some(
                    "the server's memory is full, so it cannot report how far the write has come"
                        .to_owned(),
                ));
            }
            return Err(sort_answer(err));
        }
        let timeout = humantime::format_duration(self.timeout);
        let reached = answers
            .get(1)
            .cloned()
            .ok_or_else(|| StoreError::Refused("WAIT was not answered".to_owned()))?;
        let unexpected = |_| StoreError::Refused("unexpected answer to WAIT".to_owned());
        if let Durability::Replicas(n) = self.durability {
            let confirmed: u16 = from_redis_value(reached).map_err(unexpected)?;
            let missing =
                || format!("only {confirmed} of {n} replicas confirmed the write within {timeout}");
            return Ok((confirmed < n).then(missing));
        }
        let (synced, _): (u16, u16) = from_redis_value(reached).map_err(unexpected)?;
        Ok((synced < 1).then(|| format!("the append-only file was not synced within {timeout}")))
    }
}

/// Whether the servers sync their append-only file before every answer, so that no call has to ask.
///
/// # Errors
/// [`StoreError::Mismatch`] if they neither sync by themselves nor answer the question.
pub(super) async fn syncs_by_itself(link: &mut Link) -> Result<bool, StoreError> {
    let mut wait = cmd("WAITAOF");
    wait.arg(1).arg(0).arg(1);
    let refused = match link.ask_masters(wait).await {
        Ok(_) => return Ok(false),
        Err(err) => err,
    };
    if is_error(&refused, "NOPERM", "") {
        return Err(mismatch(
            "the redis user may not run WAITAOF; allow it with ACL SETUSER … +waitaof",
        ));
    }
    if is_error(&refused, "ERR", "appendonly is disabled") {
        return Err(mismatch(
            "redis keeps no append-only file; set appendonly yes there",
        ));
    }
    if !is_error(&refused, "ERR", "unknown command") {
        return Err(sort(&refused));
    }
    // A server before 7.2 has no WAITAOF. But if it syncs at every write, it does so before it
    // answers.
    for (name, wanted) in [("appendonly", "yes"), ("appendfsync", "always")] {
        let mut config = cmd("CONFIG");
        config.arg("GET").arg(name);
        let answers = link
            .ask_masters(config)
            .await
            .map_err(|err| match sort(&err) {
                err @ StoreError::Unavailable(_) => err,
                _ => mismatch(
                    "redis does not report how it syncs; \
                 allow it with ACL SETUSER … +config|get, or use 7.2 or newer",
                ),
            })?;
        for answer in answers {
            let values: HashMap<String, String> = from_redis_value(answer)
                .map_err(|_| mismatch("redis gave an unexpected answer to CONFIG GET"))?;
            if values.get(name).map(String::as_str) != Some(wanted) {
                return Err(mismatch(&format!(
                    "this redis is older than 7.2 and has no WAITAOF; set {name} {wanted} there"
                )));
            }
        }
    }
    Ok(true)
}

fn is_error(err: &RedisError, code: &str, text: &str) -> bool {
    err.code() == Some(code) && err.detail().unwrap_or_default().contains(text)
}

fn mismatch(why: &str) -> StoreError {
    StoreError::Mismatch(format!(
        "redis.durability is \"aof\", but {why}, or set redis.durability to what redis supports"
    ))
}
