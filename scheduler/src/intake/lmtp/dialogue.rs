//! Our side of an LMTP conversation without its wire: a command line in, what there is to say out
//! (RFC 2033). Knows no socket and no store; who may get mail it is told.

use std::mem;

use smtp_proto::Request;

/// Commands that made no sense, after which a client is left.
const MISTAKES_MAX: usize = 20;

/// Commands without a message, beyond those that name its recipients, after which a client is left.
const IDLE_COMMANDS_MAX: usize = 1_000;

/// How the lines begin that other protocols open with: HTTP, its second version, SSH.
const OTHER_PROTOCOLS: [&[u8]; 11] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PRI ",
    b"SSH-",
];

/// A command line.
#[derive(Clone, Debug)]
pub enum Line {
    /// With its line end.
    Whole(Vec<u8>),
    /// Longer than a command can be.
    TooLong,
}

/// What follows a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A reply; where it has several lines, with CRLF between them.
    Say(String),
    /// The content is to be read, for at least one recipient.
    Content,
    /// A last reply, and nothing more.
    Leave(&'static str),
}

/// How far a conversation has come.
#[derive(Clone, Debug)]
pub struct Dialogue {
    host: String,
    message_max: usize,
    recipients_max: usize,
    greeted: bool,
    /// Whether a sender was named: a transaction is under way.
    begun: bool,
    recipients: Vec<String>,
    mistakes: usize,
    /// Commands since the last message.
    commands: usize,
}

impl Dialogue {
    /// A new one, by the name of `host`, for messages of at most `message_max` bytes to at most
    /// `recipients_max` addresses.
    pub fn new(host: &str, message_max: usize, recipients_max: usize) -> Self {
        let (host, recipients) = (host.to_owned(), Vec::new());
        Self {
            host,
            message_max,
            recipients_max,
            greeted: false,
            begun: false,
            recipients,
            mistakes: 0,
            commands: 0,
        }
    }

    /// What follows a command. `expects` says whether an address may get mail, and if not, why.
    pub fn next(
        &mut self,
        line: &Line,
        expects: impl FnOnce(&str) -> Result<(), &'static str>,
    ) -> Next {
        self.commands += 1;
        if self.commands > IDLE_COMMANDS_MAX + self.recipients_max {
            return Next::Leave("421 4.7.0 too many commands without a message");
        }
        let next = match line {
            Line::Whole(line) if is_of_another_protocol(line) => {
                return Next::Leave("421 4.7.0 this is LMTP, and not the protocol that you speak");
            }
            Line::TooLong if !self.greeted => {
                return Next::Leave("421 4.7.0 this is LMTP: say LHLO first");
            }
            Line::Whole(line) => self.run_command(line, expects),
            Line::TooLong => say("500 5.5.2 the line is too long"),
        };
        self.mistakes += usize::from(matches!(&next, Next::Say(reply) if reply.starts_with("50")));
        if self.mistakes > MISTAKES_MAX {
            Next::Leave("421 4.5.0 too many mistakes")
        } else {
            next
        }
    }

    /// Whether a transaction is under way.
    pub fn is_under_way(&self) -> bool {
        self.begun
    }

    /// The recipients of the transaction, which is over.
    pub fn end_transaction(&mut self) -> Vec<String> {
        self.begun = false;
        mem::take(&mut self.recipients)
    }

    fn run_command(
        &mut self,
        line: &[u8],
        expects: impl FnOnce(&str) -> Result<(), &'static str>,
    ) -> Next {
        let request = match Request::parse(&mut line.iter()) {
            Ok(request) => request,
            Err(smtp_proto::Error::UnknownCommand | smtp_proto::Error::InvalidParameter { .. }) => {
                return say("500 5.5.2 this command is not known");
            }
            Err(_) => return say("501 5.5.4 this is not how the command is written"),
        };
        match request {
            Request::Lhlo { .. } => {
                self.end_transaction();
                self.greeted = true;
                let Self {
                    host, message_max, ..
                } = self;
                let extensions =
                    "PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-SMTPUTF8";
                Next::Say(format!(
                    "250-{host}\r\n250-{extensions}\r\n250 SIZE {message_max}"
                ))
            }
            Request::Ehlo { .. } | Request::Helo { .. } => say("500 5.5.1 this is LMTP: say LHLO"),
            Request::Quit => Next::Leave("221 2.0.0 bye"),
            Request::Noop { .. } => say("250 2.0.0 ok"),
            Request::Rset => {
                self.end_transaction();
                say("250 2.0.0 ok")
            }
            Request::Vrfy { .. } => say("252 2.5.0 send it, and see"),
            Request::Mail { .. } if !self.greeted => say("503 5.5.1 say LHLO first"),
            Request::Mail { .. } if self.begun => say("503 5.5.1 there is a sender already"),
            Request::Mail { from } if from.size > self.message_max => {
                say("552 5.3.4 the message is too large")
            }
            Request::Mail { .. } => {
                self.begun = true;
                say("250 2.1.0 ok")
            }
            Request::Rcpt { .. } if !self.begun => say("503 5.5.1 say MAIL first"),
            Request::Rcpt { .. } if self.recipients.len() >= self.recipients_max => {
                say("452 4.5.3 too many recipients")
            }
            Request::Rcpt { to } => match expects(&to.address) {
                Ok(()) => {
                    self.recipients.push(to.address.into_owned());
                    say("250 2.1.5 ok")
                }
                Err(why) => Next::Say(format!("550 5.1.1 {why}")),
            },
            Request::Data if self.recipients.is_empty() => say("503 5.5.1 say MAIL and RCPT first"),
            Request::Data => {
                self.commands = 0;
                Next::Content
            }
            _ => say("502 5.5.1 this is not done here"),
        }
    }
}

/// Whether a line is how another protocol begins: a request of HTTP, or bytes that are no text, as
/// of TLS.
fn is_of_another_protocol(line: &[u8]) -> bool {
    let is_binary = line
        .first()
        .is_some_and(|byte| !matches!(byte, b'\r' | b'\n' | b'\t' | b' '..=b'~'));
    is_binary
        || OTHER_PROTOCOLS
            .iter()
            .any(|opening| line.starts_with(opening))
}

fn say(reply: &str) -> Next {
    Next::Say(reply.to_owned())
}
