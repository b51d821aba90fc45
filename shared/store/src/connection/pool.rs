//! Connections to Redis: a pool that hides whether there is one server, a Cluster, or a master that
//! sentinels watch. A connection that failed or reached a demoted master is not used again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{Manager, Object, Pool, PoolError, TimeoutType};
use deadpool_redis::redis::{Arg, FromRedisValue, Pipeline, Value, cmd, from_redis_value, pipe};
use futures::future::try_join_all;
use telemetry::metrics::Metrics;
use tokio::time::{sleep, timeout};

use crate::connection::dialer::Dialer;
use crate::connection::durability::{Barrier, syncs_by_itself};
use crate::connection::fault::{is_demotion, kind, named, sort, sort_answer};
use crate::connection::link::Link;
use crate::connection::servers::Servers;
use crate::connection::settings::{ConnectionSettings, Durability};
use crate::connection::silence::SharedCalls;
use crate::error::StoreError;
use crate::script_args::ScriptArgs;
use crate::scripts::text_of;

/// How many times a script's text is loaded for one call, if the server does not permit EVAL and
/// another client flushes the scripts.
const LOADS_MAX: usize = 3;

/// How long it takes at most, after a silence of the servers, until the sentinels name the new
/// master if there was a failover.
const FAILOVER_KNOWN_WITHIN: Duration = Duration::from_millis(2_500);

/// A pool of connections. Cloning it is cheap and shares them.
#[derive(Clone)]
pub struct Connections {
    pool: Pool<Dialer>,
    pub(crate) settings: Arc<ConnectionSettings>,
    /// Addresses of the servers, without users and passwords.
    pub(crate) place: Arc<str>,
    /// Set if the servers sync each write before they answer, so that no call has to wait for a
    /// sync.
    synced: Arc<AtomicBool>,
    /// Set once there has been a connection.
    reached: Arc<AtomicBool>,
    /// The script calls of this process.
    calls: SharedCalls,
    metrics: Metrics,
}

/// A script's answer, and whether its write reached the configured durability.
pub(crate) struct Acknowledged<T> {
    /// The answer.
    pub(crate) answer: T,
    /// What is missing; none if the write reached the configured durability.
    pub(crate) missing: Option<String>,
}

/// The master that answered, if its confirmation is in doubt after a silence.
type Doubted = Option<Arc<(String, u16)>>;

impl Connections {
    /// Creates a pool for these servers. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if the settings contradict each other.
    pub fn new(servers: &Servers, settings: ConnectionSettings) -> Result<Self, StoreError> {
        let pool = Pool::builder(Dialer::new(servers, &settings)?)
            .max_size(settings.pool_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(settings.connect_timeout))
            .create_timeout(Some(settings.connect_timeout))
            .build()
            .map_err(|err| StoreError::Mismatch(format!("no connection pool: {err}")))?;
        let place = servers.place().into();
        let (synced, reached, calls, metrics) = Default::default();
        Ok(Self {
            pool,
            place,
            settings: Arc::new(settings),
            synced,
            reached,
            calls,
            metrics,
        })
    }

    /// Returns the metrics of this process.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Reads one section of a server's INFO. In a Cluster any node answers.
    pub async fn info(&self, section: &str) -> Result<String, StoreError> {
        let (text,): (String,) = self.pipeline(pipe().cmd("INFO").arg(section)).await?;
        Ok(text)
    }

