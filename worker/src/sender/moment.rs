//! Where in its life a job is when it is attempted: what tells two attempts of it apart.

use shared::job::Head;
use xxhash_rust::xxh3::xxh3_128;

/// Each settlement changes the job's number or its last try, and a new job has another beginning; a lapse changes none of
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    created_ms: i64,
    settled: u32,
    last_try_ms: i64,
}

impl Moment {
    /// Where a job with this head is.
    pub fn of(head: &Head) -> Self {
        let last_try_ms = head.history.last().map_or(0, |last| last.at.ms());
        Self { created_ms: head.created.ms(), settled: head.attempt, last_try_ms }
    }

    /// What names the attempt of a job at this moment for one of its messages, with no word of either.
    pub(super) fn key(self, job: &str, message_id: &str) -> String {
        let Self { created_ms, settled, last_try_ms } = self;
        let named = format!("{job}\n{created_ms}\n{settled}\n{last_try_ms}\n{message_id}");
        format!("rd-{:032x}", xxh3_128(named.as_bytes()))
    }
}
