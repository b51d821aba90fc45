//! A transaction: one message for one recipient over a session (RFC 5321, section 3.3). Commands
//! are sent without waiting for replies if the peer offers PIPELINING (RFC 2920).

use std::future::pending;
use std::mem;
use std::time::{Duration, Instant};

use domain::outcome::FaultKind;
use domain::reply::Reply;
use domain::transcript::Phase;
use tokio::time::timeout;

use super::dots::dot_stuffed;
use super::envelope::Envelope;
use super::recorder::TranscriptRecorder;
use super::session::{Session, ask, within};
use super::stop::{Stop, Why};
use super::wire::{NoReply, RawReply};
use crate::attempt::Attempt;
use crate::contact;

/// How long resetting a session for the next message may take.
const RESET_MAX: Duration = Duration::from_secs(5);

impl Session {
    /// Hands one message over, and returns the peer's answer at once. After a refusal, the session
    /// must be [`reset`](Self::reset) before it carries another message. After any other failure it
    /// must be closed.
    pub(crate) async fn hand_over(
        &mut self,
        attempt: &Attempt,
        content: &[u8],
        recorder: &mut TranscriptRecorder,
    ) -> Result<Reply, Stop> {
        let handed_over = self.transact(attempt, content, recorder).await;
        (self.refused, self.used_at) = (
            matches!(&handed_over, Err(stop) if !stop.is_about_connection()),
            Instant::now(),
        );
        handed_over
    }

    async fn transact(
        &mut self,
        attempt: &Attempt,
        content: &[u8],
        recorder: &mut TranscriptRecorder,
    ) -> Result<Reply, Stop> {
        recorder.begin(Phase::Mail);
        let envelope = Envelope::new(&self.offers, self.settings.notify, attempt, content)
            .map_err(|reply| Stop {
                phase: Phase::Mail,
                why: Why::NegativeReply(reply),
            })?;
        // Opening the connection may have taken so long that the lease is over.
        attempt.in_doubt.may_send().await;
        contact::begin_waiting();
        (self.in_transaction, self.messages) = (true, self.messages + 1);
        self.open_transaction(&envelope, recorder).await?;
        if !contact::begin_content() {
            // The attempt is being cancelled, and the peer has nothing yet.
            return pending().await;
        }
        let limit = self.settings.timeouts.data;
        within(
            Phase::Data,
            limit,
            self.wire
                .send_content(dot_stuffed(content), &attempt.in_doubt),
        )
        .await?;

        // From here on the peer may have the message, whether or not an answer arrives.
        recorder.begin(Phase::Dot);
        let reply = attempt
            .in_doubt
            .answer(within(
                Phase::Dot,
                self.settings.timeouts.dot,
                self.wire.reply(),
            ))
            .await;
        recorder.end();
        // A cancelled attempt is not the peer's failure.
        let cancelled = || {
            Why::Broken(NoReply::new(
                FaultKind::Local,
                "cancelled before the answer",
            ))
        };
        match reply.unwrap_or_else(|| {
            Err(Stop {
                phase: Phase::Dot,
                why: cancelled(),
            })
        }) {
            Ok(reply) if reply.is_positive() => {
                self.in_transaction = false;
                Ok(reply.parsed())
            }
            Ok(reply) => Err(Stop::unexpected(Phase::Dot, &reply)),
            Err(stop) => Err(stop),
        }
    }

    /// Sends MAIL, RCPT and DATA. Returns once the peer is ready for the content.
    async fn open_transaction(
        &mut self,
        envelope: &Envelope,
        recorder: &mut TranscriptRecorder,
    ) -> Result<(), Stop> {
        let timeouts = self.settings.timeouts;
        let steps = [
            (Phase::Mail, envelope.mail.as_str(), timeouts.mail),
            (Phase::Rcpt, envelope.rcpt.as_str(), timeouts.rcpt),
            (Phase::Data, "DATA\r\n", timeouts.data),
        ];
        let is_pipelined = self.offers.pipelining();
        if is_pipelined {
            let all = steps.map(|(_, command, _)| command).concat();
            within(Phase::Mail, timeouts.mail, self.wire.send(all.as_bytes())).await?;
        }
        for (n, (phase, command, limit)) in steps.into_iter().enumerate() {
            recorder.begin(phase);
            let reply = if is_pipelined {
                self.outstanding = steps.len() - n - 1;
                within(phase, limit, self.wire.reply()).await?
            } else {
                ask(&mut self.wire, phase, limit, command).await?
            };
            if !is_expected_reply(phase, &reply) {
                return Err(Stop::unexpected(phase, &reply));
            }
        }
        Ok(())
    }

    /// Ends a refused transaction, so that the session can carry the next message. Returns false if
    /// the session must not be used any more.
    pub(crate) async fn reset(&mut self) -> bool {
        // `refused` is cleared first: if this call is cancelled halfway, the peer's next reply is
        // unknown, and the session must not be reused.
        let refused = mem::take(&mut self.refused);
        if refused
            && self.in_transaction
            && matches!(timeout(RESET_MAX, self.abandon()).await, Ok(Ok(())))
        {
            self.in_transaction = false;
        }
        !self.in_transaction
    }

    /// Reads the outstanding replies to pipelined commands, and ends the transaction.
    async fn abandon(&mut self) -> Result<(), NoReply> {
        let mut waits_for_content = false;
        while self.outstanding > 0 {
            waits_for_content = is_expected_reply(Phase::Data, &self.wire.reply().await?);
            self.outstanding -= 1;
        }
        if waits_for_content {
            // The peer accepted DATA but no recipient. An empty message ends this state (RFC 2920,
            // section 3.1).
            self.wire.send(b".\r\n").await?;
            self.wire.reply().await?;
        }
        self.wire.send(b"RSET\r\n").await?;
        let reply = self.wire.reply().await?;
        if reply.is_positive() {
            Ok(())
        } else {
            Err(NoReply::new(FaultKind::NotSmtp, "the peer refused RSET"))
        }
    }
}

/// Whether the reply to the command of this phase allows the next command. Only its first digit
/// counts (RFC 5321, section 4.2). It must be 3 for DATA, and 2 for all other commands.
fn is_expected_reply(phase: Phase, reply: &RawReply) -> bool {
    match phase {
        Phase::Data => (300..=399).contains(&reply.code),
        _ => reply.is_positive(),
    }
}
