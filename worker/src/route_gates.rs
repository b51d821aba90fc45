//! The gates of routes. All mail of a route may go to one peer, such as a relay. If that peer
//! cannot be reached, one attempt shows it for all: the gate of the route closes, and its jobs are
//! held without a try. The peer is then probed without a message. When it can be reached again, the
//! gate opens, and the jobs that waited for it are due at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use classify::hint::hint;
use domain::exchange::Exchange;
use domain::outcome::{Fault, FaultKind, Outcome, Side};
use domain::transcript::Phase;
use senders::sender::Sender;
use store::handle::Store;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// The pause before the first probe of a peer, and the longest one. Each pause is twice as long as
/// the one before.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a probe may take.
const PROBE_MAX: Duration = Duration::from_secs(15);

/// A gate that was open for less than this has not recovered: the pause before the next probe goes
/// on growing, up to [`FLAPPING_PAUSE_MAX`], because each time all held jobs are released.
const FLAPPING: Duration = Duration::from_secs(60);
const FLAPPING_PAUSE_MAX: Duration = Duration::from_secs(300);

/// The gates of all routes of one worker. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct RouteGates(Arc<Shared>);

#[derive(Default)]
struct Shared {
    gates: Mutex<HashMap<String, Gate>>,
    /// Notified when a gate has closed, or when jobs are to be released.
    changed: Notify,
}

/// The gate of one route.
struct Gate {
    sender: Arc<dyn Sender>,
    state: State,
    /// The pause before the next probe.
    pause: Duration,
    opened_at: Option<Instant>,
}

enum State {
    /// No attempt was made yet. Jobs may wait since before this worker started.
    Unknown,
    Open,
    /// An attempt has reached the peer, and the jobs that wait for it have not been released yet.
    Opening,
    Closed {
        fault: Fault,
        probe_at: Instant,
    },
}

impl RouteGates {
    /// Adds the gate of a route whose mail all goes to one peer.
    pub(crate) fn add(&self, route: &str, sender: Arc<dyn Sender>) {
        self.gates().insert(route.to_owned(), Gate::new(sender));
    }

    /// Returns the fault that closed the gate of a route. `None` if it is open, or if the route has
    /// no gate.
    pub(crate) fn closed_by(&self, route: &str) -> Option<Fault> {
        match &self.gates().get(route)?.state {
            State::Closed { fault, .. } => Some(fault.clone()),
            State::Unknown | State::Open | State::Opening => None,
        }
    }

    /// Whether a job that is held after this outcome waits for the peer of the route. If the peer
    /// has named a time, the job waits for that time.
    pub(crate) fn waits_for_peer(&self, route: &str, outcome: &Outcome) -> bool {
        let waits = |fault: &Fault| is_about_peer(fault) && hint(&fault.text).is_none();
        matches!(outcome, Outcome::Unreachable(fault) if waits(fault))
            && self.gates().contains_key(route)
    }

    /// Records the outcome of an attempt on a route. Closes its gate if the peer was not reached.
    pub(crate) fn note(&self, route: &str, outcome: &Outcome, exchange: Option<&Exchange>) {
        let mut gates = self.gates();
        let Some(gate) = gates.get_mut(route) else {
            return;
        };
        match outcome {
            Outcome::Unreachable(fault) => {
                if !gate.is_closed() && shows_dead_peer(fault, exchange) {
                    gate.close(fault.clone(), Instant::now());
                    self.0.changed.notify_one();
                }
            }
            Outcome::Unreadable(_) => {}
            _ => {
                // An attempt that began before the gate closed says nothing about the peer now.
                if matches!(gate.state, State::Unknown) {
                    gate.state = State::Opening;
                    self.0.changed.notify_one();
                }
            }
        }
    }

