//! Why hosts were skipped, and the outcome if no host accepted the message.

use domain::outcome::{Fault, FaultKind, Outcome, Side};

use super::hosts::LookupError;
use crate::smtp::stop::{Stop, Why, outcome_of};

/// Why a host, or one of its addresses, was skipped.
#[derive(Debug)]
pub(super) enum SkippedHost {
    /// Its address was not found.
    NotFound(LookupError),
    /// It cannot be reached, rejects us, or closes the connection.
    Stopped(Stop),
    /// The route has no source address of the family (IPv4 or IPv6) of the host's address.
    NoSource,
}

impl SkippedHost {
    /// Returns the more informative of this reason and the previous one. If both are equal, returns
    /// this one.
    pub(super) fn or_more_informative(self, before: Option<Self>) -> Option<Self> {
        match before {
            Some(before) if before.weight() > self.weight() => Some(before),
            _ => Some(self),
        }
    }

    /// Returns how informative this reason is; a higher number is more informative. A host's reply
    /// is the most informative. After a failure on our own side it is unknown whether that host
    /// would have accepted the message, so such a failure outweighs failures of other hosts. An
    /// address that we have no route to, or no source for, counts only if nothing else could be
    /// tried. So a machine without IPv6 judges hosts by IPv4. A host without an address counts
    /// least.
    fn weight(&self) -> u8 {
        match self {
            Self::Stopped(Stop {
                why: Why::NegativeReply(_),
                ..
            }) => 4,
            Self::Stopped(stop) if stop.is_unroutable() => 1,
            Self::Stopped(Stop {
                why: Why::Broken(no_reply),
                ..
            }) if no_reply.is_ours() => 3,
            Self::NotFound(LookupError::Failed(Fault {
                side: Side::Ours, ..
            })) => 3,
            Self::Stopped(_) | Self::NotFound(LookupError::Failed(_)) => 2,
            Self::NoSource => 1,
            Self::NotFound(_) => 0,
        }
    }

    /// Returns the outcome. A 5xx greeting is no final answer about an address, because
    /// misconfigured servers send it. So a host that sends one counts as unreachable.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::NotFound(lookup) => lookup.outcome(),
            Self::Stopped(Stop {
                phase,
                why: Why::NegativeReply(reply),
            }) if reply.code.is_some_and(|code| code < 500) => outcome_of(phase, reply),
            Self::Stopped(stop) => Outcome::Unreachable(stop.fault(Side::Theirs)),
            Self::NoSource => {
                let text = "the route has no source of the address family of the domain's hosts"
                    .to_owned();
                Outcome::Unreachable(Fault::ours(FaultKind::Local, text))
            }
        }
    }
}
