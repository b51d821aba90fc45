//! Room for content in memory: one bound for all that attempts hold and the cache keeps. Who finds
//! none waits for it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room is given in pieces of so many bytes.
const PIECE: usize = 1 << 10;

/// What content takes while it is read, in times its size: as it came, and with each line end made
/// CRLF.
const WHILE_READ: usize = 3;

/// The room that there is.
pub(super) struct Room {
    free: Arc<Semaphore>,
    pieces: usize,
}

/// Room that was taken.
pub(super) struct Taken(OwnedSemaphorePermit);

/// Content and the room that it has.
struct Held {
    content: Vec<u8>,
    _room: Taken,
}

impl Room {
    /// Room for so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let pieces = pieces(bytes)
            .min(Semaphore::MAX_PERMITS)
            .min(u32::MAX as usize);
        Self {
            free: Arc::new(Semaphore::new(pieces)),
            pieces,
        }
    }

    /// Waits for the room that reading content of `size` bytes takes. Who waits holds none, so all
    /// come to it in their turn.
    pub(super) async fn take(&self, size: usize) -> Taken {
        let wanted = pieces(WHILE_READ.saturating_mul(size)).min(self.pieces);
        let wanted = u32::try_from(wanted).expect("there are no more than that");
        let taken = self.free.clone().acquire_many_owned(wanted).await;
        Taken(taken.expect("the semaphore is never closed"))
    }
}

impl Taken {
    /// Gives back what the content, as it was made fit, does not need. The rest comes back with the
    /// content's last clone.
    pub(super) fn keep(mut self, content: Vec<u8>) -> Bytes {
        let surplus = self.0.num_permits().saturating_sub(pieces(content.len()));
        drop(self.0.split(surplus));
        Bytes::from_owner(Held {
            content,
            _room: self,
        })
    }
}

impl AsRef<[u8]> for Held {
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
    async fn room_comes_back_with_the_last_clone() {
        let room = Room::new(12 * PIECE);
        let content = room.take(4 * PIECE).await.keep(vec![b'x'; 4 * PIECE]);
        assert_eq!(
            room.free.available_permits(),
            8,
            "what reading takes beside is given back"
        );
        let clone = content.slice(1..);
        drop(content);
        assert!(
            room.take(3 * PIECE).now_or_never().is_none(),
            "8 are free and 9 are wanted"
        );
        drop(clone);
        assert_eq!(room.free.available_permits(), 12);
        assert!(
            room.take(1 << 40).now_or_never().is_some(),
            "what is larger than all gets all"
        );
    }
}