    /// Probes the peers of closed gates, and releases the jobs that wait for a peer that can be
    /// reached again, until `stop` is cancelled.
    pub(crate) async fn run(self, store: Store, stop: CancellationToken) {
        let work = async {
            loop {
                self.probe_peers().await;
                self.release(&store).await;
                let next = self.next_probe_at();
                tokio::select! {
                    () = self.0.changed.notified() => {}
                    () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    fn next_probe_at(&self) -> Option<Instant> {
        let gates = self.gates();
        let due = gates.values().filter_map(|gate| match gate.state {
            State::Closed { probe_at, .. } => Some(probe_at),
            // The release failed, because the store did not answer.
            State::Opening => Some(Instant::now() + PAUSE_MIN),
            State::Unknown | State::Open => None,
        });
        due.min()
    }

    async fn probe_peers(&self) {
        let now = Instant::now();
        let due: Vec<(String, Arc<dyn Sender>)> = self
            .gates()
            .iter()
            .filter(
                |(_, gate)| matches!(gate.state, State::Closed { probe_at, .. } if probe_at <= now),
            )
            .map(|(route, gate)| (route.clone(), gate.sender.clone()))
            .collect();
        let probes = due.into_iter().map(async |(route, sender)| {
            let is_reached = timeout(PROBE_MAX, sender.probe()).await.unwrap_or(false);
            if let Some(gate) = self.gates().get_mut(&route) {
                gate.note_probe(is_reached, Instant::now());
            }
        });
        futures::future::join_all(probes).await;
    }

    /// Releases the jobs of all gates that are opening.
    async fn release(&self, store: &Store) {
        let opening: Vec<String> = self
            .gates()
            .iter()
            .filter(|(_, gate)| matches!(gate.state, State::Opening))
            .map(|(route, _)| route.clone())
            .collect();
        for route in opening {
            match store.release_route(&route).await {
                Ok(jobs) => {
                    if jobs > 0 {
                        tracing::info!(
                            route,
                            jobs,
                            "the server of a route can be reached again: jobs that waited for it \
                             are due now"
                        );
                    }
                    let mut gates = self.gates();
                    if let Some(gate) = gates.get_mut(&route)
                        && matches!(gate.state, State::Opening)
                    {
                        gate.state = State::Open;
                    }
                }
                // The worker's loop logs that the store does not answer. It is tried again soon.
                Err(err) => tracing::debug!(%err, route, "held jobs are not released yet"),
            }
        }
    }

    fn gates(&self) -> MutexGuard<'_, HashMap<String, Gate>> {
        self.0.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    fn new(sender: Arc<dyn Sender>) -> Self {
        Self {
            sender,
            state: State::Unknown,
            pause: PAUSE_MIN,
            opened_at: None,
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    fn close(&mut self, fault: Fault, now: Instant) {
        let was_open_for = self.opened_at.map(|at| now.duration_since(at));
        self.pause = match was_open_for {
            Some(span) if span < FLAPPING => (2 * self.pause).min(FLAPPING_PAUSE_MAX),
            _ => PAUSE_MIN,
        };
        let probe_at = now + self.pause;
        self.state = State::Closed { fault, probe_at };
    }

    /// Records a probe of the peer.
    fn note_probe(&mut self, is_reached: bool, now: Instant) {
        let State::Closed { probe_at, .. } = &mut self.state else {
            return;
        };
        if is_reached {
            self.state = State::Opening;
            self.opened_at = Some(now);
        } else {
            // A gate that opens and closes again and again keeps its longer pause.
            if self.pause < PAUSE_MAX {
                self.pause = (2 * self.pause).min(PAUSE_MAX);
            }
            *probe_at = now + self.pause;
        }
    }
}

/// Whether a fault on our side means that the peer cannot be reached, whatever the message. If the
/// conversation had come to the message, the message may be the cause.
fn shows_dead_peer(fault: &Fault, exchange: Option<&Exchange>) -> bool {
    let is_before_message = match exchange {
        Some(Exchange::Smtp(transcript)) => !matches!(
            transcript.phase,
            Phase::Mail | Phase::Rcpt | Phase::Data | Phase::Dot
        ),
        _ => fault.kind != FaultKind::Lost,
    };
    is_before_message && is_about_peer(fault)
}

/// Whether a fault is on our side, and between this machine and the peer.
fn is_about_peer(fault: &Fault) -> bool {
    let is_between = match fault.kind {
        FaultKind::Lookup
        | FaultKind::Connect
        | FaultKind::Tls
        | FaultKind::Lost
        | FaultKind::NotSmtp => true,
        // This machine has no way to the peer, which is no shortage of files.
        FaultKind::Local => fault.name.is_some() && !fault.is_shortage(),
        FaultKind::Unanswered => false,
    };
    fault.side == Side::Ours && is_between
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use domain::reply::Reply;
    use domain::transcript::Transcript;
    use senders::attempt::Attempt;

    use super::*;

    struct NoPeer;

    #[async_trait]
    impl Sender for NoPeer {
        async fn send(&self, _: &Attempt) -> Outcome {
            refused()
        }

        fn has_one_peer(&self) -> bool {
            true
        }
    }

    fn refused() -> Outcome {
        Outcome::Unreachable(Fault::ours(FaultKind::Connect, "refused".to_owned()))
    }

    fn exchange(phase: Phase) -> Exchange {
        Exchange::Smtp(Transcript {
            phase,
            ..Transcript::default()
        })
    }

    fn gates() -> RouteGates {
        let gates = RouteGates::default();
        gates.add("relay", Arc::new(NoPeer));
        gates
    }

    #[test]
    fn only_a_failure_before_the_message_closes_the_gate() {
        let ours = |kind| Outcome::Unreachable(Fault::ours(kind, String::new()));
        for (outcome, phase, closes) in [
            (ours(FaultKind::Connect), Phase::Connect, true),
            (ours(FaultKind::Lookup), Phase::Lookup, true),
            (ours(FaultKind::Tls), Phase::Tls, true),
            (ours(FaultKind::Lost), Phase::Greeting, true),
            (ours(FaultKind::Connect), Phase::Auth, true),
            (ours(FaultKind::Lost), Phase::Data, false),
            (ours(FaultKind::Connect), Phase::Rcpt, false),
            (ours(FaultKind::Unanswered), Phase::Dot, false),
            // Our own limit of connections.
            (ours(FaultKind::Local), Phase::Connect, false),
            (
                Outcome::Unreachable(Fault::theirs(FaultKind::Connect, String::new())),
                Phase::Connect,
                false,
            ),
            (
                Outcome::Deferred(Reply::parse("450 4.2.1 busy")),
                Phase::Rcpt,
                false,
            ),
        ] {
            let gates = gates();
            gates.note("relay", &outcome, Some(&exchange(phase)));
            gates.note("direct", &outcome, Some(&exchange(phase)));
            assert_eq!(gates.closed_by("relay").is_some(), closes, "{outcome:?}");
            assert!(gates.closed_by("direct").is_none(), "it has no one peer");
        }
    }

    #[test]
    fn a_job_whose_peer_has_named_a_time_waits_for_that_time_and_not_for_the_peer() {
        let gates = gates();
        for (text, waits) in [
            ("greeting was refused: 421 4.3.2 shutting down", true),
            (
                "rcpt was refused: 421 4.7.0 busy, try again in 40 minutes",
                false,
            ),
        ] {
            let outcome = Outcome::Unreachable(Fault::ours(FaultKind::Connect, text.to_owned()));
            assert_eq!(gates.waits_for_peer("relay", &outcome), waits, "{text}");
        }
    }

    #[test]
    fn a_gate_that_opens_and_closes_again_and_again_is_probed_ever_more_rarely() {
        let fault = || Fault::ours(FaultKind::Connect, "refused".to_owned());
        let mut gate = Gate::new(Arc::new(NoPeer));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            gate.close(fault(), now);
            pauses.push(gate.pause.as_secs());
            now += gate.pause;
            gate.note_probe(true, now);
        }
        assert_eq!(pauses[..4], [1, 2, 4, 8]);
        assert_eq!(pauses[11], FLAPPING_PAUSE_MAX.as_secs());
        gate.close(fault(), now + FLAPPING);
        assert_eq!(gate.pause, PAUSE_MIN, "it was open for long");
    }

    #[test]
    fn a_peer_that_stays_away_is_probed_every_few_seconds() {
        let mut gate = Gate::new(Arc::new(NoPeer));
        let mut now = Instant::now();
        gate.close(Fault::ours(FaultKind::Connect, String::new()), now);
        for pause in [1, 2, 4, 5, 5] {
            assert_eq!(gate.pause, Duration::from_secs(pause));
            now += gate.pause;
            gate.note_probe(false, now);
        }
        assert!(gate.is_closed());
    }
}
