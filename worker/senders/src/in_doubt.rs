//! Whether a message is in doubt: all of it was sent and no answer has arrived yet, so the peer may
//! have it. The worker and the sender share this state. So an attempt that is cancelled in that
//! time is not treated as if it had never been made.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::lease_end::LeaseEnd;

/// How much longer a cancelled attempt waits for the answer to a message that was completely sent.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The in-doubt state of one message. Clones share the same message.
#[derive(Clone, Debug, Default)]
pub struct InDoubt {
    open: Arc<AtomicBool>,
    cancel: CancellationToken,
    lease_end: LeaseEnd,
}

/// The message is in doubt while this guard lives.
struct OpenGuard<'a>(&'a AtomicBool);

impl InDoubt {
    /// Returns the state of a message whose attempt ends when `cancel` is cancelled.
    pub fn cancelled_by(cancel: CancellationToken) -> Self {
        Self {
            open: Arc::default(),
            cancel,
            lease_end: LeaseEnd::default(),
        }
    }

    /// Like [`cancelled_by`](Self::cancelled_by), for a message that may be sent only while its
    /// lease lasts.
    pub fn with_lease_end(cancel: CancellationToken, lease_end: LeaseEnd) -> Self {
        Self {
            open: Arc::default(),
            cancel,
            lease_end,
        }
    }

    /// Must be awaited before each step that brings the peer closer to accepting the message. While
    /// the lease lasts, it returns at once. After the end of the lease another worker may have the
    /// job. Then it cancels the attempt and never returns.
    pub async fn may_send(&self) {
        if self.lease_end.is_over() {
            self.cancel.cancel();
            pending::<()>().await;
        }
    }

    /// Waits for the peer's answer with the future `waiting`. The message was completely sent
    /// before, or `waiting` itself sends it. If the attempt is cancelled meanwhile, the wait
    /// continues for two seconds at most. Returns `None` if no answer arrived in that time. Then it
    /// is unknown whether the peer has the message.
    pub async fn answer<T>(&self, waiting: impl Future<Output = T>) -> Option<T> {
        self.open.store(true, Ordering::Relaxed);
        let _guard = OpenGuard(&self.open);
        let given_up = async {
            self.cancel.cancelled().await;
            sleep(ANSWER_MAX).await;
        };
        tokio::select! {
            biased;
            answer = waiting => Some(answer),
            () = given_up => None,
        }
    }

    /// Whether the peer may have the message and has not answered yet.
    pub fn is_in_doubt(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
