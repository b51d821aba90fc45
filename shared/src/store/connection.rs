//! Connections to Redis: a pool, and the rule that a connection which failed or reached a demoted master is not used
//! again.

use std::time::Duration;

use deadpool_redis::redis::{
    AsyncConnectionConfig, ErrorKind, FromRedisValue, Pipeline, RedisError, ScriptInvocation, pipe,
};
use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use tokio::time::timeout;

use super::StoreError;

/// A pool of connections. Cloning it is cheap and shares them.
#[derive(Clone, Debug)]
pub struct Connections {
    pool: Pool,
    connect_timeout: Duration,
}

/// How connections are made and used.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionSettings {
    /// How many there are at most.
    pub pool_max: usize,
    /// How long it may take to have one: to wait for a free one, to see that it is alive, or to make it.
    pub connect_timeout: Duration,
    /// How long one answer may take; a batch is one answer.
    pub response_timeout: Duration,
}

impl Connections {
    /// A pool for the server at `url`: `redis://…` or `redis+unix://…`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] where the URL cannot be read.
    pub fn new(url: &str, settings: ConnectionSettings) -> Result<Self, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.response_timeout));
        // The error could quote the URL, which may hold a password.
        let manager = Manager::new_with_config(url, config)
            .map_err(|_| StoreError::Mismatch("redis.url is not a URL like redis://host:6379/0".to_owned()))?;
        let pool = Pool::builder(manager)
            .max_size(settings.pool_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(settings.connect_timeout))
            .create_timeout(Some(settings.connect_timeout))
            .recycle_timeout(Some(settings.connect_timeout))
            .build()
            .map_err(|err| StoreError::Mismatch(format!("no connection pool: {err}")))?;
        Ok(Self { pool, connect_timeout: settings.connect_timeout })
    }

    /// What the server says of itself: one section of INFO.
    pub async fn info(&self, section: &str) -> Result<String, StoreError> {
        let (text,): (String,) = self.pipeline(pipe().cmd("INFO").arg(section)).await?;
        Ok(text)
    }

    /// Runs one script.
    pub(super) async fn script<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let mut connection = self.get().await?;
        let answer = call.invoke_async(&mut connection).await;
        finish(connection, answer)
    }

    /// Runs several commands in one round trip.
    pub(super) async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        let mut connection = self.get().await?;
        let answer = pipeline.query_async(&mut connection).await;
        finish(connection, answer)
    }

    async fn get(&self) -> Result<Connection, StoreError> {
        // The pool asks idle connections one after the other whether they are alive. A server that has fallen silent
        // would take a limit for each of them: one limit is for all, and those that are left are let go unasked.
        let Ok(got) = timeout(self.connect_timeout, self.pool.get()).await else {
            self.pool.retain(|_, _| false);
            return Err(StoreError::Unavailable("no connection in time".to_owned()));
        };
        got.map_err(|err| match err {
            PoolError::Backend(err) => sort(&err),
            other => StoreError::Unavailable(other.to_string()),
        })
    }
}

/// Gives the connection back to the pool, or lets it go where the answer says that it is of no more use.
fn finish<T>(connection: Connection, answer: Result<T, RedisError>) -> Result<T, StoreError> {
    answer.map_err(|err| {
        let err = sort(&err);
        if matches!(err, StoreError::Unavailable(_)) {
            drop(Connection::take(connection));
        }
        err
    })
}

/// Codes of servers that will take the call later: too little memory or replicas, a disk that cannot be written, a script
/// that takes long, a failover.
const PASSING: [&str; 10] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNKILLABLE",
];

/// What the caller can do about an error. A server that is loading, has lost its master or has become a replica is as
/// good as away: the next connection finds the new master.
fn sort(err: &RedisError) -> StoreError {
    // A server's error can quote an argument, and arguments name people: only its code is kept.
    if let Some(code) = err.code() {
        if PASSING.contains(&code) {
            return StoreError::Unavailable(code.to_owned());
        }
        // A fault in a script names a place in it, and no arguments.
        let place = err.detail().filter(|detail| detail.contains("user_script")).unwrap_or_default();
        return StoreError::Refused(format!("{code} {place}").trim_end().to_owned());
    }
    // What the system says of a connection names no argument either.
    let text = if err.is_io_error() { err.to_string() } else { err.category().to_owned() };
    let away = err.is_timeout()
        || err.is_io_error()
        || err.is_unrecoverable_error()
        || matches!(err.kind(), ErrorKind::Io | ErrorKind::ClusterConnectionNotFound);
    if away { StoreError::Unavailable(text) } else { StoreError::Refused(text) }
}
