//! Pools of sessions that are kept and reused, one pool per peer. Each session is limited in
//! messages, age and idle time, and is closed with QUIT.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant as StdInstant};

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use domain::outcome::FaultKind;
use domain::reply::Reply;
use domain::transcript::Phase;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::open_sessions::{IdleSessions, OpenSessions};
use super::peer::Peer;
use super::recorder::TranscriptRecorder;
use super::session::{Failure, Session, SessionParameters};
use super::stop::{Stop, Why};
use super::wire::NoReply;
use crate::attempt::Attempt;
use crate::contact;

/// How many peers may have a pool. For any other peer, each message opens and closes a session.
const PEERS_MAX: usize = 4_096;

/// On how many sessions one message is tried, if kept sessions turn out to be closed.
const SESSIONS_MAX: usize = 3;

/// How often idle sessions are checked.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// How long QUIT may take on a session that is closed to make room for another.
const EARLY_QUIT_MAX: Duration = Duration::from_secs(1);

/// The pools of one sender, by peer.
#[derive(Default)]
struct PeerPools(Mutex<HashMap<Peer, PeerPool>>);

/// The pool of sessions with one peer.
struct PeerPool {
    pool: Pool<SessionOpener>,
    /// Whether the last sweep found the pool empty. A task that fetched the pool since then may be
    /// about to open a session.
    was_empty: bool,
}

/// The sessions of one sender.
pub(crate) struct Pools {
    parameters: Arc<SessionParameters>,
    pools: Arc<PeerPools>,
    sessions: Arc<OpenSessions>,
}

/// Opens sessions with one peer.
struct SessionOpener {
    peer: Peer,
    parameters: Arc<SessionParameters>,
    sessions: Arc<OpenSessions>,
}

impl Pools {
    /// Returns the pools without any session.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn new(parameters: SessionParameters, sessions: Arc<OpenSessions>) -> Self {
        let pools = Arc::<PeerPools>::default();
        let watched: Arc<dyn IdleSessions> = pools.clone();
        sessions.watch(Arc::downgrade(&watched));
        tokio::spawn(sweep(Arc::downgrade(&pools)));
        Self {
            parameters: Arc::new(parameters),
            pools,
            sessions,
        }
    }

    /// Hands one message to a peer. The peer may have closed a kept session while it was idle. Then
    /// the peer's other idle sessions are closed too, and a new one is opened.
    pub(crate) async fn hand_over(
        &self,
        peer: &Peer,
        attempt: &Attempt,
        content: &[u8],
        recorder: &mut TranscriptRecorder,
    ) -> Result<Reply, Stop> {
        let pool = self.pool(peer);
        for _ in 0..SESSIONS_MAX {
            let mut in_use = SessionInUse(Some(self.session(&pool, recorder).await?));
            let session = in_use.session();
            let reused = session.messages > 0;
            let handed_over = session.hand_over(attempt, content, recorder).await;
            let session = in_use.finish();
            if !session.is_reusable() {
                tokio::spawn(quit_and_free_place(session));
            }
            match handed_over {
                Err(stop) if reused && stop.is_stale_session() => {
                    tracing::debug!(host = peer.host, "a kept connection was closed by the peer");
                    quit_all(pool.retain(|_, _| false).removed);
                }
                other => return other,
            }
        }
        let why = Why::Broken(NoReply::new(
            FaultKind::Lost,
            "the peer closes every connection that is kept for reuse",
        ));
        Err(Stop {
            phase: Phase::Mail,
            why,
        })
    }

    /// Whether a new session with a peer can be opened. It is closed at once.
    pub(crate) async fn can_open(&self, peer: &Peer) -> bool {
        let opener = SessionOpener {
            peer: peer.clone(),
            parameters: self.parameters.clone(),
            sessions: self.sessions.clone(),
        };
        match opener.create().await {
            Ok(mut session) => {
                session.quit().await;
                true
            }
            Err(_) => false,
        }
    }

    async fn session(
        &self,
        pool: &Pool<SessionOpener>,
        recorder: &mut TranscriptRecorder,
    ) -> Result<Object<SessionOpener>, Stop> {
        recorder.begin(Phase::Wait);
        // Until a connection is free, the wait is due to our own limit and not to the host.
        contact::stop_waiting();
        match pool.get().await {
            Ok(mut session) => {
                session.continue_transcript(recorder);
                Ok(session)
            }
            Err(PoolError::Backend(Failure { stop, opening })) => {
                recorder.continue_after(opening);
                Err(stop)
            }
            Err(_) => Err(Stop {
                phase: Phase::Wait,
                why: Why::NoFreeConnection,
            }),
        }
    }

    fn pool(&self, peer: &Peer) -> Pool<SessionOpener> {
        let mut pools = self.pools.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer_pool) = pools.get_mut(peer) {
            peer_pool.was_empty = false;
            return peer_pool.pool.clone();
        }
        let settings = &self.parameters.settings;
        let (parameters, sessions) = (self.parameters.clone(), self.sessions.clone());
        let opener = SessionOpener {
            peer: peer.clone(),
            parameters,
            sessions,
        };
        let pool = Pool::builder(opener)
            .max_size(settings.connections)
            .wait_timeout(Some(settings.timeouts.wait))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with time limits has a runtime");
        if pools.len() < PEERS_MAX {
            pools.insert(
                peer.clone(),
                PeerPool {
                    pool: pool.clone(),
                    was_empty: false,
                },
            );
        }
        pool
    }
}

