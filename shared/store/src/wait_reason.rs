//! What a job waits for: what a claim would find, in the order that it would find it (`allowance`
//! in `pace.lua`).

use domain::clock::Timestamp;
use domain::destination::Destination;

use crate::destination_controls::{BreakerState, Hold, PaceReport};
use crate::handle::Store;

/// What a job waits for. Of several things the one that lasts longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// An attempt is under way, until its lease ends at the latest; none where that is not known.
    Attempt(Option<Timestamp>),
    /// An operator, who takes it out of quarantine.
    Operator,
    /// An operator's hold on its destination to end.
    Hold(Hold),
    /// Its destination's breaker: until then no attempt goes out; none: one is out, and the others
    /// wait for what it brings.
    Breaker(Option<Timestamp>),
    /// A bounce of what a relay took. When none has come by then it counts as delivered.
    Silence(Timestamp),
    /// The instant from which it is due.
    Due(Timestamp),
    /// Room at its destination: as many attempts are under way there as may be.
    Window,
    /// Its destination's rate: the next attempt may go out then.
    Rate(Timestamp),
    /// Its turn: nothing is in its way, and a worker takes it soon.
    Turn,
    /// A worker: nothing else is in its way, and none is running.
    Worker,
}

impl WaitsFor {
    /// The word used in answers.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Attempt(_) => "attempt",
            Self::Operator => "operator",
            Self::Hold(_) => "hold",
            Self::Breaker(_) => "breaker",
            Self::Silence(_) => "silence",
            Self::Due(_) => "due",
            Self::Window => "window",
            Self::Rate(_) => "rate",
            Self::Turn => "turn",
            Self::Worker => "worker",
        }
    }

    /// Until when; none where nobody can say.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Attempt(until) | Self::Breaker(until) => *until,
            Self::Hold(hold) => hold.until,
            Self::Silence(until) | Self::Due(until) | Self::Rate(until) => Some(*until),
            Self::Operator | Self::Window | Self::Turn | Self::Worker => None,
        }
    }
}

impl Store {
    /// What a job waits for that is due at `due`, at a destination with this pace. `is_accepted`
    /// says that a relay took what it has. Never [`WaitsFor::Worker`]: that its pace does not say.
    pub(crate) fn waits_for(
        &self,
        destination: &Destination,
        pace: &PaceReport,
        due: Timestamp,
        is_accepted: bool,
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
            _ if due > now && is_accepted => return WaitsFor::Silence(due),
            _ if due > now => return WaitsFor::Due(due),
            BreakerState::HalfOpen { .. } => return WaitsFor::Breaker(None),
            // It may be the one attempt that goes out, which neither window nor rate keeps back.
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
