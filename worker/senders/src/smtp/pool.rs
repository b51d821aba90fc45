//! Sessions that are kept and used again, by peer. Each carries so many messages, gets so old, and
//! is left with a farewell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant as StdInstant};

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use domain::outcome::FaultKind;
use domain::reply::Reply;
use domain::transcript::Phase;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::open_sessions::{KeptSessions, OpenSessions};
use super::peer::Peer;
use super::session::{Failure, Manner, Session};
use super::stop::{Stop, Why};
use super::trail::Trail;
use super::wire::Silence;
use crate::attempt::Attempt;
use crate::contact;

/// How many peers have sessions kept. Those beyond get one session for each message.
const PEERS_MAX: usize = 4_096;

/// How many sessions one message is tried on, where those that were kept turn out to have ended.
const TRIES_MAX: usize = 3;

/// How often sessions are looked at that nobody uses.
const SWEEP: Duration = Duration::from_secs(5);

/// How long a session that is left for another one may take to say farewell.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Kept(Mutex<HashMap<Peer, Line>>);

/// The sessions with one peer.
struct Line {
    pool: Pool<Opener>,
    /// Whether the last sweep found none. Who has asked for one since then may be about to open it.
    was_empty: bool,
}

/// The sessions of one sender.
pub(crate) struct Pools {
    manner: Arc<Manner>,
    kept: Arc<Kept>,
    sessions: Arc<OpenSessions>,
}

/// Opens sessions with one peer.
struct Opener {
    peer: Peer,
    manner: Arc<Manner>,
    sessions: Arc<OpenSessions>,
}

impl Pools {
    /// No session yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn new(manner: Manner, sessions: Arc<OpenSessions>) -> Self {
        let kept = Arc::<Kept>::default();
        let watched: Arc<dyn KeptSessions> = kept.clone();
        sessions.watch(Arc::downgrade(&watched));
        tokio::spawn(sweep(Arc::downgrade(&kept)));
        Self {
            manner: Arc::new(manner),
            kept,
            sessions,
        }
    }

    /// Hands one message to a peer. A kept session may have been closed by the peer while nobody
    /// looked: then the others that nobody uses are left too, and a new one is opened.
    pub(crate) async fn hand_over(
        &self,
        peer: &Peer,
        attempt: &Attempt,
        content: &[u8],
        trail: &mut Trail,
    ) -> Result<Reply, Stop> {
        let pool = self.pool(peer);
        for _ in 0..TRIES_MAX {
            let mut session = self.session(&pool, trail).await?;
            let reused = session.messages > 0;
            let handed_over = session.hand_over(attempt, content, trail).await;
            if !session.is_good() {
                tokio::spawn(leave_for_another(session));
            }
            match handed_over {
                Err(stop) if reused && stop.is_farewell() => {
                    tracing::debug!(host = peer.host, "a kept connection had ended");
                    leave(pool.retain(|_, _| false).removed);
                }
                other => return other,
            }
        }
        let why = Why::Broken(Silence::new(
            FaultKind::Lost,
            "the peer closes each connection that is kept",
        ));
        Err(Stop {
            phase: Phase::Mail,
            why,
        })
    }

    async fn session(
        &self,
        pool: &Pool<Opener>,
        trail: &mut Trail,
    ) -> Result<Object<Opener>, Stop> {
        trail.begin(Phase::Connect);
        // Until one is free it is we who have too few connections.
        contact::pause();
        match pool.get().await {
            Ok(mut session) => {
                session.continue_trail(trail);
                Ok(session)
            }
            Err(PoolError::Backend(Failure { stop, opening })) => {
                trail.go_on(opening);
                Err(stop)
            }
            Err(_) => Err(Stop {
                phase: Phase::Connect,
                why: Why::Crowded,
            }),
        }
    }

    fn pool(&self, peer: &Peer) -> Pool<Opener> {
        let mut kept = self.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = kept.get_mut(peer) {
            line.was_empty = false;
            return line.pool.clone();
        }
        let settings = &self.manner.settings;
        let (manner, sessions) = (self.manner.clone(), self.sessions.clone());
        let opener = Opener {
            peer: peer.clone(),
            manner,
            sessions,
        };
        let pool = Pool::builder(opener)
            .max_size(settings.connections)
            .wait_timeout(Some(settings.timeouts.wait))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with time limits has a runtime");
        if kept.len() < PEERS_MAX {
            kept.insert(
                peer.clone(),
                Line {
                    pool: pool.clone(),
                    was_empty: false,
                },
            );
        }
        pool
    }
}

impl KeptSessions for Kept {
    fn note_idle(&self, since: &mut Vec<StdInstant>) {
        self.each(|pool| {
            pool.retain(|session, _| {
                since.push(session.used());
                true
            });
        });
    }

    fn leave_idle(&self, until: StdInstant) {
        self.each(|pool| leave_soon(pool.retain(|session, _| session.used() > until).removed));
    }
}

impl Kept {
    fn each(&self, mut visit: impl FnMut(&Pool<Opener>)) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .for_each(|line| visit(&line.pool));
    }
}

impl Manager for Opener {
    type Type = Session;
    type Error = Failure;

    async fn create(&self) -> Result<Session, Failure> {
        let counted = self.sessions.count();
        let opened = Session::open(&self.peer, &self.manner, counted).await;
        if opened
            .as_ref()
            .is_err_and(|failure| failure.stop.is_shortage())
        {
            // Other sessions took the last descriptors. The next try finds room.
            self.sessions.make_room();
        }
        opened
    }

    /// What has to be done after a refusal is done here and not before its outcome is told: an
    /// attempt that was cut off in between would not know its answer, and the address would be
    /// asked again.
    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Failure> {
        let is_fit = session.is_good() && session.reset().await && session.is_good();
        if is_fit {
            Ok(())
        } else {
            Err(RecycleError::message("not to be used again"))
        }
    }
}

/// Leaves sessions that are too old or idle, and forgets peers without any, until the sender is
/// gone.
async fn sweep(kept: Weak<Kept>) {
    let mut ticks = interval_at(Instant::now() + SWEEP, SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(kept) = kept.upgrade() else { return };
        let mut left = Vec::new();
        kept.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, line| {
                left.extend(line.pool.retain(|session, _| session.is_good()).removed);
                let is_empty = line.pool.status().size == 0;
                let keep = !(is_empty && line.was_empty);
                line.was_empty = is_empty;
                keep
            });
        leave(left);
    }
}

/// Says farewell; only then another session with this peer may take its place, so that the peer
/// never has more of them than it may.
async fn leave_for_another(mut session: Object<Opener>) {
    session.quit().await;
    drop(Object::take(session));
}

/// Leaves sessions in whose place others come: they count no longer, and a peer that is slow to say
/// farewell is not waited for.
fn leave_soon(sessions: Vec<Session>) {
    for mut session in sessions {
        session.counts_no_longer();
        tokio::spawn(async move { timeout(FAREWELL_MAX, session.quit()).await });
    }
}

fn leave(sessions: Vec<Session>) {
    for mut session in sessions {
        tokio::spawn(async move { session.quit().await });
    }
}
