//! The connections of a listener: how many there may be, in all and of one peer, and which one has
//! to leave for another. If all places are taken, the connection that has been idle for longest
//! gives its place up, so that connections on which nothing happens keep no request out. A few
//! places more are for health checks, and for saying no.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit};
use tokio_util::sync::CancellationToken;

pub mod accept;
pub mod http;
mod patient;

/// How many leading bits of an IPv6 address make a peer: one customer of a provider has at least
/// such a network.
const PEER_PREFIX_V6: u8 = 64;

/// How many file descriptors a process has at least, if the system does not tell.
const DESCRIPTORS: u64 = 256;

/// How many connections are kept for health checks.
const RESERVE: usize = 16;

/// How many connections there may be.
#[derive(Clone, Debug)]
pub struct Places {
    /// In all.
    pub max: usize,
    /// Of one peer.
    pub per_peer: usize,
    /// Beyond these, for health checks.
    pub reserve: usize,
    /// The networks of proxies that many clients come through: they have no limit of their own.
    pub trusted: Vec<IpNet>,
}

impl Places {
    /// Those of a scheduler. What is not configured comes from the file descriptors that the
    /// process may have.
    pub fn of_the_scheduler(settings: &config::connections::Connections) -> Self {
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

/// Counts the connections of a listener, and says who may come in.
#[derive(Debug)]
pub struct Gate {
    places: Places,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    peers: HashMap<IpAddr, usize>,
    /// The idle connections, by how long they have been so: the first one for longest.
    idle: BTreeMap<u64, Idle>,
    /// The connections of the reserve, the oldest first.
    reserve: BTreeMap<u64, CancellationToken>,
    /// Numbers given out so far.
    number: u64,
}

#[derive(Debug)]
struct Idle {
    peer: IpAddr,
    leave: CancellationToken,
}

/// The place of one connection. It is free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    gate: Arc<Gate>,
    peer: IpAddr,
    /// Its number among the idle ones, or in the reserve.
    number: AtomicU64,
    is_reserve: bool,
    leave: CancellationToken,
    /// Counts up with each step of a request; what is left of a division by three is the [`Step`].
    steps: AtomicU64,
}

/// How far the request of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// None has begun.
    Waiting,
    /// Something of its head has been read.
    Head,
    /// It is being answered.
    UnderWay,
}

/// A request that is being answered: its connection does not have to leave. It is idle again when
/// this is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Seat>);

impl Gate {
    /// One for so many connections.
    pub fn new(places: Places) -> Arc<Self> {
        Arc::new(Self {
            places,
            state: Mutex::default(),
        })
    }

