//! Plans when a worker visits each shard next, and in which order. Pure: it makes no calls, and the
//! caller passes the time in.

use tokio::time::Instant;

use crate::rendezvous::Turn;

/// The plans for all shards.
pub(crate) struct Visits {
    shards: Vec<Plan>,
    /// The position in the round where the search for the next shard starts. It moves on with each
    /// visit, so that every shard gets its turn.
    search_start: usize,
}

/// The plan for one shard.
#[derive(Clone, Copy)]
struct Plan {
    /// When the next visit may begin, unless one is under way.
    at: Instant,
    /// Whether a visit is under way.
    is_under_way: bool,
    /// Whether another visit was requested since the last one began.
    is_requested: bool,
    /// Whether the store did not answer the last visit.
    is_unanswered: bool,
}

impl Visits {
    /// Plans a visit of each of this many shards for now.
    pub(crate) fn new(shards: u16, now: Instant) -> Self {
        let plan = Plan {
            at: now,
            is_under_way: false,
            is_requested: false,
            is_unanswered: false,
        };
        Self {
            shards: vec![plan; usize::from(shards)],
            search_start: 0,
        }
    }

    /// Returns how many shards of this round are due.
    pub(crate) fn count_due(&self, round: &[Turn], now: Instant) -> usize {
        round
            .iter()
            .filter(|turn| self.is_due(turn.shard, now))
            .count()
    }

    /// Begins the visit of the next shard that is due. Returns `None` if no shard is due.
    pub(crate) fn begin(&mut self, round: &[Turn], now: Instant) -> Option<Turn> {
        let position = (0..round.len())
            .map(|step| (self.search_start + step) % round.len())
            .find(|position| self.is_due(round[*position].shard, now))?;
        self.search_start = position + 1;
        let plan = self.plan(round[position].shard);
        plan.is_under_way = true;
        plan.is_requested = false;
        Some(round[position])
    }

    /// Records that a visit has ended and plans the next one for `next`. If a visit was requested
    /// meanwhile, the next one may begin at once.
    pub(crate) fn end(&mut self, shard: u16, next: Instant) {
        let plan = self.plan(shard);
        plan.is_under_way = false;
        plan.is_unanswered = false;
        plan.at = if plan.is_requested {
            plan.at.min(next)
        } else {
            next
        };
    }

    /// Records that a visit got no answer or could not be made, and plans the next one for `next`.
    pub(crate) fn fail(&mut self, shard: u16, next: Instant) {
        let plan = self.plan(shard);
        plan.is_under_way = false;
        plan.is_unanswered = true;
        plan.at = next;
    }

    /// Whether the store answered the last visit of every shard.
    pub(crate) fn all_answered(&self) -> bool {
        !self.shards.iter().any(|plan| plan.is_unanswered)
    }

    /// Requests a visit of a shard now, for example because jobs may have become due there. If a
    /// visit is under way, another one follows it.
    pub(crate) fn request(&mut self, shard: u16, now: Instant) {
        let plan = self.plan(shard);
        plan.at = now;
        plan.is_requested = true;
    }

    /// Returns when the next visit may begin; `None` if no visit may begin before another has
    /// ended.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.shards
            .iter()
            .filter(|plan| self.may_begin(plan))
            .map(|plan| plan.at)
            .min()
    }

    fn is_due(&self, shard: u16, now: Instant) -> bool {
        let plan = &self.shards[usize::from(shard)];
        plan.at <= now && self.may_begin(plan)
    }

    /// Whether a visit of this shard may begin. Shards whose store did not answer are visited one
    /// at a time, so that the wait for their answers does not delay visits of other shards.
    fn may_begin(&self, plan: &Plan) -> bool {
        let is_another_retried = || {
            self.shards
                .iter()
                .any(|other| other.is_unanswered && other.is_under_way)
        };
        !plan.is_under_way && (!plan.is_unanswered || !is_another_retried())
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
            is_own: true,
        },
        Turn {
            shard: 0,
            is_own: true,
        },
        Turn {
            shard: 1,
            is_own: false,
        },
    ];

    /// Begins all visits that may begin now. Returns their shards.
    fn begin_all(visits: &mut Visits, now: Instant) -> Vec<u16> {
        std::iter::from_fn(|| visits.begin(&ROUND, now))
            .map(|turn| turn.shard)
            .collect()
    }

    #[test]
    fn every_shard_gets_its_turn_even_if_the_first_is_always_due() {
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
    fn a_shard_has_one_visit_at_a_time_and_none_before_it_is_due() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut visits = Visits::new(3, now);
        assert_eq!(
            (visits.count_due(&ROUND, now), begin_all(&mut visits, now)),
            (3, vec![2, 0, 1])
        );
        assert_eq!((visits.count_due(&ROUND, now), visits.next_at()), (0, None));
        visits.end(0, later);
        assert_eq!(
            (begin_all(&mut visits, now), visits.next_at()),
            (vec![], Some(later))
        );
        assert_eq!(begin_all(&mut visits, later), [0]);
    }

    #[test]
    fn a_visit_requested_during_a_visit_follows_it() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut visits = Visits::new(3, now);
        begin_all(&mut visits, now);
        visits.request(1, now);
        assert_eq!(
            begin_all(&mut visits, now),
            [0_u16; 0],
            "one visit at a time"
        );
        visits.end(1, later);
        visits.end(2, later);
        assert_eq!(begin_all(&mut visits, now), [1]);
        visits.end(1, later);
        assert_eq!(
            begin_all(&mut visits, now),
            [0_u16; 0],
            "the request was served"
        );
    }

    #[test]
    fn shards_whose_store_did_not_answer_are_visited_one_at_a_time() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut visits = Visits::new(3, now);
        begin_all(&mut visits, now);
        visits.fail(2, now);
        visits.fail(0, now);
        visits.end(1, later);
        assert_eq!(
            (begin_all(&mut visits, now), visits.next_at()),
            (vec![2], Some(later))
        );
        visits.fail(2, later);
        assert_eq!(begin_all(&mut visits, now), [0]);
        visits.end(0, later);
        assert!(!visits.all_answered());
        assert_eq!(begin_all(&mut visits, later), [1, 2, 0]);
        visits.end(2, later);
        assert!(visits.all_answered());
    }
}
