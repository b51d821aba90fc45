//! A transaction: one message for one recipient over a session (RFC 5321, section 3.3), with the
//! commands sent ahead of their replies where the peer takes that (RFC 2920).

use std::future::pending;
use std::mem;
use std::time::{Duration, Instant};

use domain::outcome::FaultKind;
use domain::reply::Reply;
use domain::transcript::Phase;
use tokio::time::timeout;

use super::dots::dot_stuffed;
use super::envelope::Envelope;
use super::session::{Session, ask, in_time};
use super::stop::{Stop, Why};
use super::trail::Trail;
use super::wire::{Said, Silence};
use crate::attempt::Attempt;
use crate::contact;

/// How long making a session fit for the next message may take.
const RESET_MAX: Duration = Duration::from_secs(5);

impl Session {
    /// Hands one message over. What the peer says is told at once: where it is a refusal, the
    /// session has to be [`reset`](Self::reset) before it carries the next, and where it is
    /// anything else, to be given up.
    pub(crate) async fn hand_over(
        &mut self,
        attempt: &Attempt,
        content: &[u8],
        trail: &mut Trail,
    ) -> Result<Reply, Stop> {
        let handed_over = self.transact(attempt, content, trail).await;
        (self.refused, self.used) = (
            matches!(&handed_over, Err(stop) if !stop.is_about_connection()),
            Instant::now(),
        );
        handed_over
    }

    async fn transact(
        &mut self,
        attempt: &Attempt,
        content: &[u8],
        trail: &mut Trail,
    ) -> Result<Reply, Stop> {
        trail.begin(Phase::Mail);
        let envelope = Envelope::new(&self.offers, self.settings.notify, attempt, content)
            .map_err(|reply| Stop {
                phase: Phase::Mail,
                why: Why::Said(reply),
            })?;
        // The connection may have taken long to open.
        attempt.in_doubt.may_send().await;
        contact::wait();
        (self.in_transaction, self.messages) = (true, self.messages + 1);
        self.open_transaction(&envelope, trail).await?;
        if !contact::begin_content() {
            // It is being cut off, and the peer has nothing yet.
            return pending().await;
        }
        let limit = self.settings.timeouts.data;
        in_time(
            Phase::Data,
            limit,
            self.wire
                .send_content(dot_stuffed(content), &attempt.in_doubt),
        )
        .await?;

        // From here on the peer may have the message, whatever we hear.
        trail.begin(Phase::Dot);
        let said = attempt
            .in_doubt
            .answer(in_time(
                Phase::Dot,
                self.settings.timeouts.dot,
                self.wire.reply(),
            ))
            .await;
        trail.end();
        // That nobody waited says nothing of the peer.
        let cut_off = || Why::Broken(Silence::new(FaultKind::Local, "cut off before the answer"));
        match said.unwrap_or_else(|| {
            Err(Stop {
                phase: Phase::Dot,
                why: cut_off(),
            })
        }) {
            Ok(said) if said.is_yes() => {
                self.in_transaction = false;
                Ok(said.reply())
            }
            Ok(said) => Err(Stop::said(Phase::Dot, &said)),
            Err(stop) => Err(stop),
        }
    }

    /// MAIL, RCPT and DATA, until the peer waits for the content.
    async fn open_transaction(
        &mut self,
        envelope: &Envelope,
        trail: &mut Trail,
    ) -> Result<(), Stop> {
        let timeouts = self.settings.timeouts;
        let steps = [
            (Phase::Mail, envelope.mail.as_str(), timeouts.mail),
            (Phase::Rcpt, envelope.rcpt.as_str(), timeouts.rcpt),
            (Phase::Data, "DATA\r\n", timeouts.data),
        ];
        let ahead = self.offers.pipelining();
        if ahead {
            let all = steps.map(|(_, command, _)| command).concat();
            in_time(Phase::Mail, timeouts.mail, self.wire.send(all.as_bytes())).await?;
        }
        for (n, (phase, command, limit)) in steps.into_iter().enumerate() {
            trail.begin(phase);
            let said = if ahead {
                self.outstanding = steps.len() - n - 1;
                in_time(phase, limit, self.wire.reply()).await?
            } else {
                ask(&mut self.wire, phase, limit, command).await?
            };
            if !goes_on(phase, &said) {
                return Err(Stop::said(phase, &said));
            }
        }
        Ok(())
    }

    /// Ends a transaction that was refused, so that the session is fit for the next; `false` where
    /// that cannot be.
    pub(crate) async fn reset(&mut self) -> bool {
        // Where it is cut off on the way, nobody knows any more what the peer will say next.
        let refused = mem::take(&mut self.refused);
        if refused
            && self.in_transaction
            && matches!(timeout(RESET_MAX, self.abandon()).await, Ok(Ok(())))
        {
            self.in_transaction = false;
        }
        !self.in_transaction
    }

    /// Hears out what was sent ahead, and ends the transaction.
    async fn abandon(&mut self) -> Result<(), Silence> {
        let mut waits_for_content = false;
        while self.outstanding > 0 {
            waits_for_content = goes_on(Phase::Data, &self.wire.reply().await?);
            self.outstanding -= 1;
        }
        if waits_for_content {
            // The peer takes content for nobody; it gets none (RFC 2920, section 3.1).
            self.wire.send(b".\r\n").await?;
            self.wire.reply().await?;
        }
        self.wire.send(b"RSET\r\n").await?;
        let said = self.wire.reply().await?;
        if said.is_yes() {
            Ok(())
        } else {
            Err(Silence::new(FaultKind::Garbled, "RSET refused"))
        }
    }
}

/// Whether the reply lets the transaction go on. The first digit says so, whatever the others are
/// (RFC 5321, section 4.2); only for DATA is it another one.
fn goes_on(phase: Phase, said: &Said) -> bool {
    match phase {
        Phase::Data => (300..=399).contains(&said.code),
        _ => said.is_yes(),
    }
}
