//! What an error of Redis means, and what the caller can do about it. One table has the codes that
//! servers answer with.

use deadpool_redis::redis::{ErrorKind, RedisError, ServerError};

use crate::error::StoreError;

/// An error code of a server, and what it means.
struct Code {
    /// The code at the start of the error.
    name: &'static str,
    /// The same in lower case, for metrics.
    word: &'static str,
    passes: Passes,
    /// What it means, and what to do. Completes the sentence "redis does not answer: OOM: …".
    meaning: &'static str,
}

/// When the same call can succeed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passes {
    /// Later: without help, or when the server has recovered.
    Later,
    /// After an operator has changed the rights of our user.
    OnceAllowed,
}

const fn later(name: &'static str, word: &'static str, meaning: &'static str) -> Code {
    Code {
        name,
        word,
        passes: Passes::Later,
        meaning,
    }
}

const fn once_allowed(name: &'static str, word: &'static str, meaning: &'static str) -> Code {
    Code {
        name,
        word,
        passes: Passes::OnceAllowed,
        meaning,
    }
}

/// The codes that do not mean that the call itself is wrong. With any other code, a repeated call
/// fails in the same way.
const CODES: [Code; 18] = [
    later(
        "ASK",
        "ask",
        "a slot is moving to another node of the Cluster; \
         this ends when the whole slot has moved",
    ),
    later(
        "BUSY",
        "busy",
        "another script keeps the server busy; \
         look at SLOWLOG, and end that script with SCRIPT KILL",
    ),
    later(
        "CLUSTERDOWN",
        "clusterdown",
        "the Cluster does not serve this slot; look at CLUSTER INFO and at its nodes",
    ),
    later(
        "LOADING",
        "loading",
        "the server was started and still reads its data from disk; \
         it will be ready by itself",
    ),
    later(
        "MASTERDOWN",
        "masterdown",
        "the server is a replica that has lost its master; \
         wait for a failover, or repair the link",
    ),
    later(
        "MISCONF",
        "misconf",
        "the server cannot save its data and takes no writes; look at its disk and its log",
    ),
    later(
        "MOVED",
        "moved",
        "a slot is on another node of the Cluster now; the next connection finds it",
    ),
    later(
        "NOREPLICAS",
        "noreplicas",
        "the server has fewer replicas than its min-replicas-to-write; look at its replicas",
    ),
    later(
        "NOSCRIPT",
        "noscript",
        "the server forgets our scripts as fast as it gets them; \
         stop the program that runs SCRIPT FLUSH",
    ),
    later(
        "OOM",
        "oom",
        "the server's memory is full; raise maxmemory or remove data. \
         Until then no bounce is taken in and no job is claimed; \
         attempts under way are still settled",
    ),
    later(
        "READONLY",
        "readonly",
        "the server is a replica; after a failover the new master is found by itself, \
         otherwise set the master's address in the configuration",
    ),
    later(
        "TRYAGAIN",
        "tryagain",
        "a slot is moving to another node of the Cluster; \
         this ends when the whole slot has moved",
    ),
    later(
        "UNBLOCKED",
        "unblocked",
        "the server has become a replica and ended a call that waited; \
         the new master will be asked",
    ),
    later(
        "UNKILLABLE",
        "unkillable",
        "another script keeps the server busy and has written already; it ends by itself",
    ),
    once_allowed(
        "NOAUTH",
        "noauth",
        "the server requires a password; set redis.username and redis.password",
    ),
    once_allowed(
        "NOPERM",
        "noperm",
        "our user may not do this; docs/guides/deployment.md lists the rights that it needs",
    ),
    once_allowed(
        "WRONGPASS",
        "wrongpass",
        "the server does not accept this password; check redis.username and redis.password",
    ),
    // The code of every error that has no code of its own; see OTHER_LATER.
    later("ERR", "err", "the server cannot serve this connection now"),
];

/// Errors without a code of their own that pass later: how their text starts after ERR.
const OTHER_LATER: [&str; 3] = [
    "max number of clients reached",
    // A script used a key of a slot that is moving.
    "Script attempted to access a non local key in a cluster node",
    // A master became a replica between a write and the question whether the write has reached
    // replicas.
    "WAIT cannot be used with replica instances",
];

/// What is wrong if the answer of a server cannot be read.
const NO_REDIS: &str = "the server at this address does not answer as Redis does, so another \
    service may listen there; check the address and the port, and whether the server uses TLS \
    (rediss://)";

/// Whether a server has become a replica. The sentinels know the new master by now.
pub(super) fn is_demotion(err: &StoreError) -> bool {
    named_code(err).is_some_and(|code| code.name == "READONLY")
}

/// Returns the code and its meaning, if a server answered the call with a code of the table: "OOM:
/// the server's memory is full; …". The text quotes nothing of the call.
pub fn named(err: &StoreError) -> Option<String> {
    named_code(err).map(Code::text)
}

