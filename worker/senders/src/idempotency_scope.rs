//! Where in its life a job is when it is attempted: what tells two attempts of it apart.

use domain::job::Head;
use xxhash_rust::xxh3::xxh3_128;

/// Each settlement of an attempt that counts changes the job's number, and a job that begins, or
/// begins anew, has another beginning; a lapse changes neither, and no more does a hold, because
/// what is held was not tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdempotencyScope {
    created_ms: i64,
    settled: u32,
}

impl IdempotencyScope {
    /// Where a job with this head is.
    pub fn of(head: &Head) -> Self {
        Self {
            created_ms: head.created.ms(),
            settled: head.attempt,
        }
    }

    /// What names the attempt of a job at this moment for one of its messages, with no word of
    /// either.
    pub(super) fn key(self, job: &str, message_id: &str) -> String {
        let Self {
            created_ms,
            settled,
        } = self;
        let named = format!("{job}\n{created_ms}\n{settled}\n{message_id}");
        format!("rd-{:032x}", xxh3_128(named.as_bytes()))
    }
}
