//! Decides when a fault explains an observation that would otherwise be a violation.

use crate::breaking::aftermath_ms;
use crate::fault::Kind;
use crate::options::Shape;
use crate::record::{Evidence, Fault, Ms, Skew};

/// A process that continues after SIGSTOP may finish what it had begun, for this long: some bytes
/// are on their way, and it had checked its clock just before it was suspended.
const WAKING_MS: Ms = 500;

/// How late a change of a server's clock may be recorded.
const TICK_MS: Ms = 50;

/// How long it takes at most to settle an attempt after the answer to its message, if nothing
/// delays it.
pub(super) const SETTLED_MS: Ms = 2_000;

/// How long after a route is back an answer, or the end of a connection, may still be missing.
const ROUTED_MS: Ms = 5_000;

/// The faults of a run. The methods answer what these faults explain.
pub(super) struct Excuses<'a> {
    faults: &'a [Fault],
    skews: &'a [Skew],
    shape: Shape,
    aftermath_ms: Ms,
}

impl<'a> Excuses<'a> {
    pub(super) fn of(evidence: &'a Evidence) -> Self {
        let shape = evidence.run.shape;
        let aftermath_ms = aftermath_ms(!shape.has_links());
        Self {
            faults: &evidence.faults,
            skews: &evidence.skews,
            shape,
            aftermath_ms,
        }
    }

    /// Whether an attempt of this life, in flight from `from` to `to`, may be repeated because of a
    /// fault in that time.
    pub(super) fn may_repeat_attempt(&self, life: &str, from: Ms, to: Ms) -> bool {
        self.explains(life, from, to, |_| true)
    }

    /// Whether this life may have worked between these times with leases that it no longer had: it
    /// was suspended, or its servers had lost the leases. A killed life does not continue.
    pub(super) fn may_have_outdated_lease(&self, life: &str, from: Ms, to: Ms) -> bool {
        self.explains(life, from, to, |kind| {
            !matches!(kind, Kind::Kill | Kind::NoRoute)
        }) || self.arrived_late(life, from, to)
    }

    /// Whether data of this life may have arrived between these times, although the life had ended.
    /// It was killed while there was no route, and the system sent the data again when the route
    /// was back.
    fn arrived_late(&self, life: &str, from: Ms, to: Ms) -> bool {
        let no_route = self
            .faults
            .iter()
            .filter(|fault| fault.kind == Kind::NoRoute);
        let mut late = no_route.filter(|fault| fault.at <= to && from <= fault.until + ROUTED_MS);
        late.any(|gap| {
            let is_killed =
                |fault: &&Fault| fault.kind == Kind::Kill && fault.life.as_deref() == Some(life);
            self.faults
                .iter()
                .filter(is_killed)
                .any(|kill| (gap.at..=gap.until).contains(&kill.at))
        })
    }

    fn explains(&self, life: &str, from: Ms, to: Ms, counts: impl Fn(Kind) -> bool) -> bool {
        self.faults
            .iter()
            .filter(|fault| counts(fault.kind))
            .any(|fault| {
                let may_repeat = fault.lost_since.is_some()
                    || fault.kind.may_repeat_attempt(fault.until - fault.at);
                let is_affected = fault.life.as_deref().is_none_or(|of| of == life);
                let after = match fault.kind {
                    Kind::NoRoute => ROUTED_MS,
                    kind if kind.is_of_server() => self.aftermath_ms,
                    _ => WAKING_MS,
                };
                let begins = fault.lost_since.unwrap_or(fault.at);
                may_repeat && is_affected && begins <= to && from <= fault.until + after
            })
    }

    /// Whether servers may have lost the writes between these times.
    pub(super) fn may_have_lost_writes(&self, from: Ms, to: Ms) -> bool {
        self.faults.iter().any(|fault| {
            fault
                .lost_since
                .is_some_and(|since| since <= to && from <= fault.until + self.aftermath_ms)
        })
    }

    /// Whether a bounce that was sent and acknowledged at these times may be lost.
    pub(super) fn acknowledged_may_be_lost(&self, sent: Ms, acknowledged: Ms) -> bool {
        self.shape.can_lose_acknowledged() && self.may_have_lost_writes(sent, acknowledged)
    }

    /// Whether the servers, or the link of this life to them, had a fault between these times.
    pub(super) fn store_in_trouble(&self, life: &str, from: Ms, to: Ms) -> bool {
        self.faults.iter().any(|fault| {
            let is_link = matches!(
                fault.kind,
                Kind::Cut | Kind::Slow | Kind::Silent | Kind::Torn
            );
            let is_affected =
                fault.kind.is_of_server() || (is_link && fault.life.as_deref() == Some(life));
            is_affected && fault.at <= to && from <= fault.until + self.aftermath_ms
        })
    }

    /// Whether this life was suspended, or could not reach its server, at some time between these
    /// times.
    pub(super) fn was_suspended(&self, life: &str, from: Ms, to: Ms) -> bool {
        self.faults.iter().any(|fault| {
            let stops = matches!(
                fault.kind,
                Kind::Freeze | Kind::Silent | Kind::Slow | Kind::Torn
            );
            stops
                && fault.life.as_deref() == Some(life)
                && fault.at <= to
                && from <= fault.until + self.aftermath_ms
        })
    }

    /// The time that the server's clock showed at this time of our clock.
    pub(super) fn server_time(&self, at: Ms) -> Ms {
        let ahead = self
            .skews
            .iter()
            .rev()
            .find(|skew| skew.at <= at)
            .map_or(0, |skew| skew.ahead);
        at + ahead
    }

    /// The time that our clock showed when the server's clock showed `server`. The server's clock
    /// steps by far more than the length of a run, so there is only one such time.
    pub(super) fn our_time(&self, server: Ms) -> Ms {
        let starts = self.skews.iter().map(|skew| (skew.at, skew.ahead));
        let ends = self
            .skews
            .iter()
            .skip(1)
            .map(|skew| skew.at)
            .chain([Ms::MAX]);
        let mut spans = starts.zip(ends);
        let fits =
            spans.find(|((start, ahead), end)| (start - TICK_MS..*end).contains(&(server - ahead)));
        fits.map_or(server, |((_, ahead), _)| server - ahead)
    }
}
