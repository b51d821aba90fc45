//! Remembers the row of each reply while a batch of bounces is processed. Most bounces of a
//! campaign have the same few replies.

use std::collections::HashMap;
use std::time::Duration;

use classify::reason::{self, Reason};
use domain::clock::Timestamp;
use domain::reply::Reply;

use crate::decide::{AttemptFacts, Verdict, bounded_hint, judge};
use crate::row::{HintUse, Row};
use crate::table::Table;

/// How many replies are remembered. In a batch with more different replies, few occur twice.
const REPLIES_MAX: usize = 512;

/// A table, with the replies that it was used for.
pub struct RowCache<'t> {
    table: &'t Table,
    /// Whether any row is limited to one account, stream or destination. Then the reply alone does
    /// not determine the row.
    has_conditions: bool,
    known: HashMap<Reply, Ruling<'t>>,
}

/// What the table contains for one reply.
#[derive(Clone, Copy)]
struct Ruling<'t> {
    reason: Option<Reason>,
    row: &'t Row,
    hint: Option<Duration>,
}

impl<'t> RowCache<'t> {
    /// Returns a cache for `table` without any replies.
    pub fn new(table: &'t Table) -> Self {
        let has_condition =
            |row: &Row| row.account.is_some() || row.stream.is_some() || row.destination.is_some();
        Self {
            table,
            has_conditions: table.rows().iter().any(has_condition),
            known: HashMap::new(),
        }
    }

    /// Decides about a bounce with this reply as [`decide`](crate::decide::decide) does, and
    /// returns the row too.
    pub fn judge(
        &mut self,
        facts: &AttemptFacts<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> (Verdict, &'t Row) {
        let Ruling { row, hint, .. } = self.ruling(facts, reply);
        (judge(facts, row, reply, || hint, self.table, now), row)
    }

    fn ruling(&mut self, facts: &AttemptFacts<'_>, reply: &Reply) -> Ruling<'t> {
        let known = self.known.get(reply).copied();
        if let Some(known) = known.filter(|_| !self.has_conditions) {
            return known;
        }
        let reason = known.map_or_else(|| reason::recognize(reply), |known| known.reason);
        let row = self.table.row_for(
            reply,
            reason,
            facts.account,
            facts.stream,
            facts.destination,
        );
        let hint = if row.hint == HintUse::Ignore {
            None
        } else {
            bounded_hint(reply, self.table)
        };
        let ruling = Ruling { reason, row, hint };
        if known.is_none() && self.known.len() < REPLIES_MAX {
            self.known.insert(reply.clone(), ruling);
        }
        ruling
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::decide;
    use domain::outcome::Outcome;

    const T0: Timestamp = Timestamp::from_ms(1_763_716_200_000);

    #[test]
    fn a_remembered_ruling_is_the_same_as_a_new_decision() {
        let rows = r#"
[[row]]
name = "patient"
status = "4.3.1"
account = "acme"
scope = "host"
delays = ["7d"]
final = "unavailable"
"#;
        let replies = [
            reason::examples(),
            [
                "451 4.7.1 Greylisted, try again in 300 seconds",
                "452 4.3.1 full, retry in 26 hours",
                "450",
                "what?",
            ]
            .map(str::to_owned)
            .into(),
        ];
        for table in [
            Table::embedded(),
            Table::with_file("here", rows).unwrap().into(),
        ] {
            let mut rulings = RowCache::new(&table);
            for reply in replies.concat().iter().map(|text| Reply::parse(text)) {
                for account in ["default", "acme", "default"] {
                    let facts = AttemptFacts {
                        job: "acme/jo@example.com",
                        account,
                        stream: None,
                        destination: "example.com",
                        attempt: 0,
                        created: T0,
                        last_delivery_there: None,
                        confirm: Duration::ZERO,
                    };
                    let decision = decide(&facts, &Outcome::Deferred(reply.clone()), &table, T0);
                    let (verdict, row) = rulings.judge(&facts, &reply, T0);
                    assert_eq!(
                        (verdict, &row.name),
                        (decision.verdict, &decision.row.unwrap().name),
                        "{reply}"
                    );
                }
            }
            assert!(rulings.known.len() <= REPLIES_MAX);
        }
    }
}
