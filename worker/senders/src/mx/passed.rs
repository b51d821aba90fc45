//! Why a host was passed over, and what it comes to where no host would have us.

use domain::outcome::{Fault, FaultKind, Outcome, Side};

use super::hosts::Lookup;
use crate::smtp::stop::{Stop, Why, outcome_of};

/// Why a host, or one of its addresses, was passed over.
#[derive(Debug)]
pub(super) enum Passed {
    /// Where it is could not be found out.
    Unfound(Lookup),
    /// It cannot be reached, turns us away, or closes.
    Stopped(Stop),
    /// None of the route's sources is of its address's kind.
    Sourceless,
}

impl Passed {
    /// Of this and what was before, the one that says more; of two that say the same, this one.
    pub(super) fn or_rather(self, before: Option<Self>) -> Option<Self> {
        match before {
            Some(before) if before.weight() > self.weight() => Some(before),
            _ => Some(self),
        }
    }

    /// How much it says. A host's reply says most. Trouble of our own leaves open whether that host
    /// would have had us, so that nothing can be said of the others that would not. An address that
    /// we have no way to, or no source for, says something only if there is no other to try: a
    /// machine without IPv6 judges hosts by IPv4. A host without an address says least.
    fn weight(&self) -> u8 {
        match self {
            Self::Stopped(Stop {
                why: Why::Said(_), ..
            }) => 4,
            Self::Stopped(stop) if stop.is_no_way() => 1,
            Self::Stopped(Stop {
                why: Why::Broken(silence),
                ..
            }) if silence.is_ours() => 3,
            Self::Unfound(Lookup::Failed(Fault {
                side: Side::Ours, ..
            })) => 3,
            Self::Stopped(_) | Self::Unfound(Lookup::Failed(_)) => 2,
            Self::Sourceless => 1,
            Self::Unfound(_) => 0,
        }
    }

    /// What it comes to. A greeting of 5xx is not the last word about an address: servers say it
    /// while they are set up wrong, and so it counts as a host that cannot be reached.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Unfound(lookup) => lookup.outcome(),
            Self::Stopped(Stop {
                phase,
                why: Why::Said(reply),
            }) if reply.code.is_some_and(|code| code < 500) => outcome_of(phase, reply),
            Self::Stopped(stop) => Outcome::Unreachable(stop.fault(Side::Theirs)),
            Self::Sourceless => {
                let text =
                    "the route has no source of the kind of address that the domain's hosts have"
                        .to_owned();
                Outcome::Unreachable(Fault::ours(FaultKind::Local, text))
            }
        }
    }
}
