//! Messages that a relay has accepted. The relay may report later that such a message was not
//! delivered, so the message waits in its job. If no report comes in time, it counts as delivered.

use std::mem;
use std::time::Duration;

use domain::clock::Timestamp;
use domain::event::{Event, EventKind};
use domain::job::Acceptance;
use domain::tally::TallyResult;
use store::settle::Settlement;

use super::progress::{Progress, ms};

impl Progress {
    /// Counts each accepted message as delivered if its time for a bounce is over.
    pub(super) fn confirm_expired(&mut self) {
        let now = self.leased.claimed_at;
        for message in mem::take(&mut self.accepted) {
            match message.accepted {
                Some(acceptance) if acceptance.until <= now => {
                    let mut delivered = self
                        .job_event(EventKind::MessageDelivered)
                        .with_message(&message);
                    delivered.attempt = Some(acceptance.number());
                    delivered.reason = Some("silence".to_owned());
                    self.events.push(&delivered);
                    (self.delivered, self.step) = (true, 0);
                }
                _ => self.accepted.push(message),
            }
        }
    }

    /// Records that a relay has accepted the message that was just tried. A bounce may come within
    /// `delay`. Returns the settlement if this ends the attempt.
    pub(super) fn accept(
        &mut self,
        mut accepted: Event,
        delay: Duration,
        now: Timestamp,
    ) -> Option<Box<Settlement>> {
        let mut message = self.waiting.pop_front()?;
        let at = self.leased.claimed_at;
        let serial = self.leased.lease.token.serial;
        let number = self.attempt();
        message.accepted = Some(Acceptance {
            attempt: self.step,
            at,
            until: at.plus(delay),
            serial,
            number: (number != self.step).then_some(number),
        });
        self.accepted.push(message);
        // Until a message is delivered, only one is tried. After a delivery, the others follow at
        // once.
        if self.delivered && !self.waiting.is_empty() {
            accepted.delay = Some(ms(delay));
            self.events.push(&accepted);
            return None;
        }
        let tally = self.tally(TallyResult::Accepted, self.leased.job.head.status, now);
        self.renew_if_delivered(now);
        let head = &mut self.leased.job.head;
        (head.attempt, head.held) = (self.step, false);
        self.keep_span();
        Some(self.wait(delay, tally, accepted))
    }

    /// Ends an attempt that has no message left to try. The job waits until the first of its
    /// accepted messages counts as delivered. Returns `None` if there is no accepted message.
    pub(super) fn wait_for_bounces(&mut self, now: Timestamp) -> Option<Box<Settlement>> {
        let until = self
            .accepted
            .iter()
            .filter_map(|message| Some(message.accepted?.until))
            .min()?;
        let mut last = self.job_event(EventKind::AttemptDeferred);
        last.attempt = Some(self.attempt());
        last.reason = Some("confirming".to_owned());
        let result = if self.delivered {
            TallyResult::Delivered
        } else {
            TallyResult::Accepted
        };
        let tally = self.tally(result, self.leased.job.head.status, now);
        self.renew_if_delivered(now);
        self.keep_span();
        // Both instants are by the clock of Redis, which may differ from the clock of this machine.
        let delay = until.since(self.leased.claimed_at);
        Some(self.wait(delay, tally, last))
    }
}