/// Returns the kind of a failure as one of a few words: the code that the server answered with, in
/// lower case, or what the caller can do about it.
pub(super) fn kind(err: &StoreError) -> &'static str {
    match (named_code(err), err) {
        (Some(code), _) => code.word,
        (None, StoreError::Unavailable(_)) => "unavailable",
        (None, StoreError::Forbidden(_)) => "forbidden",
        (None, StoreError::Refused(_)) => "refused",
        (None, StoreError::UnderWay) => "under_way",
        (None, StoreError::Mismatch(_)) => "mismatch",
    }
}

fn named_code(err: &StoreError) -> Option<&'static Code> {
    let (StoreError::Unavailable(why) | StoreError::Forbidden(why)) = err else {
        return None;
    };
    CODES.iter().find(|code| {
        why.strip_prefix(code.name)
            .is_some_and(|rest| rest.starts_with(": "))
    })
}

impl Code {
    fn text(&self) -> String {
        format!("{}: {}", self.name, self.meaning)
    }
}

/// Returns what the caller can do about an error. A server that is loading, has lost its master or
/// has become a replica counts as unreachable: the next connection finds the new master.
pub(super) fn sort(err: &RedisError) -> StoreError {
    if let Some(errors) = err.clone().into_server_errors()
        && let Some((_, first)) = errors.first()
    {
        return sort_answer(first);
    }
    if let Some(code) = err.code() {
        return sort_code(code, err.detail());
    }
    if err.kind() == ErrorKind::Parse {
        return StoreError::Unavailable(NO_REDIS.to_owned());
    }
    // The system's message about a connection contains no argument of a call.
    let text = if err.is_io_error() {
        err.to_string()
    } else {
        err.category().to_owned()
    };
    if err.kind() == ErrorKind::AuthenticationFailed {
        return StoreError::Forbidden(text);
    }
    let away = err.is_timeout()
        || err.is_io_error()
        || err.is_unrecoverable_error()
        || matches!(
            err.kind(),
            ErrorKind::Io | ErrorKind::ClusterConnectionNotFound
        );
    if away {
        StoreError::Unavailable(text)
    } else {
        StoreError::Refused(text)
    }
}

/// Returns what the caller can do about an error that a server answered with.
pub(crate) fn sort_answer(err: &ServerError) -> StoreError {
    sort_code(err.code(), err.details())
}

fn sort_code(name: &str, detail: Option<&str>) -> StoreError {
    let detail = detail.unwrap_or_default();
    let passes = name != "ERR" || OTHER_LATER.iter().any(|text| detail.starts_with(text));
    match CODES.iter().find(|code| code.name == name && passes) {
        // A server's error can quote an argument, and arguments contain addresses: only its code is
        // kept.
        Some(code) if code.passes == Passes::Later => StoreError::Unavailable(code.text()),
        Some(code) => StoreError::Forbidden(code.text()),
        None => {
            // A fault in a script names a line of it, and no arguments.
            let place = if detail.contains("user_script") {
                detail
            } else {
                ""
            };
            StoreError::Refused(format!("{name} {place}").trim_end().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use deadpool_redis::redis::parse_redis_value;

    use super::*;

    fn answered(line: &str) -> StoreError {
        let value = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        sort(&value.extract_error().unwrap_err())
    }

    #[test]
    fn every_code_has_its_meaning_in_the_error_and_quotes_nothing() {
        for code in CODES.iter().filter(|code| code.name != "ERR") {
            let err = answered(&format!("{} about jo@example.com", code.name));
            let kept = match code.passes {
                Passes::Later => matches!(err, StoreError::Unavailable(_)),
                Passes::OnceAllowed => matches!(err, StoreError::Forbidden(_)),
            };
            assert!(kept, "{err}");
            assert_eq!(
                named(&err).unwrap(),
                format!("{}: {}", code.name, code.meaning)
            );
            assert!(
                err.to_string().contains(code.meaning) && !err.to_string().contains("jo@"),
                "{err}"
            );
            assert_eq!(is_demotion(&err), code.name == "READONLY");
            assert_eq!(kind(&err), code.name.to_lowercase());
        }
    }

    #[test]
    fn a_server_that_is_no_redis_is_called_so() {
        for answer in [
            "HTTP/1.1 400 Bad Request\r\n",
            "220 mx.example.com ESMTP\r\n",
            "\x15\x03\x01",
        ] {
            let err = sort(&parse_redis_value(answer.as_bytes()).unwrap_err());
            let StoreError::Unavailable(why) = err else {
                panic!("{answer}: {err}")
            };
            assert_eq!(why, NO_REDIS, "{answer}");
        }
    }

    #[test]
    fn an_error_without_a_code_of_its_own_passes_only_if_the_table_lists_it() {
        for text in OTHER_LATER {
            assert!(
                matches!(answered(&format!("ERR {text}")), StoreError::Unavailable(_)),
                "{text}"
            );
        }
        for line in [
            "ERR unknown command 'EVALSHA'",
            "WRONGTYPE Operation against a key",
            "CROSSSLOT Keys in request",
        ] {
            let err = answered(line);
            assert!(matches!(err, StoreError::Refused(_)), "{err}");
            assert_eq!(named(&err), None);
        }
        let err = answered("ERR user_script:12: no number script: 0123, on @user_script:12.");
        assert!(err.to_string().contains("user_script:12"), "{err}");
    }
}
