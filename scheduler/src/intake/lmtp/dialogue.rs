//! Our side of an LMTP conversation without its connection (RFC 2033): a command line in, the reply
//! out. Knows no socket and no store. The caller decides which recipients are accepted.

use std::mem;

use smtp_proto::Request;

/// How many wrong commands a client may send. After the next one the session ends.
const MISTAKES_MAX: usize = 20;

/// How many commands a client may send without a message, in addition to one per recipient. After
/// the next one the session ends.
const IDLE_COMMANDS_MAX: usize = 1_000;

/// The first bytes of a connection in other protocols: HTTP, HTTP/2 and SSH.
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
    /// A whole line, with its line end.
    Whole(Vec<u8>),
    /// A line that is longer than a command can be. Its bytes are gone.
    TooLong,
}

/// What to do after a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this reply. Several lines have CRLF between them.
    Say(String),
    /// Read the content. There is at least one recipient.
    Content,
    /// Send this last reply, and close the connection.
    Leave(&'static str),
}

/// The state of a conversation.
#[derive(Clone, Debug)]
pub struct Dialogue {
    host: String,
    message_max: usize,
    recipients_max: usize,
    greeted: bool,
    /// Whether a sender was named, so that a transaction is in progress.
    has_sender: bool,
    recipients: Vec<String>,
    mistakes: usize,
    /// The number of commands since the last message.
    commands: usize,
}

impl Dialogue {
    /// A new conversation, in which we are named `host`. Messages may have at most `message_max`
    /// bytes and `recipients_max` recipients.
    pub fn new(host: &str, message_max: usize, recipients_max: usize) -> Self {
        let (host, recipients) = (host.to_owned(), Vec::new());
        Self {
            host,
            message_max,
            recipients_max,
            greeted: false,
            has_sender: false,
            recipients,
            mistakes: 0,
            commands: 0,
        }
    }

    /// Returns what to do after a command. `expects` decides whether a recipient is accepted, and
    /// if not, returns the reason.
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
                return Next::Leave("421 4.7.0 this server speaks LMTP, and not your protocol");
            }
            Line::TooLong if !self.greeted => {
                return Next::Leave("421 4.7.0 this is LMTP: send LHLO first");
            }
            Line::Whole(line) => self.run_command(line, expects),
            Line::TooLong => reply("500 5.5.2 the line is too long"),
        };
        self.mistakes += usize::from(matches!(&next, Next::Say(reply) if reply.starts_with("50")));
        if self.mistakes > MISTAKES_MAX {
            Next::Leave("421 4.5.0 too many mistakes")
        } else {
            next
        }
    }

    /// Whether a transaction is in progress.
    pub fn is_under_way(&self) -> bool {
        self.has_sender
    }

    /// Ends the transaction. Returns its recipients.
    pub fn end_transaction(&mut self) -> Vec<String> {
        self.has_sender = false;
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
                return reply("500 5.5.2 this command is not known");
            }
            Err(_) => return reply("501 5.5.4 the parameters of the command are wrong"),
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
            Request::Ehlo { .. } | Request::Helo { .. } => {
                reply("500 5.5.1 this is LMTP: send LHLO")
            }
            Request::Quit => Next::Leave("221 2.0.0 bye"),
            Request::Noop { .. } => reply("250 2.0.0 ok"),
            Request::Rset => {
                self.end_transaction();
                reply("250 2.0.0 ok")
            }
            Request::Vrfy { .. } => reply("252 2.5.0 cannot verify; send the message to find out"),
            Request::Mail { .. } if !self.greeted => reply("503 5.5.1 send LHLO first"),
            Request::Mail { .. } if self.has_sender => reply("503 5.5.1 there is a sender already"),
            Request::Mail { from } if from.size > self.message_max => {
                reply("552 5.3.4 the message is too large")
            }
            Request::Mail { .. } => {
                self.has_sender = true;
                reply("250 2.1.0 ok")
            }
            Request::Rcpt { .. } if !self.has_sender => reply("503 5.5.1 send MAIL first"),
            Request::Rcpt { .. } if self.recipients.len() >= self.recipients_max => {
                reply("452 4.5.3 too many recipients")
            }
            Request::Rcpt { to } => match expects(&to.address) {
                Ok(()) => {
                    self.recipients.push(to.address.into_owned());
                    reply("250 2.1.5 ok")
                }
                Err(why) => Next::Say(format!("550 5.1.1 {why}")),
            },
            Request::Data if self.recipients.is_empty() => {
                reply("503 5.5.1 send MAIL and RCPT first")
            }
            Request::Data => {
                self.commands = 0;
                Next::Content
            }
            _ => reply("502 5.5.1 this command is not supported"),
        }
    }
}

/// Whether a line is the beginning of another protocol: a request of HTTP, or binary bytes like
/// those of TLS.
fn is_of_another_protocol(line: &[u8]) -> bool {
    let is_binary = line
        .first()
        .is_some_and(|byte| !matches!(byte, b'\r' | b'\n' | b'\t' | b' '..=b'~'));
    is_binary
        || OTHER_PROTOCOLS
            .iter()
            .any(|opening| line.starts_with(opening))
}

fn reply(text: &str) -> Next {
    Next::Say(text.to_owned())
}
