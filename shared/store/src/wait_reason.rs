//! What a job waits for: the reasons that a claim would find, in the same order (`allowance` in
//! `pace.lua`).

use domain::clock::Timestamp;
use domain::destination::Destination;

use crate::destination_controls::{BreakerState, Hold, PaceReport};
use crate::handle::Store;

/// What a job waits for. If there are several reasons, this is the one that lasts longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// For the attempt that is under way. Its lease ends at this instant; none if that is unknown.
    Attempt(Option<Timestamp>),
    /// For an operator to take it out of quarantine.
    Operator,
    /// For the end of an operator's hold on its destination.
    Hold(Hold),
    /// For its destination's breaker. No attempt goes out until this instant. None: one attempt is
    /// out, and the others wait for its result.
    Breaker(Option<Timestamp>),
    /// For a bounce of a message that a relay accepted. If none comes until this instant, the
    /// message counts as delivered.
    Confirmation(Timestamp),
    /// For the instant from which it is due.
    Due(Timestamp),
    /// Until the peer of this route can be reached again, but not after this instant: then the job
    /// is due in any case.
    Route(String, Timestamp),
    /// For room at its destination: as many attempts are under way there as may be.
    Window,
    /// For its destination's rate: the next attempt may go out at this instant.
    Rate(Timestamp),
    /// For its turn: nothing holds it up, and a worker takes it soon.
    Turn,
    /// For a worker: nothing else holds it up, but no worker is running.
    Worker,
}

impl WaitsFor {
    /// Returns the word used in answers.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Attempt(_) => "attempt",
            Self::Operator => "operator",
            Self::Hold(_) => "hold",
            Self::Breaker(_) => "breaker",
            Self::Confirmation(_) => "silence",
            Self::Due(_) => "due",
            Self::Route(..) => "route",
            Self::Window => "window",
            Self::Rate(_) => "rate",
            Self::Turn => "turn",
            Self::Worker => "worker",
        }
    }

    /// Returns until when it waits; none if that is unknown.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Attempt(until) | Self::Breaker(until) => *until,
            Self::Hold(hold) => hold.until,
            Self::Confirmation(until)
            | Self::Due(until)
            | Self::Route(_, until)
            | Self::Rate(until) => Some(*until),
            Self::Operator | Self::Window | Self::Turn | Self::Worker => None,
        }
    }
}

impl Store {
    /// Returns what a job waits for that is due at `due`, at a destination with this pace.
    /// `is_accepted` means that a relay accepted its message. `dead_route` is the route whose peer
    /// the job waits for. Never returns [`WaitsFor::Worker`], because the pace does not show it.
    pub(crate) fn waits_for(
        &self,
        destination: &Destination,
        pace: &PaceReport,
        due: Timestamp,
        is_accepted: bool,
        dead_route: Option<&str>,
    ) -> WaitsFor {
        let now = self.clock.now();
        let from = now.max(due);
        if let Some(hold) = pace.hold_at(from) {
            return WaitsFor::Hold(hold.clone());
        }
        match pace.breaker {
            BreakerState::Open { until, .. } if until > from => {
                return WaitsFor::Breaker(Some(until));
            }
            _ if due > now => {
                return match dead_route {
                    Some(route) => WaitsFor::Route(route.to_owned(), due),
                    None if is_accepted => WaitsFor::Confirmation(due),
                    None => WaitsFor::Due(due),
                };
            }
            BreakerState::HalfOpen { .. } => return WaitsFor::Breaker(None),
            // The job may be the one attempt that goes out. Neither window nor rate holds that one
            // back.
            BreakerState::Open { .. } => return WaitsFor::Turn,
            BreakerState::Closed => {}
        }
        if self.window_in_force(destination, pace) <= pace.in_flight {
            return WaitsFor::Window;
        }
        let (limits, _) = self.limits_in_force(destination, pace);
        match pace.next_token(limits, now) {
            Some(at) if at > now => WaitsFor::Rate(at),
            _ => WaitsFor::Turn,
        }
    }
}
