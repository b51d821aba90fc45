//! One SMTP connection of a mail server of the demo: reads commands and sends replies (RFC 5321).
//! The module `state` decides which recipients are accepted.

use std::io;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::state::ServerState;
use super::transaction::{MESSAGE_MAX, Transaction, open};

/// The longest line that a server reads, in octets with its CRLF.
pub(super) const LINE_MAX: usize = 4096;

/// Serves one connection to its end.
pub(super) async fn converse(stream: TcpStream, server: &ServerState) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    let mut replies = format!("220 mx.{} ESMTP\r\n", server.behavior.domain);
    let mut dialogue = Dialogue {
        server,
        greeted: false,
        over: false,
        transaction: None,
    };
    loop {
        // Replies to pipelined commands are sent together, after the last command in the buffer
        // (RFC 2920 §3.2).
        if input.buffer().is_empty() || dialogue.over {
            output.write_all(replies.as_bytes()).await?;
            replies.clear();
        }
        if dialogue.over || !read_line(&mut input, &mut line).await? {
            return Ok(());
        }
        if let Some(reply) = dialogue.answer_line(&line) {
            replies.push_str(&reply);
            replies.push_str("\r\n");
        }
    }
}

/// Reads one line with its line end. Returns false at the end of the input. If the line is longer
/// than [`LINE_MAX`], `line` contains only a part of it, without a line end.
async fn read_line(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut too_long = false;
    loop {
        line.clear();
        (&mut *input)
            .take(LINE_MAX as u64)
            .read_until(b'\n', line)
            .await?;
        if line.ends_with(b"\n") {
            if too_long {
                line.pop();
            }
            return Ok(true);
        }
        if line.len() < LINE_MAX {
            return Ok(false);
        }
        too_long = true;
    }
}

/// The state of one SMTP connection.
struct Dialogue<'a> {
    server: &'a ServerState,
    greeted: bool,
    /// Whether the client has sent QUIT.
    over: bool,
    transaction: Option<Transaction>,
}

impl Dialogue<'_> {
    /// Handles the next line. Returns the reply, if the line needs one.
    fn answer_line(&mut self, line: &[u8]) -> Option<String> {
        if let Some(transaction) = self
            .transaction
            .take_if(|transaction| transaction.content.is_some())
        {
            return self.collect(transaction, line);
        }
        if !line.ends_with(b"\n") {
            return Some("500 5.5.2 Line too long".into());
        }
        Some(match str::from_utf8(line) {
            Ok(command) => self.run_command(command.trim_end()),
            Err(_) => "500 5.5.2 Not UTF-8".into(),
        })
    }

    /// Runs a command and returns the reply.
    fn run_command(&mut self, command: &str) -> String {
        let (verb, argument) = command.split_once(' ').unwrap_or((command, ""));
        let verb = verb.to_ascii_uppercase();
        let reply = match (verb.as_str(), &mut self.transaction) {
            ("EHLO" | "HELO", _) if argument.trim().is_empty() => "501 5.5.4 Name yourself",
            ("EHLO" | "HELO", _) => return self.greet(&verb),
            ("NOOP", _) => "250 2.0.0 OK",
            ("RSET", transaction) => {
                *transaction = None;
                "250 2.0.0 OK"
            }
            ("QUIT", _) => {
                self.over = true;
                "221 2.0.0 Bye"
            }
            ("MAIL" | "RCPT" | "DATA", _) if !self.greeted => "503 5.5.1 EHLO comes first",
            ("MAIL", Some(_)) => "503 5.5.1 A transaction is open",
            ("MAIL", transaction) => match open(argument) {
                Ok(opened) => {
                    *transaction = Some(opened);
                    "250 2.1.0 OK"
                }
                Err(refusal) => refusal,
            },
            ("RCPT" | "DATA", None) => "503 5.5.1 MAIL comes first",
            ("RCPT", Some(transaction)) => match self.server.check_recipient(transaction, argument)
            {
                Ok(recipient) => {
                    transaction.recipients.push(recipient);
                    "250 2.1.5 OK"
                }
                Err(refusal) => {
                    self.server.refusals.fetch_add(1, Ordering::Relaxed);
                    refusal
                }
            },
            ("DATA", Some(_)) if !argument.is_empty() => "501 5.5.4 DATA has no argument",
            ("DATA", Some(transaction)) if transaction.recipients.is_empty() => {
                "503 5.5.1 No valid recipients"
            }
            ("DATA", Some(transaction)) => {
                transaction.content = Some(Vec::new());
                "354 End data with <CR><LF>.<CR><LF>"
            }
            _ => "500 5.5.2 Command not recognized",
        };
        reply.into()
    }

    /// Answers `EHLO` or `HELO`: drops any open transaction and lists the extensions (RFC 5321
    /// §4.1.4).
    fn greet(&mut self, verb: &str) -> String {
        self.greeted = true;
        self.transaction = None;
        let name = format!("mx.{}", self.server.behavior.domain);
        if verb == "HELO" {
            return format!("250 {name}");
        }
        let extensions =
            "250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES";
        format!("250-{name}\r\n{extensions}\r\n250 SIZE {MESSAGE_MAX}")
    }

    /// Adds a line of the message to its transaction. The transaction stays open until the final
    /// dot (RFC 5321 §4.5.2).
    fn collect(&mut self, mut transaction: Transaction, line: &[u8]) -> Option<String> {
        let content = transaction.content.get_or_insert_default();
        if line == b".\r\n" {
            return Some(transaction.fault.map_or_else(
                || self.server.accept(&transaction.recipients, content),
                Into::into,
            ));
        }
        if !line.ends_with(b"\n") {
            transaction.fault = Some("500 5.5.2 Line too long");
        } else if content.len() + line.len() > MESSAGE_MAX {
            transaction.fault = Some("552 5.3.4 Message too big");
        } else {
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        self.transaction = Some(transaction);
        None
    }
}
