//! When a worker is next to visit each shard, and in which order. Pure: it asks nobody, and is told
//! the time.

use tokio::time::Instant;

use crate::rendezvous::Turn;

/// What is planned for all shards.
pub(crate) struct Visits {
    shards: Vec<Plan>,
    /// From which place in the round on the next shard is looked for, so that each gets its turn.
    place: usize,
}

/// What is planned for one.
#[derive(Clone, Copy)]
struct Plan {
    /// When it is next to be visited, where it is not being visited now.
    at: Instant,
    is_under_way: bool,
    /// Whether something has happened there since its visit began.
    again: bool,
    /// Whether its store did not answer the last time.
    is_away: bool,
}

impl Visits {
    /// All of so many shards are to be visited at once.
    pub(crate) fn new(shards: u16, now: Instant) -> Self {
        let plan = Plan {
            at: now,
            is_under_way: false,
            again: false,
            is_away: false,
        };
        Self {
            shards: vec![plan; usize::from(shards)],
            place: 0,
        }
    }

    /// How many of the shards in this round are due.
    pub(crate) fn due(&self, round: &[Turn], now: Instant) -> usize {
        round
            .iter()
            .filter(|turn| self.is_due(turn.shard, now))
            .count()
    }

    /// Begins the visit of the next shard that is due, if one is.
    pub(crate) fn begin(&mut self, round: &[Turn], now: Instant) -> Option<Turn> {
        let places = (0..round.len()).map(|step| (self.place + step) % round.len());
        let place = places
            .into_iter()
            .find(|place| self.is_due(round[*place].shard, now))?;
        self.place = place + 1;
        let plan = self.plan(round[place].shard);
        (plan.is_under_way, plan.again) = (true, false);
        Some(round[place])
    }

    /// A visit has ended, and the shard is next to be visited then; at once, where something has
    /// happened meanwhile.
    pub(crate) fn end(&mut self, shard: u16, next: Instant) {
        let plan = self.plan(shard);
        (plan.is_under_way, plan.is_away) = (false, false);
        plan.at = if plan.again { plan.at.min(next) } else { next };
    }

    /// A visit has ended without an answer, or could not be made; the shard is next to be visited
    /// then.
    pub(crate) fn fail(&mut self, shard: u16, next: Instant) {
        let plan = self.plan(shard);
        (plan.is_under_way, plan.is_away, plan.at) = (false, true, next);
    }

    /// Whether all shards answered the last time.
    pub(crate) fn all_are_there(&self) -> bool {
        !self.shards.iter().any(|plan| plan.is_away)
    }

    /// Something has happened at a shard: it is to be visited now.
    pub(crate) fn ask_for(&mut self, shard: u16, now: Instant) {
        let plan = self.plan(shard);
        (plan.at, plan.again) = (now, true);
    }

    /// When the next visit is to begin; none where all shards are being visited.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.shards
            .iter()
            .filter(|plan| self.is_open(plan))
            .map(|plan| plan.at)
            .min()
    }

    fn is_due(&self, shard: u16, now: Instant) -> bool {
        let plan = &self.shards[usize::from(shard)];
        plan.at <= now && self.is_open(plan)
    }

    /// Whether a visit may begin there. Shards whose store is away are tried one after the other,
    /// so that the time that a silent store takes is no visit's of the others.
    fn is_open(&self, plan: &Plan) -> bool {
        let another_is_tried = || {
            self.shards
                .iter()
                .any(|other| other.is_away && other.is_under_way)
        };
        !plan.is_under_way && (!plan.is_away || !another_is_tried())
    }

    fn plan(&mut self, shard: u16) -> &mut Plan {
        &mut self.shards[usize::from(shard)]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ROUND: [Turn; 3] = [
        Turn {
            shard: 2,
            own: true,
        },
        Turn {
            shard: 0,
            own: true,
        },
        Turn {
            shard: 1,
            own: false,
        },
    ];

    fn begun(visits: &mut Visits, now: Instant) -> Vec<u16> {
        std::iter::from_fn(|| visits.begin(&ROUND, now))
            .map(|turn| turn.shard)
            .collect()
    }

    #[test]
    fn each_shard_gets_its_turn_however_eager_the_first_is() {
        let now = Instant::now();
        let mut visits = Visits::new(3, now);
        for shard in [2, 0, 1, 2, 0, 1] {
            assert_eq!(
                visits.begin(&ROUND, now).map(|turn| turn.shard),
                Some(shard)
            );
            visits.end(shard, now);
        }
    }

    #[test]
    fn no_shard_is_visited_twice_at_a_time_or_before_its_instant() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut visits = Visits::new(3, now);
        assert_eq!(
            (visits.due(&ROUND, now), begun(&mut visits, now)),
            (3, vec![2, 0, 1])
        );
        assert_eq!((visits.due(&ROUND, now), visits.next()), (0, None));
        visits.end(0, later);
        assert_eq!(
            (begun(&mut visits, now), visits.next()),
            (vec![], Some(later))
        );
        assert_eq!(begun(&mut visits, later), [0]);
    }

    #[test]
    fn what_happens_at_a_shard_while_it_is_visited_is_looked_at_after_that() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut visits = Visits::new(3, now);
        begun(&mut visits, now);
        visits.ask_for(1, now);
        assert_eq!(begun(&mut visits, now), [0_u16; 0], "one visit at a time");
        visits.end(1, later);
        visits.end(2, later);
        assert_eq!(begun(&mut visits, now), [1]);
        visits.end(1, later);
        assert_eq!(begun(&mut visits, now), [0_u16; 0], "it has been looked at");
    }

    #[test]
    fn shards_whose_store_is_away_are_tried_one_at_a_time() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut visits = Visits::new(3, now);
        begun(&mut visits, now);
        visits.fail(2, now);
        visits.fail(0, now);
        visits.end(1, later);
        assert_eq!(
            (begun(&mut visits, now), visits.next()),
            (vec![2], Some(later))
        );
        visits.fail(2, later);
        assert_eq!(begun(&mut visits, now), [0]);
        visits.end(0, later);
        assert!(!visits.all_are_there());
        assert_eq!(begun(&mut visits, later), [1, 2, 0]);
        visits.end(2, later);
        assert!(visits.all_are_there());
    }
}
