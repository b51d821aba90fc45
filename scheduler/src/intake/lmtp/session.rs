//! One LMTP session: a reply per command, and after the content a reply per recipient (RFC 2033, section 4.2).

use std::io;
use std::sync::Arc;

use smtp_proto::Request;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::lines::{Content, Line, Lines};
use crate::intake::dsn::Origin;

/// Commands that made no sense, after which a client is left.
const MISTAKES_MAX: usize = 20;

/// One connection.
pub(super) struct Session {
    lines: Lines,
    settings: Arc<Settings>,
    greeted: bool,
    /// Whether a sender was named: a transaction is under way.
    begun: bool,
    recipients: Vec<String>,
    mistakes: usize,
}

/// What follows a command.
enum Next {
    Say(String),
    Content,
    Quit,
}

impl Session {
    pub(super) fn new(stream: TcpStream, settings: Arc<Settings>) -> Self {
        let lines = Lines::new(stream, settings.idle_max);
        Self { lines, settings, greeted: false, begun: false, recipients: Vec::new(), mistakes: 0 }
    }

    /// Speaks until the client has enough, or `stop` is cancelled between two commands.
    pub(super) async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        self.lines.say(&format!("220 {} LMTP", self.settings.host)).await?;
        loop {
            let line = match stop.run_until_cancelled(self.lines.line()).await {
                None => return self.lines.say("421 4.3.2 we are closing").await,
                Some(Err(err)) if err.kind() == io::ErrorKind::TimedOut => {
                    return self.lines.say("421 4.4.2 nothing came for too long").await;
                }
                Some(line) => line?,
            };
            match self.next(&line) {
                Next::Say(reply) => {
                    self.mistakes += usize::from(reply.starts_with("50"));
                    if self.mistakes > MISTAKES_MAX {
                        return self.lines.say("421 4.5.0 too many mistakes").await;
                    }
                    self.lines.say(&reply).await?;
                }
                Next::Content => self.content().await?,
                Next::Quit => return self.lines.say("221 2.0.0 bye").await,
            }
        }
    }

    fn next(&mut self, line: &Line) -> Next {
        let Line::Whole(line) = line else { return say("500 5.5.2 the line is too long") };
        let request = match Request::parse(&mut line.iter()) {
            Ok(request) => request,
            Err(smtp_proto::Error::UnknownCommand | smtp_proto::Error::InvalidParameter { .. }) => {
                return say("500 5.5.2 this command is not known");
            }
            Err(_) => return say("501 5.5.4 this is not how the command is written"),
        };
        match request {
            Request::Lhlo { .. } => {
                self.reset();
                self.greeted = true;
                let Settings { host, message_max, .. } = &*self.settings;
                let extensions = "PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-SMTPUTF8";
                Next::Say(format!("250-{host}\r\n250-{extensions}\r\n250 SIZE {message_max}"))
            }
            Request::Ehlo { .. } | Request::Helo { .. } => say("500 5.5.1 this is LMTP: say LHLO"),
            Request::Quit => Next::Quit,
            Request::Noop { .. } => say("250 2.0.0 ok"),
            Request::Rset => {
                self.reset();
                say("250 2.0.0 ok")
            }
            Request::Vrfy { .. } => say("252 2.5.0 send it, and see"),
            Request::Mail { .. } if !self.greeted => say("503 5.5.1 say LHLO first"),
            Request::Mail { .. } if self.begun => say("503 5.5.1 there is a sender already"),
            Request::Mail { from } if from.size > self.settings.message_max => {
                say("552 5.3.4 the message is too large")
            }
            Request::Mail { .. } => {
                self.begun = true;
                say("250 2.1.0 ok")
            }
            Request::Rcpt { .. } if !self.begun => say("503 5.5.1 say MAIL first"),
            Request::Rcpt { .. } if self.recipients.len() >= self.settings.recipients_max => {
                say("452 4.5.3 too many recipients")
            }
            Request::Rcpt { to } => match self.settings.reports.expects(&to.address) {
                Ok(()) => {
                    self.recipients.push(to.address.into_owned());
                    say("250 2.1.5 ok")
                }
                Err(why) => Next::Say(format!("550 5.1.1 {why}")),
            },
            Request::Data if self.recipients.is_empty() => say("503 5.5.1 say MAIL and RCPT first"),
            Request::Data => Next::Content,
            _ => say("502 5.5.1 this is not done here"),
        }
    }

    /// Reads the content, takes in what it reports, and answers for each recipient.
    async fn content(&mut self) -> io::Result<()> {
        self.lines.say("354 go on").await?;
        let content = self.lines.content(self.settings.message_max).await?;
        let recipients = std::mem::take(&mut self.recipients);
        self.reset();
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
                    let origin = Origin { account: self.settings.account.clone(), return_path: Some(recipient) };
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

    fn reset(&mut self) {
        self.begun = false;
        self.recipients.clear();
    }
}

fn say(reply: &str) -> Next {
    Next::Say(reply.to_owned())
}
