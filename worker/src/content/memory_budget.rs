//! The memory budget for content: one limit for all content that attempts hold and the cache keeps.
//! Readers wait until enough of the budget is free.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is reserved in pieces of this many bytes.
const PIECE: usize = 1 << 10;

/// While content is read, it needs this many times its size: once for the bytes as they are read,
/// and up to twice that after every line end was converted to CRLF.
const READING_FACTOR: usize = 3;

/// The budget.
pub(super) struct MemoryBudget {
    free: Arc<Semaphore>,
    pieces: usize,
}

/// A reserved part of the budget.
pub(super) struct Reservation(OwnedSemaphorePermit);

/// Content with its reservation.
struct ReservedContent {
    content: Vec<u8>,
    _reservation: Reservation,
}

impl MemoryBudget {
    /// Returns a budget of this many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let pieces = pieces(bytes)
            .min(Semaphore::MAX_PERMITS)
            .min(u32::MAX as usize);
        Self {
            free: Arc::new(Semaphore::new(pieces)),
            pieces,
        }
    }

    /// Waits until the memory for reading content of `size` bytes is free, and reserves it. Readers
    /// get their memory in the order of their requests. A reader that waits holds no memory.
    pub(super) async fn reserve(&self, size: usize) -> Reservation {
        let wanted = pieces(READING_FACTOR.saturating_mul(size)).min(self.pieces);
        let wanted = u32::try_from(wanted).expect("the budget has at most u32::MAX pieces");
        let permits = self.free.clone().acquire_many_owned(wanted).await;
        Reservation(permits.expect("the semaphore is never closed"))
    }
}

impl Reservation {
    /// Frees the memory that the converted content does not need. The rest is freed when the last
    /// clone of the content is dropped.
    pub(super) fn keep(mut self, content: Vec<u8>) -> Bytes {
        let surplus = self.0.num_permits().saturating_sub(pieces(content.len()));
        drop(self.0.split(surplus));
        Bytes::from_owner(ReservedContent {
            content,
            _reservation: self,
        })
    }
}

impl AsRef<[u8]> for ReservedContent {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

fn pieces(bytes: usize) -> usize {
    bytes.div_ceil(PIECE)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn memory_is_freed_with_the_last_clone() {
        let budget = MemoryBudget::new(12 * PIECE);
        let content = budget.reserve(4 * PIECE).await.keep(vec![b'x'; 4 * PIECE]);
        assert_eq!(
            budget.free.available_permits(),
            8,
            "the extra memory for reading is freed"
        );
        let clone = content.slice(1..);
        drop(content);
        assert!(
            budget.reserve(3 * PIECE).now_or_never().is_none(),
            "8 pieces are free and 9 are needed"
        );
        drop(clone);
        assert_eq!(budget.free.available_permits(), 12);
        assert!(
            budget.reserve(1 << 40).now_or_never().is_some(),
            "content that is larger than the budget gets all of it"
        );
    }
}
