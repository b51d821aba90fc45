//! Whether anybody knows what becomes of a message: from the moment that all of it is out until its
//! answer has come, the peer may have it. Who attempts and the sender share this, so that an
//! attempt that is cut off then is not taken for one that did not happen.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::lease_end::LeaseEnd;

/// How much longer an attempt that is cut off waits for the answer to a message that is out.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What is known of one message on its way. Clones are of the same message.
#[derive(Clone, Debug, Default)]
pub struct InDoubt {
    open: Arc<AtomicBool>,
    cut: CancellationToken,
    lease_end: LeaseEnd,
}

/// While it lives nobody knows.
struct Open<'a>(&'a AtomicBool);

impl InDoubt {
    /// That of a message whose attempt ends where `cut` is cancelled.
    pub fn until(cut: CancellationToken) -> Self {
        Self {
            open: Arc::default(),
            cut,
            lease_end: LeaseEnd::default(),
        }
    }

    /// The same for a message that may only be sent while its lease lasts.
    pub fn within(cut: CancellationToken, lease_end: LeaseEnd) -> Self {
        Self {
            open: Arc::default(),
            cut,
            lease_end,
        }
    }

    /// To be awaited before each step that brings a message closer to being taken by the peer. Goes
    /// on at once while the lease lasts. When it is over, another worker may have the job: then the
    /// attempt is cut off, and this waits for ever.
    pub async fn may_send(&self) {
        if self.lease_end.is_over() {
            self.cut.cancel();
            pending::<()>().await;
        }
    }

    /// Waits for the peer's answer to a message that is out, or will be by what is waited for. An
    /// attempt that is cut off meanwhile goes on until the answer is there, two seconds at most.
    /// `None`: it was cut off and the answer did not come, so that nobody knows.
    pub async fn answer<T>(&self, waiting: impl Future<Output = T>) -> Option<T> {
        self.open.store(true, Ordering::Relaxed);
        let _open = Open(&self.open);
        let given_up = async {
            self.cut.cancelled().await;
            sleep(ANSWER_MAX).await;
        };
        tokio::select! {
            biased;
            answer = waiting => Some(answer),
            () = given_up => None,
        }
    }

    /// Whether the peer may have the message and has not said so.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