    /// Checks that the servers can reach the configured durability.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if they cannot.
    pub(crate) async fn check_durability(&self) -> Result<(), StoreError> {
        if self.settings.durability == Durability::Aof {
            let mut link = self.get().await?;
            let answer = syncs_by_itself(&mut link).await;
            self.synced
                .store(self.finish(link, answer)?, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Runs one script.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        call: &ScriptArgs<'_>,
    ) -> Result<T, StoreError> {
        let (acknowledged, _) = self.run(call, None).await?;
        Ok(acknowledged.answer)
    }

    /// Runs one script, and waits until its write has reached the configured durability. `key` must
    /// be in the same slot and hold no other data. For writes that are acknowledged to a client.
    ///
    /// It takes longer after a silence of the servers, because what a master confirms then may be
    /// lost.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also if the write was made, but did not reach the durability in
    /// time.
    pub(crate) async fn durable_script<T: FromRedisValue>(
        &self,
        call: &ScriptArgs<'_>,
        key: &str,
    ) -> Result<T, StoreError> {
        let (Acknowledged { answer, missing }, doubted) = self.run(call, self.barrier(key)).await?;
        let reached = match (missing, doubted) {
            (Some(missing), _) => Err(StoreError::Unavailable(missing)),
            (None, Some(master)) => self.confirm_master(&master).await,
            (None, None) => Ok(()),
        };
        self.count_durable_write(reached.is_ok());
        reached.map(|()| answer)
    }

    /// Runs one script and waits for the configured durability. Returns whether its write reached
    /// it.
    pub(crate) async fn script_and_reach<T: FromRedisValue>(
        &self,
        call: &ScriptArgs<'_>,
        key: &str,
    ) -> Result<Acknowledged<T>, StoreError> {
        let (acknowledged, _) = self.run(call, self.barrier(key)).await?;
        self.count_durable_write(acknowledged.missing.is_none());
        Ok(acknowledged)
    }

    fn count_durable_write(&self, is_reached: bool) {
        let durability = self.settings.durability.word();
        self.metrics.redis().durable_write(durability, is_reached);
    }

    fn barrier<'k>(&self, key: &'k str) -> Option<(Barrier, &'k str)> {
        if self.synced.load(Ordering::Relaxed) {
            return None;
        }
        let ConnectionSettings {
            durability,
            durability_timeout,
            ..
        } = *self.settings;
        Barrier::new(durability, durability_timeout).map(|barrier| (barrier, key))
    }

    /// Runs several commands in one round trip. In a Cluster all their keys must be in one slot.
    pub(crate) async fn pipeline<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> Result<T, StoreError> {
        let mut link = self.get().await?;
        self.metrics.redis().round_trips(1);
        let answer = pipeline
            .query_async(&mut link.wire)
            .await
            .map_err(|err| sort(&err));
        self.finish(link, answer)
    }

    /// Runs several pipelines at once, each on one slot. Returns the answers in their order.
    pub(crate) async fn pipelines<T: FromRedisValue>(
        &self,
        pipelines: &[Pipeline],
    ) -> Result<Vec<T>, StoreError> {
        let link = self.get().await?;
        self.metrics.redis().round_trips(pipelines.len() as u64);
        let answers = pipelines.iter().map(|pipeline| {
            // One connection carries them all.
            let mut wire = link.wire.clone();
            async move {
                pipeline
                    .query_async(&mut wire)
                    .await
                    .map_err(|err| sort(&err))
            }
        });
        let answers = try_join_all(answers).await;
        self.finish(link, answers)
    }

    async fn run<T: FromRedisValue>(
        &self,
        call: &ScriptArgs<'_>,
        barrier: Option<(Barrier, &str)>,
    ) -> Result<(Acknowledged<T>, Doubted), StoreError> {
        let mut commands = pipe();
        commands.invoke_script(call.invocation());
        let key = first_key(&commands);
        if let Some((barrier, key)) = barrier {
            barrier.add(&mut commands, key);
        }
        let mut link = self.get().await?;
        let (running, master) = (self.calls.begin(), link.master.clone());
        let began = Instant::now();
        let answers = send(&mut link, key, &commands).await;
        self.metrics.redis().round_trips(1);
        self.metrics.redis().called(call.verb(), began.elapsed());
        let is_in_doubt = was_answered(&answers) && running.answered();
        drop(running);
        let mut answers = self.finish(link, answers)?.into_iter();
        let answer = answers
            .next()
            .ok_or_else(|| StoreError::Refused("a script did not answer".to_owned()))?;
        let answer = from_redis_value(answer)
            .map_err(|_| StoreError::Refused("unexpected reply of a script".to_owned()))?;
        let missing = match barrier {
            Some((barrier, _)) => barrier.read(answers.as_slice())?,
            None => None,
        };
        if missing.is_some() {
            self.metrics.redis().failed("not_durable");
        }
        Ok((
            Acknowledged { answer, missing },
            master.filter(|_| is_in_doubt),
        ))
    }

    /// Verifies that the server which confirmed a write after a silence is still the master. It
    /// waits first, until all sentinels know which server is the master.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it is not the master any more: what it has confirmed is lost.
    async fn confirm_master(&self, wrote: &Arc<(String, u16)>) -> Result<(), StoreError> {
        sleep(FAILOVER_KNOWN_WITHIN).await;
        let unknown =
            |_| StoreError::Unavailable("the sentinels do not name the master".to_owned());
        let link = timeout(self.settings.connect_timeout, self.pool.manager().create())
            .await
            .map_err(unknown)??;
        if link.master.as_ref() == Some(wrote) {
            return Ok(());
        }
        self.pool.retain(|kept, _| kept.master == link.master);
        let (host, port) = &**wrote;
        Err(StoreError::Unavailable(format!(
            "{host}:{port} has been replaced as master since it confirmed the write"
        )))
    }

    pub(super) async fn get(&self) -> Result<Object<Dialer>, StoreError> {
        let limit = humantime::format_duration(self.settings.connect_timeout);
        let link = self.pool.get().await;
        let before = self.reached.fetch_or(link.is_ok(), Ordering::Relaxed);
        let link = link.map_err(|err| match err {
            // The password is changed while we run. Settlements must wait for that, and must not be
            // lost.
            PoolError::Backend(StoreError::Forbidden(why) | StoreError::Refused(why)) if before => {
                StoreError::Unavailable(why)
            }
            PoolError::Backend(err) => err,
            PoolError::Timeout(TimeoutType::Wait) => StoreError::Unavailable(format!(
                "all connections were busy for {limit}; raise redis.pool_max to allow more"
            )),
            PoolError::Timeout(_) => {
                StoreError::Unavailable(format!("no connection within {limit}"))
            }
            other => StoreError::Unavailable(other.to_string()),
        });
        self.count_failure(&link);
        link
    }

    fn count_failure<T>(&self, answer: &Result<T, StoreError>) {
        if let Err(err) = answer {
            self.metrics.redis().failed(kind(err));
        }
    }

    /// Returns the connection to the pool, or drops it if the answer shows that it is of no more
    /// use.
    pub(super) fn finish<T>(
        &self,
        link: Object<Dialer>,
        answer: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.count_failure(&answer);
        if let Err(err @ StoreError::Unavailable(_)) = &answer {
            drop(Object::take(link));
            if is_demotion(err) {
                // The other connections of the pool are to the same server.
                self.pool.retain(|_, _| false);
            }
        }
        answer
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Whether a server answered. A refusal is an answer too.
fn was_answered<T>(answer: &Result<T, StoreError>) -> bool {
    answer.as_ref().err().is_none_or(|err| named(err).is_some())
}

/// Sends a script's call and the commands that go with it. If the server does not know the script,
/// the call is repeated with the script's text in place of its hash. That is one command, so no
/// other client can flush the script before the call. A server that does not permit EVAL gets the
/// text and the call one after the other.
async fn send(
    link: &mut Link,
    key: Vec<u8>,
    commands: &Pipeline,
) -> Result<Vec<Value>, StoreError> {
    let mut slot = link.slot(key);
    let mut answers = slot.send(commands).await.map_err(|err| sort(&err))?;
    if starts_with_error(&answers, "NOSCRIPT")
        && let Some(text) = script_text(commands)
    {
        answers = slot
            .send(&with_text(commands, text))
            .await
            .map_err(|err| sort(&err))?;
        let mut is_to_be_loaded = is_eval_forbidden(&answers);
        for _ in 0..LOADS_MAX {
            if !is_to_be_loaded {
                break;
            }
            answers = slot
                .send(&after_loading(commands, text))
                .await
                .map_err(|err| sort(&err))?;
            if let Value::ServerError(err) = answers.remove(0) {
                return Err(sort_answer(&err));
            }
            is_to_be_loaded = starts_with_error(&answers, "NOSCRIPT");
        }
    }
    match answers.first() {
        Some(Value::ServerError(err)) => Err(sort_answer(err)),
        _ => Ok(answers),
    }
}

/// Whether the first answer is the error with this code.
fn starts_with_error(answers: &[Value], code: &str) -> bool {
    matches!(answers.first(), Some(Value::ServerError(err)) if err.code() == code)
}

/// Whether the server does not permit EVAL. A command that a script may not use has the same code,
/// but then the script has begun, and must not be repeated here.
fn is_eval_forbidden(answers: &[Value]) -> bool {
    matches!(answers.first(), Some(Value::ServerError(err))
        if err.code() == "NOPERM" && err.details().is_some_and(|text| text.contains("'eval'")))
}

/// The same commands, with EVAL and the script's text for the EVALSHA that is the first of them.
fn with_text(commands: &Pipeline, text: &str) -> Pipeline {
    let mut same = pipe();
    for (number, command) in commands.cmd_iter().enumerate() {
        if number > 0 {
            same.add_command(command.clone());
            continue;
        }
        let mut eval = cmd("EVAL");
        eval.arg(text);
        for argument in command.args_iter().skip(2) {
            if let Arg::Simple(argument) = argument {
                eval.arg(argument);
            }
        }
        same.add_command(eval);
    }
    same
}

/// The same commands after SCRIPT LOAD.
fn after_loading(commands: &Pipeline, text: &str) -> Pipeline {
    let mut loading = pipe();
    loading.cmd("SCRIPT").arg("LOAD").arg(text);
    for command in commands.cmd_iter() {
        loading.add_command(command.clone());
    }
    loading
}

/// Returns the text of the script whose call is first in `commands`.
fn script_text(commands: &Pipeline) -> Option<&'static str> {
    let hash = argument(commands, 1)?;
    text_of(std::str::from_utf8(&hash).ok()?)
}

/// Returns the first key of the script's call that is first in `commands`. All its keys are in one
/// slot.
fn first_key(commands: &Pipeline) -> Vec<u8> {
    argument(commands, 3).unwrap_or_default()
}

/// Returns one argument of the script's call: EVALSHA, hash, number of keys, first key.
fn argument(commands: &Pipeline, place: usize) -> Option<Vec<u8>> {
    match commands.cmd_iter().next()?.args_iter().nth(place)? {
        Arg::Simple(word) => Some(word.to_vec()),
        _ => None,
    }
}
