//! The connections of a listener: how many are allowed, in all and from one peer, and which one is
//! closed to make room for another. If all places are taken, the connection that has been idle for
//! longest is closed, so that idle connections never keep a request out. A reserve of a few more
//! places is for health checks, and for the answer that there is no room.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit};
use tokio_util::sync::CancellationToken;

pub mod accept;
pub mod http;
mod timed_stream;

/// How many leading bits of an IPv6 address identify a peer. One customer of a provider has at
/// least such a network.
const PEER_PREFIX_V6: u8 = 64;

/// How many file descriptors are assumed if the system does not report the limit.
const DESCRIPTORS: u64 = 256;

/// How many connections are reserved for health checks.
const RESERVE: usize = 16;

/// How many connections are allowed.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// In all.
    pub max: usize,
    /// From one peer.
    pub per_peer: usize,
    /// In addition to `max`, for health checks.
    pub reserve: usize,
    /// The networks of proxies that forward many clients. They have no limit per peer.
    pub trusted: Vec<IpNet>,
}

impl ConnectionLimits {
    /// The limits of a scheduler. Numbers that are not configured are derived from the limit on
    /// file descriptors.
    pub fn from_config(settings: &config::connections::Connections) -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(DESCRIPTORS, |(soft, _)| soft);
        let max = settings.max_for(descriptors);
        let per_peer = settings.per_peer_of(max);
        Self {
            max,
            per_peer,
            reserve: RESERVE,
            trusted: settings.trusted_proxies.clone(),
        }
    }
}

/// Counts the connections of a listener, and decides which new ones are admitted.
#[derive(Debug)]
pub struct Gate {
    limits: ConnectionLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    peers: HashMap<IpAddr, usize>,
    /// The idle connections. The first one has been idle for longest.
    idle: BTreeMap<u64, Idle>,
    /// The connections in the reserve, the oldest first.
    reserve: BTreeMap<u64, CancellationToken>,
    /// The number that was assigned last.
    number: u64,
}

#[derive(Debug)]
struct Idle {
    peer: IpAddr,
    close_signal: CancellationToken,
}

/// The place of one connection. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    peer: IpAddr,
    /// Its key in the map of idle connections, or in the one of the reserve.
    number: AtomicU64,
    is_reserve: bool,
    close_signal: CancellationToken,
    /// Increases with each step of a request. The remainder after division by three is the
    /// [`Step`].
    steps: AtomicU64,
}

/// How far the request of a connection has progressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// No request has begun.
    Waiting,
    /// A part of its head has been read.
    Head,
    /// The request is being answered.
    Answering,
}

/// A request that is being answered. Until this is dropped, its connection is not closed to make
/// room. Then the connection is idle again.
#[derive(Debug)]
pub struct Busy(Arc<Place>);

