//! When a fault explains what would be a violation without it.

use crate::breaking::aftermath_ms;
use crate::fault::Kind;
use crate::options::Shape;
use crate::record::{Evidence, Fault, Ms, Skew};

/// For how long a process that goes on may still do what it had begun: it has bytes on their way,
/// and has looked at its clock just before it stood still.
const WAKING_MS: Ms = 500;

/// How late a step of a server's clock may be written down.
const TICK_MS: Ms = 50;

/// How long the answer to a message takes to be settled, if nothing is in its way.
pub(super) const SETTLED_MS: Ms = 2_000;

/// For how long after a route came back an answer, or the end of a connection, may be missing.
const ROUTED_MS: Ms = 5_000;

/// The faults of a run, asked for what they explain.
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

    /// Whether an attempt of this life, which was under way from one instant to the other, met a
    /// fault that may have it made once more.
    pub(super) fn attempt(&self, life: &str, from: Ms, to: Ms) -> bool {
        self.explains(life, from, to, |_| true)
    }

    /// Whether this life may have gone on between these instants with what was not its own any
    /// more: it stood still, or its servers had another view. One that was killed goes on with
    /// nothing.
    pub(super) fn outdated(&self, life: &str, from: Ms, to: Ms) -> bool {
        self.explains(life, from, to, |kind| {
            !matches!(kind, Kind::Kill | Kind::NoRoute)
        }) || self.arrived_late(life, from, to)
    }

    /// Whether what this life had sent may have arrived between these instants although it was
    /// gone: it was killed while there was no route, and the system sent it again when there was.
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
                let befalls = fault.life.as_deref().is_none_or(|of| of == life);
                let after = match fault.kind {
                    Kind::NoRoute => ROUTED_MS,
                    kind if kind.is_of_server() => self.aftermath_ms,
                    _ => WAKING_MS,
                };
                let begins = fault.lost_since.unwrap_or(fault.at);
                may_repeat && befalls && begins <= to && from <= fault.until + after
            })
    }

    /// Whether servers may have forgotten what they did between these instants.
    pub(super) fn forgotten(&self, from: Ms, to: Ms) -> bool {
        self.faults.iter().any(|fault| {
            fault
                .lost_since
                .is_some_and(|since| since <= to && from <= fault.until + self.aftermath_ms)
        })
    }

    /// Whether a bounce that was sent and acknowledged at these instants may be gone.
    pub(super) fn acknowledged_may_be_lost(&self, sent: Ms, acknowledged: Ms) -> bool {
        self.shape.can_lose_acknowledged() && self.forgotten(sent, acknowledged)
    }

    /// Whether servers, or the link of this life to them, were in trouble between these instants.
    pub(super) fn store_in_trouble(&self, life: &str, from: Ms, to: Ms) -> bool {
        self.faults.iter().any(|fault| {
            let is_link = matches!(
                fault.kind,
                Kind::Cut | Kind::Slow | Kind::Silent | Kind::Torn
            );
            let befalls =
                fault.kind.is_of_server() || (is_link && fault.life.as_deref() == Some(life));
            befalls && fault.at <= to && from <= fault.until + self.aftermath_ms
        })
    }

    /// Whether this life stood still, or could not reach its server, at some time in this span.
    pub(super) fn stood_still(&self, life: &str, from: Ms, to: Ms) -> bool {
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

    /// What the server's clock showed at this instant of ours.
    pub(super) fn server_time(&self, at: Ms) -> Ms {
        let ahead = self
            .skews
            .iter()
            .rev()
            .find(|skew| skew.at <= at)
            .map_or(0, |skew| skew.ahead);
        at + ahead
    }

    /// What our clock showed when the server's showed this. Its clock steps by far more than a run
    /// lasts, so no two instants of ours have the same one.
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
