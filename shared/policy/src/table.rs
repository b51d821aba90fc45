//! The policy table: the rows in force, and the choice of the row for a reply.

use std::time::Duration;

use classify::reason::{self, Reason};
use domain::reply::Reply;
use domain::status::{EnhancedStatus, StatusClass};

use crate::ranking::Ranking;
use crate::row::{FailedMail, Row};

/// The rows in force, and the settings that apply to all of them.
#[derive(Clone, Debug)]
pub struct Table {
    /// The rows, in the order of their files. The last one matches everything.
    pub(crate) rows: Vec<Row>,
    /// The rows in the order in which they are tried.
    pub(crate) ranking: Ranking,
    /// The shortest and the longest delay that a hint can lead to.
    pub hint_bounds: (Duration, Duration),
    /// How long jobs wait when the trouble is on our side.
    pub hold: Duration,
    /// The age at which a job ends at its next claim.
    pub max_age: Duration,
    /// How long `unavailable` lasts the first time. Doubled each further time in a row.
    pub unavailable_for: Duration,
    /// The longest time that `unavailable` lasts.
    pub unavailable_max: Duration,
    /// The number of times in a row at which `unavailable` becomes `inactive`.
    pub strikes: u32,
}

impl Table {
    /// Returns the most specific row for `reply`. Of two equally specific rows, the later one
    /// applies. If code and status contradict each other, the milder of the two counts: giving up a
    /// live address is the worse mistake.
    pub fn row(
        &self,
        reply: &Reply,
        account: &str,
        stream: Option<&str>,
        destination: &str,
    ) -> &Row {
        self.row_for(
            reply,
            reason::recognize(reply),
            account,
            stream,
            destination,
        )
    }

    /// Like [`Self::row`], for a reply whose reason is already known.
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
        let mail = FailedMail {
            account,
            stream,
            destination,
        };
        self.ranking
            .first(&self.rows, reply, reason, mail)
            .map(|row| &self.rows[row])
            .expect("loading rejects a table in which no row matches everything")
    }

    /// Returns the row with this name.
    pub fn named(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Returns a short text that is the same for all tables with the same rows and settings, and
    /// nearly always another one for others. Another version of this program may write another text
    /// for the same table.
    pub fn fingerprint(&self) -> String {
        let Self {
            rows,
            ranking: _,
            hint_bounds,
            hold,
            max_age,
            unavailable_for,
            unavailable_max,
            strikes,
        } = self;
        let spans = (hint_bounds, hold, max_age, unavailable_for, unavailable_max);
        let text = format!("{rows:?} {spans:?} {strikes}");
        // FNV-1a, 64 bits.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }

    /// Returns all rows, in the order of their files.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}