impl Gate {
    /// A gate with these limits.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
        })
    }

    /// Admits a new connection from this address, which is idle at first. Returns `None` if there
    /// is no place for it, not even in the reserve.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Place>> {
        let address = address.to_canonical();
        let peer = peer(address);
        let has_limit = !self
            .limits
            .trusted
            .iter()
            .any(|network| network.contains(&address));
        let mut state = self.state();
        let is_crowded = has_limit
            && state
                .peers
                .get(&peer)
                .is_some_and(|count| *count >= self.limits.per_peer);
        let has_room = if is_crowded {
            state.make_room(|idle| idle.peer == peer)
        } else {
            state.taken < self.limits.max || state.make_room(|_| true)
        };
        if !has_room && self.limits.reserve == 0 {
            return None;
        }
        let close_signal = CancellationToken::new();
        state.number += 1;
        let number = state.number;
        if has_room {
            state.taken += 1;
            *state.peers.entry(peer).or_default() += 1;
            state.idle.insert(
                number,
                Idle {
                    peer,
                    close_signal: close_signal.clone(),
                },
            );
        } else {
            if state.reserve.len() >= self.limits.reserve
                && let Some((_, oldest)) = state.reserve.pop_first()
            {
                oldest.cancel();
            }
            state.reserve.insert(number, close_signal.clone());
        }
        let (number, steps) = (number.into(), AtomicU64::new(0));
        Some(Arc::new(Place {
            gate: self.clone(),
            peer,
            number,
            is_reserve: !has_room,
            close_signal,
            steps,
        }))
    }

    /// Closes the connection that has been idle for longest. Returns false if none is idle.
    pub fn make_room(&self) -> bool {
        self.state().make_room(|_| true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Closes the connection that has been idle for longest, of those for which `fits` is true, and
    /// frees its place. Returns false if there is none.
    fn make_room(&mut self, fits: impl Fn(&Idle) -> bool) -> bool {
        let Some(number) = self
            .idle
            .iter()
            .find(|(_, idle)| fits(idle))
            .map(|(number, _)| *number)
        else {
            return false;
        };
        let idle = self.idle.remove(&number).expect("it was found there");
        idle.close_signal.cancel();
        self.free(idle.peer);
        true
    }

    fn free(&mut self, peer: IpAddr) {
        self.taken -= 1;
        if let Some(count) = self.peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}

impl Place {
    /// Waits until the connection must be closed to make room.
    pub async fn must_close(&self) {
        self.close_signal.cancelled().await;
    }

    /// Whether this is a place in the reserve.
    pub fn is_reserve(&self) -> bool {
        self.is_reserve
    }

    /// Marks the connection as busy: a request is being answered.
    pub fn set_busy(self: &Arc<Self>) -> Busy {
        self.advance(Step::Answering);
        self.gate
            .state()
            .idle
            .remove(&self.number.load(Ordering::Relaxed));
        Busy(self.clone())
    }

    /// Records that bytes have arrived. If no request has begun, they begin one.
    fn record_bytes(&self) {
        if self.step().1 == Step::Waiting {
            self.advance(Step::Head);
        }
    }

    /// Returns the step, and a number that no other step of this connection has.
    fn step(&self) -> (u64, Step) {
        let steps = self.steps.load(Ordering::Relaxed);
        let step = match steps % 3 {
            0 => Step::Waiting,
            1 => Step::Head,
            _ => Step::Answering,
        };
        (steps, step)
    }

    /// Advances to this step. Only the task of the connection calls this, or the code to which that
    /// task has handed a request.
    fn advance(&self, to: Step) {
        while self.step().1 != to {
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn set_idle(&self) {
        self.advance(Step::Waiting);
        if self.is_reserve {
            return;
        }
        let mut state = self.gate.state();
        state.number += 1;
        let number = state.number;
        self.number.store(number, Ordering::Relaxed);
        state.idle.insert(
            number,
            Idle {
                peer: self.peer,
                close_signal: self.close_signal.clone(),
            },
        );
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // A connection that must be closed has lost its place already.
        if !self.0.close_signal.is_cancelled() {
            self.0.set_idle();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        let number = self.number.load(Ordering::Relaxed);
        if self.is_reserve {
            state.reserve.remove(&number);
        } else if !self.close_signal.is_cancelled() {
            state.idle.remove(&number);
            state.free(self.peer);
        }
    }
}

/// Returns the peer of an address. All addresses of a peer count together.
fn peer(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(_) => {
            IpNet::new(address, PEER_PREFIX_V6).map_or(address, |network| network.network())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(max: usize, per_peer: usize, reserve: usize) -> Arc<Gate> {
        Gate::new(ConnectionLimits {
            max,
            per_peer,
            reserve,
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
        })
    }

    fn from(gate: &Arc<Gate>, address: &str) -> Option<Arc<Place>> {
        gate.admit(address.parse().unwrap())
    }

    #[test]
    fn the_connection_that_has_been_idle_for_longest_is_closed_for_a_new_one() {
        let gate = gate(3, 3, 0);
        let places: Vec<_> = (1..=3)
            .map(|n| from(&gate, &format!("192.0.2.{n}")).unwrap())
            .collect();
        // The first one was busy for a moment, so the second has been idle for longest.
        drop(places[0].set_busy());
        let fourth = from(&gate, "192.0.2.4").unwrap();
        let closed: Vec<bool> = places
            .iter()
            .map(|place| place.close_signal.is_cancelled())
            .collect();
        assert_eq!(closed, [false, true, false]);
        let busy: Vec<_> = [&places[0], &places[2], &fourth]
            .map(Place::set_busy)
            .into_iter()
            .collect();
        assert!(from(&gate, "192.0.2.5").is_none(), "no connection is idle");
        drop(busy);
        assert!(from(&gate, "192.0.2.5").is_some());
        drop((places, fourth));
        let state = gate.state();
        assert_eq!(
            (state.taken, state.peers.len(), state.idle.len()),
            (0, 0, 0),
            "all places are free again"
        );
    }

    #[test]
    fn a_peer_at_its_limit_replaces_only_its_own_connections() {
        let gate = gate(5, 2, 0);
        let other = from(&gate, "192.0.2.9").unwrap();
        let places: Vec<_> = (0..2).map(|_| from(&gate, "192.0.2.1").unwrap()).collect();
        let third = from(&gate, "::ffff:192.0.2.1").unwrap();
        assert!(places[0].close_signal.is_cancelled() && !other.close_signal.is_cancelled());
        let busy = [places[1].set_busy(), third.set_busy()];
        assert!(from(&gate, "192.0.2.1").is_none());
        let of_one_network: Vec<_> = (1..=2)
            .filter_map(|n| from(&gate, &format!("2001:db8::{n}")))
            .collect();
        assert_eq!(of_one_network.len(), 2);
        assert!(
            from(&gate, "2001:db8::3").is_some() && of_one_network[0].close_signal.is_cancelled()
        );
        drop(busy);
    }

    #[test]
    fn a_trusted_proxy_has_no_limit_per_peer() {
        let gate = gate(3, 1, 0);
        let places: Vec<_> = (0..3).map(|_| from(&gate, "10.1.2.3").unwrap()).collect();
        assert!(
            places
                .iter()
                .all(|place| !place.close_signal.is_cancelled())
        );
    }

    #[test]
    fn if_all_are_busy_the_reserve_is_used_and_its_oldest_connection_is_closed_for_the_next() {
        let gate = gate(1, 1, 2);
        let only = from(&gate, "192.0.2.1").unwrap();
        let _busy = only.set_busy();
        let reserve: Vec<_> = (0..3).map(|_| from(&gate, "192.0.2.2").unwrap()).collect();
        assert!(reserve.iter().all(|place| place.is_reserve()));
        drop(reserve[2].set_busy());
        let closed: Vec<bool> = reserve
            .iter()
            .map(|place| place.close_signal.is_cancelled())
            .collect();
        assert_eq!(closed, [true, false, false]);
        drop(reserve);
        assert_eq!(gate.state().reserve.len(), 0);
    }
}
