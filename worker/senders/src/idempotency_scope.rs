//! Identifies an attempt among all attempts of a job.

use domain::job::Head;
use xxhash_rust::xxh3::xxh3_128;

/// Distinguishes the attempts of one job. `settled` changes when an attempt that counts is settled.
/// `created_ms` changes when the job is created again. A lapsed lease changes neither of them, and
/// a hold does not either, because a held job was not tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdempotencyScope {
    created_ms: i64,
    settled: u32,
}

impl IdempotencyScope {
    /// Returns the scope of a job with this head.
    pub fn of(head: &Head) -> Self {
        Self {
            created_ms: head.created.ms(),
            settled: head.attempt,
        }
    }

    /// Returns the idempotency key for one message of the job in this scope. The key is a hash and
    /// contains neither the job id nor the message id.
    pub(super) fn key(self, job: &str, message_id: &str) -> String {
        let Self {
            created_ms,
            settled,
        } = self;
        let hashed = format!("{job}\n{created_ms}\n{settled}\n{message_id}");
        format!("rd-{:032x}", xxh3_128(hashed.as_bytes()))
    }
}
