//! What the table says of replies, remembered while a batch of bounces is judged: of a campaign
//! most come back with the same few.

use std::collections::HashMap;
use std::time::Duration;

use classify::reason::{self, Reason};
use domain::clock::Timestamp;
use domain::reply::Reply;

use crate::decide::{Case, Verdict, bounded_hint, judge};
use crate::row::{HintUse, Row};
use crate::table::Table;

/// How many replies are remembered; more of them are all different anyway.
const REPLIES_MAX: usize = 512;

/// A table, and what it has said.
pub struct Rulings<'t> {
    table: &'t Table,
    /// Whether some row is for one account, stream or destination alone, so that a reply does not
    /// tell its row.
    has_conditions: bool,
    known: HashMap<Reply, Ruling<'t>>,
}

/// What the table says of one reply.
#[derive(Clone, Copy)]
struct Ruling<'t> {
    reason: Option<Reason>,
    row: &'t Row,
    hint: Option<Duration>,
}

impl<'t> Rulings<'t> {
    /// Nothing has been said yet.
    pub fn new(table: &'t Table) -> Self {
        let has_condition =
            |row: &Row| row.account.is_some() || row.stream.is_some() || row.destination.is_some();
        Self {
            table,
            has_conditions: table.rows().iter().any(has_condition),
            known: HashMap::new(),
        }
    }

    /// Judges a bounce with this reply as [`crate::decide()`] does, and tells the row that says so.
    pub fn judge(&mut self, case: &Case<'_>, reply: &Reply, now: Timestamp) -> (Verdict, &'t Row) {
        let Ruling { row, hint, .. } = self.ruling(case, reply);
        (judge(case, row, reply, || hint, self.table, now), row)
    }

    fn ruling(&mut self, case: &Case<'_>, reply: &Reply) -> Ruling<'t> {
        let known = self.known.get(reply).copied();
        if let Some(known) = known.filter(|_| !self.has_conditions) {
            return known;
        }
        let reason = known.map_or_else(|| reason::of(reply), |known| known.reason);
        let row = self
            .table
            .row_for(reply, reason, case.account, case.stream, case.destination);
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
    fn what_is_remembered_is_what_would_have_been_said() {
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
            let mut rulings = Rulings::new(&table);
            for reply in replies.concat().iter().map(|text| Reply::parse(text)) {
                for account in ["default", "acme", "default"] {
                    let case = Case {
                        job: "acme/jo@example.com",
                        account,
                        stream: None,
                        destination: "example.com",
                        attempt: 0,
                        created: T0,
                        delivered_there: None,
                        confirm: Duration::ZERO,
                    };
                    let decision = decide(&case, &Outcome::Deferred(reply.clone()), &table, T0);
                    let (verdict, row) = rulings.judge(&case, &reply, T0);
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