/// A session while an attempt uses it. If the attempt is cancelled, this is dropped and the
/// connection is reset at once. Returned to the pool, the session would stay open until the next
/// sweep, and the system could still send the bytes that it has queued.
struct SessionInUse(Option<Object<SessionOpener>>);

impl SessionInUse {
    fn session(&mut self) -> &mut Session {
        self.0.as_mut().expect("it holds the session until finish")
    }

    /// Gives the session back, because the attempt has used it to the end.
    fn finish(mut self) -> Object<SessionOpener> {
        self.0.take().expect("it holds the session until finish")
    }
}

impl Drop for SessionInUse {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            drop(Object::take(session));
        }
    }
}

impl IdleSessions for PeerPools {
    fn collect_idle_since(&self, since: &mut Vec<StdInstant>) {
        self.each(|pool| {
            pool.retain(|session, _| {
                since.push(session.used_at());
                true
            });
        });
    }

    fn close_idle(&self, until: StdInstant) {
        self.each(|pool| quit_quickly(pool.retain(|session, _| session.used_at() > until).removed));
    }
}

impl PeerPools {
    fn each(&self, mut visit: impl FnMut(&Pool<SessionOpener>)) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .for_each(|peer_pool| visit(&peer_pool.pool));
    }
}

impl Manager for SessionOpener {
    type Type = Session;
    type Error = Failure;

    async fn create(&self) -> Result<Session, Failure> {
        let count_guard = self.sessions.count();
        let opened = Session::open(&self.peer, &self.parameters, count_guard).await;
        if opened
            .as_ref()
            .is_err_and(|failure| failure.stop.is_shortage())
        {
            // Other sessions use the last file descriptors. The next attempt will find some free.
            self.sessions.make_room();
        }
        opened
    }

    /// Resets the session if its last message was refused. This happens here, after the outcome of
    /// that message was reported. If it happened before, an attempt that is cancelled during the
    /// reset would lose its answer, and the address would be tried again.
    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Failure> {
        let is_fit = session.is_reusable() && session.reset().await && session.is_reusable();
        if is_fit {
            Ok(())
        } else {
            Err(RecycleError::message("not reusable"))
        }
    }
}

/// Closes sessions that are too old or idle too long, and removes pools without sessions. Runs
/// until the sender is dropped.
async fn sweep(pools: Weak<PeerPools>) {
    let mut ticks = interval_at(Instant::now() + SWEEP_PERIOD, SWEEP_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(pools) = pools.upgrade() else { return };
        let mut closed = Vec::new();
        pools
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, peer_pool| {
                closed.extend(
                    peer_pool
                        .pool
                        .retain(|session, _| session.is_reusable())
                        .removed,
                );
                let is_empty = peer_pool.pool.status().size == 0;
                let keep = !(is_empty && peer_pool.was_empty);
                peer_pool.was_empty = is_empty;
                keep
            });
        quit_all(closed);
    }
}

/// Ends a session with QUIT and frees its place in the pool only afterwards. So the peer never has
/// more sessions than its limit.
async fn quit_and_free_place(mut session: Object<SessionOpener>) {
    session.quit().await;
    drop(Object::take(session));
}

/// Closes sessions to make room for others. They stop counting at once, so that a peer that answers
/// QUIT slowly delays no other session.
fn quit_quickly(sessions: Vec<Session>) {
    for mut session in sessions {
        session.stop_counting();
        tokio::spawn(async move { timeout(EARLY_QUIT_MAX, session.quit()).await });
    }
}

fn quit_all(sessions: Vec<Session>) {
    for mut session in sessions {
        tokio::spawn(async move { session.quit().await });
    }
}
