//! Takes the spans that wait and sends them, one request after the other. A request that fails is
//! not repeated: its spans would take the room of newer ones.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tokio::time::sleep;

use crate::budget::{Budget, Lost};
use crate::environment::Sending;
use crate::queue::SpanQueue;
use crate::reactor::Reactor;
use crate::transport::Transport;

/// Sends the spans of a process.
#[derive(Debug)]
pub(crate) struct SpanSender {
    pub(crate) queue: Arc<SpanQueue>,
    pub(crate) budget: Arc<Budget>,
    /// Closed when the last span was sent.
    end: Receiver<()>,
    /// Kept, because everything is sent on its thread.
    _reactor: Arc<Reactor>,
}

impl SpanSender {
    /// Starts to send what is in the queue.
    pub(crate) fn start(
        queue: Arc<SpanQueue>,
        budget: Arc<Budget>,
        transport: Transport,
        sending: Sending,
        reactor: Arc<Reactor>,
    ) -> Self {
        let (ended, end) = channel::<()>();
        let (waiting, counted) = (queue.clone(), budget.clone());
        reactor.runtime().spawn(async move {
            send_all(&waiting, &counted, transport, &sending).await;
            drop(ended);
        });
        Self {
            queue,
            budget,
            end,
            _reactor: reactor,
        }
    }

    /// Sends what still waits, for as long as `longest`. What is not sent by then is lost.
    /// Returns what was lost.
    pub(crate) fn shutdown(self, longest: Duration) -> Lost {
        self.budget.end_pauses();
        self.queue.close();
        let _ = self.end.recv_timeout(longest);
        self.budget.lost_in_the_end()
    }
}

/// Sends spans until the queue is closed and empty.
async fn send_all(queue: &SpanQueue, budget: &Budget, mut transport: Transport, how: &Sending) {
    loop {
        let is_late = tokio::select! {
            () = queue.changed.notified() => false,
            () = sleep(how.delay) => true,
        };
        let is_closed = queue.is_closed();
        // Only one request that is not full: more spans may come while it is sent, and would
        // otherwise make a request each.
        let mut takes_part = is_late || is_closed;
        while let Some(request) = queue.next(takes_part) {
            takes_part = is_closed;
            let sent = transport.send_within(how.call_max, request.bytes).await;
            // The collector's figure is not trusted.
            let rejected = *sent.as_ref().unwrap_or(&0);
            budget.refused(rejected.min(request.spans as u64));
            budget.give_back(request.spans, sent.map(drop)).await;
        }
        if is_closed {
            return;
        }
    }
}
