//! One LMTP session on its connection. The dialogue answers each command. After the content there
//! is one reply per recipient (RFC 2033, section 4.2).

use std::io;
use std::sync::Arc;

use domain::account::Accounts;
use system::limiter::admit_outage;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::dialogue::{Dialogue, Next};
use super::lines::{Content, Lines};
use super::settings::Settings;
use crate::connections::{Busy, Place};
use crate::intake::dsn::Origin;

/// One connection.
pub(super) struct Session {
    lines: Lines,
    settings: Arc<Settings>,
    dialogue: Dialogue,
    place: Arc<Place>,
    /// Exists while a transaction is in progress. The connection is then not closed to make room.
    transaction: Option<Busy>,
}

impl Session {
    pub(super) fn new(stream: TcpStream, place: Arc<Place>, settings: Arc<Settings>) -> Self {
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
            place,
            transaction: None,
        }
    }

    /// Answers commands until the client quits, or until `stop` is cancelled between two commands.
    pub(super) async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        self.lines
            .reply(&format!("220 {} LMTP", self.settings.host))
            .await?;
        loop {
            let line = tokio::select! {
                line = self.lines.line() => line,
                () = stop.cancelled() => {
                    return self.lines.reply("421 4.3.2 the server is closing").await;
                }
                () = self.place.must_close() => {
                    return self.lines.reply("421 4.3.2 the idle connection makes room").await;
                }
            };
            let line = match line {
                Err(err) if err.kind() == io::ErrorKind::TimedOut => {
                    return self
                        .lines
                        .reply("421 4.4.2 nothing arrived for too long")
                        .await;
                }
                line => line?,
            };
            match self
                .dialogue
                .next(&line, |address| self.settings.reports.expects(address))
            {
                Next::Say(reply) => self.lines.reply(&reply).await?,
                Next::Content => self.receive_content().await?,
                Next::Leave(reply) => return self.lines.reply(reply).await,
            }
            if !self.dialogue.is_under_way() {
                self.transaction = None;
            } else if self.transaction.is_none() {
                self.transaction = Some(self.place.set_busy());
            }
        }
    }

    /// Reads the content, processes the report in it, and answers for each recipient.
    async fn receive_content(&mut self) -> io::Result<()> {
        self.lines.reply("354 go on").await?;
        let content = self.lines.content(self.settings.message_max).await?;
        let recipients = self.dialogue.end_transaction();
        match content {
            Content::TooLarge => {
                for _ in recipients {
                    self.lines
                        .reply("552 5.3.4 the message is too large")
                        .await?;
                }
            }
            Content::Whole(message) => {
                let reports = &self.settings.reports;
                let report = reports.read(message).await;
                for recipient in recipients {
                    let origin = Origin {
                        account: self.settings.account.clone(),
                        return_path: Some(recipient),
                        accounts: Accounts::All,
                    };
                    let reply = match reports.process(report.clone(), &origin).await {
                        Err(err) => {
                            if let Some(left_out) = admit_outage("deferred reports") {
                                tracing::warn!(
                                    %err,
                                    left_out,
                                    "a report was deferred: the store failed"
                                );
                            }
                            "451 4.3.0 not now, the store did not accept it; try again later"
                                .to_owned()
                        }
                        Ok(answer) => match answer.refusal() {
                            Some(refusal) => format!("550 5.6.0 {}", refusal.reason),
                            None => "250 2.0.0 taken in".to_owned(),
                        },
                    };
                    self.lines.reply(&reply).await?;
                }
            }
        }
        Ok(())
    }
}
