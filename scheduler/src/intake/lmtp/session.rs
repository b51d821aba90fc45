//! One LMTP session on its connection: what the dialogue says to each command, and after the
//! content a reply per recipient (RFC 2033, section 4.2).

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::dialogue::{Dialogue, Next};
use super::lines::{Content, Lines};
use crate::connections::{Seat, UnderWay};
use crate::intake::dsn::Origin;

/// One connection.
pub(super) struct Session {
    lines: Lines,
    settings: Arc<Settings>,
    dialogue: Dialogue,
    seat: Arc<Seat>,
    /// While a transaction is under way the connection does not have to leave for others.
    transaction: Option<UnderWay>,
}

impl Session {
    pub(super) fn new(stream: TcpStream, seat: Arc<Seat>, settings: Arc<Settings>) -> Self {
        let lines = Lines::new(stream, settings.idle_max);
        let dialogue = Dialogue::new(
            &settings.host,
            settings.message_max,
            settings.recipients_max,
        );
        Self {
            lines,
            settings,
            dialogue,
            seat,
            transaction: None,
        }
    }

    /// Speaks until the client has enough, or `stop` is cancelled between two commands.
    pub(super) async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        self.lines
            .say(&format!("220 {} LMTP", self.settings.host))
            .await?;
        loop {
            let line = tokio::select! {
                line = self.lines.line() => line,
                () = stop.cancelled() => return self.lines.say("421 4.3.2 we are closing").await,
                () = self.seat.has_to_leave() => return self.lines.say("421 4.3.2 others need this connection").await,
            };
            let line = match line {
                Err(err) if err.kind() == io::ErrorKind::TimedOut => {
                    return self.lines.say("421 4.4.2 nothing came for too long").await;
                }
                line => line?,
            };
            match self
                .dialogue
                .next(&line, |address| self.settings.reports.expects(address))
            {
                Next::Say(reply) => self.lines.say(&reply).await?,
                Next::Content => self.content().await?,
                Next::Leave(reply) => return self.lines.say(reply).await,
            }
            if !self.dialogue.is_under_way() {
                self.transaction = None;
            } else if self.transaction.is_none() {
                self.transaction = Some(self.seat.begin());
            }
        }
    }

    /// Reads the content, takes in what it reports, and answers for each recipient.
    async fn content(&mut self) -> io::Result<()> {
        self.lines.say("354 go on").await?;
        let content = self.lines.content(self.settings.message_max).await?;
        let recipients = self.dialogue.end_transaction();
        match content {
            Content::TooLarge => {
                for _ in recipients {
                    self.lines.say("552 5.3.4 the message is too large").await?;
                }
            }
            Content::Whole(message) => {
                let reports = &self.settings.reports;
                let report = reports.read(message).await;
                for recipient in recipients {
                    let origin = Origin {
                        account: self.settings.account.clone(),
                        return_path: Some(recipient),
                    };
                    let reply = match reports.take(report.clone(), &origin).await {
                        Err(err) => {
                            tracing::warn!(%err, "a report was put off: the store did not take it");
                            "451 4.3.0 not now, the store did not take it".to_owned()
                        }
                        Ok(taken) => match taken.refusal() {
                            Some(why) => format!("550 5.6.0 {why}"),
                            None => "250 2.0.0 taken in".to_owned(),
                        },
                    };
                    self.lines.say(&reply).await?;
                }
            }
        }
        Ok(())
    }
}