    /// The place of a new connection from this address, which is idle at first; `None` if there is
    /// none.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Seat>> {
        let address = address.to_canonical();
        let peer = peer(address);
        let has_limit = !self
            .places
            .trusted
            .iter()
            .any(|network| network.contains(&address));
        let mut state = self.state();
        let is_crowded = has_limit
            && state
                .peers
                .get(&peer)
                .is_some_and(|count| *count >= self.places.per_peer);
        let has_room = if is_crowded {
            state.make_room(|idle| idle.peer == peer)
        } else {
            state.taken < self.places.max || state.make_room(|_| true)
        };
        if !has_room && self.places.reserve == 0 {
            return None;
        }
        let leave = CancellationToken::new();
        state.number += 1;
        let number = state.number;
        if has_room {
            state.taken += 1;
            *state.peers.entry(peer).or_default() += 1;
            state.idle.insert(
                number,
                Idle {
                    peer,
                    leave: leave.clone(),
                },
            );
        } else {
            if state.reserve.len() >= self.places.reserve
                && let Some((_, oldest)) = state.reserve.pop_first()
            {
                oldest.cancel();
            }
            state.reserve.insert(number, leave.clone());
        }
        let (number, steps) = (number.into(), AtomicU64::new(0));
        Some(Arc::new(Seat {
            gate: self.clone(),
            peer,
            number,
            is_reserve: !has_room,
            leave,
            steps,
        }))
    }

    /// Makes the connection leave that has been idle for longest. False if there is none.
    pub fn make_room(&self) -> bool {
        self.state().make_room(|_| true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Frees the place of the connection that has been idle for longest among those that fit.
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
        idle.leave.cancel();
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

impl Seat {
    /// Ends when the connection has to leave.
    pub async fn has_to_leave(&self) {
        self.leave.cancelled().await;
    }

    /// Whether it is a place of the reserve.
    pub fn is_reserve(&self) -> bool {
        self.is_reserve
    }

    /// A request begins to be answered.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.advance(Step::UnderWay);
        self.gate
            .state()
            .idle
            .remove(&self.number.load(Ordering::Relaxed));
        UnderWay(self.clone())
    }

    /// Bytes have come: if no request is under way, they begin one.
    fn note_bytes(&self) {
        if self.step().1 == Step::Waiting {
            self.advance(Step::Head);
        }
    }

    /// The step, and a number that no other step of this connection has.
    fn step(&self) -> (u64, Step) {
        let steps = self.steps.load(Ordering::Relaxed);
        let step = match steps % 3 {
            0 => Step::Waiting,
            1 => Step::Head,
            _ => Step::UnderWay,
        };
        (steps, step)
    }

    /// Goes on to this step. The task of the connection alone does so, or what it has handed a
    /// request to.
    fn advance(&self, to: Step) {
        while self.step().1 != to {
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_idle_again(&self) {
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
                leave: self.leave.clone(),
            },
        );
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // One that was told to leave just before has no place any more.
        if !self.0.leave.is_cancelled() {
            self.0.is_idle_again();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        let number = self.number.load(Ordering::Relaxed);
        if self.is_reserve {
            state.reserve.remove(&number);
        } else if !self.leave.is_cancelled() {
            state.idle.remove(&number);
            state.free(self.peer);
        }
    }
}

/// Which addresses count as one.
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
        Gate::new(Places {
            max,
            per_peer,
            reserve,
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
        })
    }

    fn from(gate: &Arc<Gate>, address: &str) -> Option<Arc<Seat>> {
        gate.admit(address.parse().unwrap())
    }

    #[test]
    fn the_connection_that_has_been_idle_for_longest_gives_its_place_up() {
        let gate = gate(3, 3, 0);
        let seats: Vec<_> = (1..=3)
            .map(|n| from(&gate, &format!("192.0.2.{n}")).unwrap())
            .collect();
        // The first one has been busy, so the second has been idle for longest.
        drop(seats[0].begin());
        let fourth = from(&gate, "192.0.2.4").unwrap();
        let gone: Vec<bool> = seats.iter().map(|seat| seat.leave.is_cancelled()).collect();
        assert_eq!(gone, [false, true, false]);
        let busy: Vec<_> = [&seats[0], &seats[2], &fourth]
            .map(Seat::begin)
            .into_iter()
            .collect();
        assert!(from(&gate, "192.0.2.5").is_none(), "nobody is idle");
        drop(busy);
        assert!(from(&gate, "192.0.2.5").is_some());
        drop((seats, fourth));
        let state = gate.state();
        assert_eq!(
            (state.taken, state.peers.len(), state.idle.len()),
            (0, 0, 0),
            "all places are free again"
        );
    }

    #[test]
    fn a_peer_has_its_share_and_takes_no_place_of_others() {
        let gate = gate(5, 2, 0);
        let other = from(&gate, "192.0.2.9").unwrap();
        let seats: Vec<_> = (0..2).map(|_| from(&gate, "192.0.2.1").unwrap()).collect();
        let third = from(&gate, "::ffff:192.0.2.1").unwrap();
        assert!(seats[0].leave.is_cancelled() && !other.leave.is_cancelled());
        let busy = [seats[1].begin(), third.begin()];
        assert!(from(&gate, "192.0.2.1").is_none());
        let of_one_network: Vec<_> = (1..=2)
            .filter_map(|n| from(&gate, &format!("2001:db8::{n}")))
            .collect();
        assert_eq!(of_one_network.len(), 2);
        assert!(from(&gate, "2001:db8::3").is_some() && of_one_network[0].leave.is_cancelled());
        drop(busy);
    }

    #[test]
    fn a_trusted_proxy_may_have_all_places() {
        let gate = gate(3, 1, 0);
        let seats: Vec<_> = (0..3).map(|_| from(&gate, "10.1.2.3").unwrap()).collect();
        assert!(seats.iter().all(|seat| !seat.leave.is_cancelled()));
    }

    #[test]
    fn the_reserve_is_there_if_all_are_busy_and_its_oldest_leaves_for_the_next() {
        let gate = gate(1, 1, 2);
        let only = from(&gate, "192.0.2.1").unwrap();
        let _busy = only.begin();
        let reserve: Vec<_> = (0..3).map(|_| from(&gate, "192.0.2.2").unwrap()).collect();
        assert!(reserve.iter().all(|seat| seat.is_reserve()));
        drop(reserve[2].begin());
        let gone: Vec<bool> = reserve
            .iter()
            .map(|seat| seat.leave.is_cancelled())
            .collect();
        assert_eq!(gone, [true, false, false]);
        drop(reserve);
        assert_eq!(gate.state().reserve.len(), 0);
    }
}
