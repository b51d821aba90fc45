//! The policy table: the rows in force, and which of them a reply falls under.

use std::time::Duration;

use classify::reason::{self, Reason};
use domain::reply::Reply;
use domain::status::{EnhancedStatus, StatusClass};

use crate::ranking::Ranking;
use crate::row::Row;
use crate::whose::Whose;

/// The rows in force and the bounds that hold for all of them.
#[derive(Clone, Debug)]
pub struct Table {
    /// The rows, in the order of their files. The last one matches everything.
    pub(crate) rows: Vec<Row>,
    /// The rows by how specific they are.
    pub(crate) ranking: Ranking,
    /// Bounds for hints.
    pub hint_bounds: (Duration, Duration),
    /// How long jobs wait when the trouble is ours.
    pub hold: Duration,
    /// The age at which a job ends at its next claim.
    pub max_age: Duration,
    /// How long `unavailable` lasts the first time; doubled for each time in a row.
    pub unavailable_for: Duration,
    /// How long it lasts at most.
    pub unavailable_max: Duration,
    /// The time in a row that makes `unavailable` `inactive`.
    pub strikes: u32,
}

impl Table {
    /// The most specific row for `reply`; the later one where two are equally so. Where code and
    /// status contradict each other, the milder counts: to give up a live address is the worse
    /// mistake.
    pub fn row(
        &self,
        reply: &Reply,
        account: &str,
        stream: Option<&str>,
        destination: &str,
    ) -> &Row {
        self.row_for(reply, reason::of(reply), account, stream, destination)
    }

    /// The same for a reply whose reason is known already.
    pub fn row_for(
        &self,
        reply: &Reply,
        reason: Option<Reason>,
        account: &str,
        stream: Option<&str>,
        destination: &str,
    ) -> &Row {
        let milder = match (reply.code, reply.status) {
            (Some(400..=499), Some(status)) if status.class() == StatusClass::Permanent => {
                let status =
                    EnhancedStatus::new(StatusClass::Transient, status.subject(), status.detail());
                Some(Reply {
                    status: Some(status),
                    ..reply.clone()
                })
            }
            _ => None,
        };
        let reply = milder.as_ref().unwrap_or(reply);
        let whose = Whose {
            account,
            stream,
            destination,
        };
        self.ranking
            .first(&self.rows, reply, reason, whose)
            .map(|row| &self.rows[row])
            .expect("loading refuses a table in which no row matches everything")
    }

    /// The row of this name.
    pub fn named(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// All rows, in the order of their files.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}
