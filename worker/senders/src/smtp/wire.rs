//! The connection to a peer: sends commands and reads whole replies, within limits. Bytes that
//! follow a reply are kept for the next reply. So commands can be pipelined, and each reply is
//! matched with its own command.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use domain::outcome::{FaultKind, Side};
use domain::reply::Reply;
use system::whose_fault::{Cause, When, network_error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::contact;
use crate::in_doubt::InDoubt;

/// The maximum size of a reply, in bytes. It is many times the longest reply of real servers.
const REPLY_MAX: usize = 256 << 10;

/// How many bytes of a reply's text are kept.
const TEXT_MAX: usize = 16 << 10;

/// How long to wait for a reply on a connection that the peer has closed. The reply is there
/// already, if there is one.
const LAST_WORDS_MAX: Duration = Duration::from_millis(200);

/// How many bytes are read at once.
const READ_BYTES: usize = 4 << 10;

/// How many bytes are written at once.
const WRITE_BYTES: usize = 64 << 10;

/// A connection, unencrypted or encrypted.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection, and the bytes that were received but are in no reply yet.
pub(crate) struct Wire {
    stream: Stream,
    unread: BytesMut,
}

/// The peer's reply to one command, not parsed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawReply {
    /// The code of its last line, 200 to 599.
    pub(crate) code: u16,
    text: Vec<u8>,
}

/// Why there was no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoReply {
    pub(crate) kind: FaultKind,
    /// The error that caused it, if any. An error on our own side counts against no recipient.
    pub(crate) cause: Option<Cause>,
    pub(crate) text: String,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            unread: BytesMut::new(),
        }
    }

    /// Sends all bytes and flushes the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), NoReply> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|err: io::Error| lost(&err))
    }

    /// Sends the content, as many pieces at once as fit in [`WRITE_BYTES`]. Before it sends the
    /// last pieces, it checks that the message may still be sent. If it must not, the peer never
    /// gets the end of the message, and drops it.
    pub(crate) async fn send_content(
        &mut self,
        pieces: impl Iterator<Item = &[u8]>,
        in_doubt: &InDoubt,
    ) -> Result<(), NoReply> {
        let sent = async {
            let mut together = Vec::new();
            for piece in pieces {
                if together.len() + piece.len() > WRITE_BYTES {
                    self.stream.write_all(&together).await?;
                    together.clear();
                }
                if piece.len() > WRITE_BYTES {
                    self.stream.write_all(piece).await?;
                } else {
                    together.extend_from_slice(piece);
                }
            }
            in_doubt.may_send().await;
            self.stream.write_all(&together).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|err: io::Error| lost(&err))
    }

    /// Has this connection reset when it is closed: bytes that the system has queued are not sent.
    pub(super) fn reset_on_close(&self) {
        let stream = match &self.stream {
            Either::Left(stream) => stream,
            Either::Right(stream) => stream.get_ref().0,
        };
        if let Err(err) = stream.set_zero_linger() {
            tracing::debug!(
                %err,
                "a connection cannot be reset on close; bytes that were written may still arrive"
            );
        }
    }

    /// Reads one reply of one or more lines (RFC 5321, section 4.2.1). If the lines have different
    /// codes, the last one counts.
    pub(crate) async fn reply(&mut self) -> Result<RawReply, NoReply> {
        let (mut text, mut size) = (Vec::new(), 0);
        loop {
            let line = self.line(REPLY_MAX - size).await?;
            size += line.len();
            let Some((code, last)) = code_of(&line) else {
                return Err(NoReply::new(
                    FaultKind::NotSmtp,
                    "the peer did not answer in SMTP",
                ));
            };
            let kept = line.len().min(TEXT_MAX.saturating_sub(text.len()));
            text.extend_from_slice(&line[..kept]);
            if last {
                return Ok(RawReply { code, text });
            }
        }
    }

    /// Returns the negative reply that the peer sent before it closed the connection, if there is
    /// one: it says why.
    pub(crate) async fn last_words(&mut self) -> Option<RawReply> {
        let reply = timeout(LAST_WORDS_MAX, self.reply()).await.ok()?.ok()?;
        reply.is_negative().then_some(reply)
    }

    /// Reads one line, including its line end.
    async fn line(&mut self, max: usize) -> Result<BytesMut, NoReply> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let len = searched + at + 1;
                if len <= max {
                    return Ok(self.unread.split_to(len));
                }
            }
            searched = self.unread.len();
            if searched >= max {
                let text = format!("a reply of more than {REPLY_MAX} bytes");
                return Err(NoReply::new(FaultKind::NotSmtp, text));
            }
            self.unread.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) => {
                    return Err(NoReply::new(
                        FaultKind::Lost,
                        "the peer closed the connection",
                    ));
                }
                Ok(_) => contact::note_answer(),
                Err(err) => return Err(lost(&err)),
            }
        }
    }

    /// Whether the peer sent bytes although no command was sent. They would be read as the reply to
    /// the next command.
    pub(crate) fn has_unread(&self) -> bool {
        self.unread.has_remaining()
    }

    /// Returns the connection. Bytes that were received but are in no reply yet are lost.
    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }
}

impl RawReply {
    /// Returns the parsed reply. Its code is that of the last line, like [`Self::code`].
    pub(crate) fn parsed(&self) -> Reply {
        let reply = Reply::parse(&String::from_utf8_lossy(&self.text));
        if reply.code == Some(self.code) {
            return reply;
        }
        Reply {
            code: Some(self.code),
            status: reply
                .status
                .filter(|status| u16::from(status.class().digit()) == self.code / 100),
            ..reply
        }
    }

    /// Returns the lines after the first, without their codes. In a reply to EHLO they contain the
    /// keywords.
    pub(crate) fn later_lines(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.split(|byte| *byte == b'\n').skip(1);
        lines
            .filter_map(|line| str::from_utf8(line.get(4..)?).ok())
            .map(str::trim)
    }

    pub(crate) fn is_positive(&self) -> bool {
        (200..=299).contains(&self.code)
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.code >= 400
    }
}

/// Returns the code that a line begins with, and whether the line is the last of its reply.
fn code_of(line: &[u8]) -> Option<(u16, bool)> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = str::from_utf8(digits).ok()?.parse().ok()?;
    let is_code = digits.iter().all(u8::is_ascii_digit) && (200..=599).contains(&code);
    match rest.first()? {
        b'-' if is_code => Some((code, false)),
        b' ' | b'\r' | b'\n' if is_code => Some((code, true)),
        _ => None,
    }
}

fn lost(err: &io::Error) -> NoReply {
    NoReply::caused_by(
        network_error(err, When::Later),
        FaultKind::Lost,
        &err.to_string(),
    )
}

impl NoReply {
    /// Returns a `NoReply` without an underlying error.
    pub(crate) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            cause: None,
            text: text.into(),
        }
    }

    /// Returns a `NoReply` that was caused by an error.
    pub(crate) fn caused_by(cause: Cause, kind: FaultKind, what: &str) -> Self {
        Self {
            kind,
            cause: Some(cause),
            text: cause.explain(what),
        }
    }

    /// Whether the fault is certainly on our own side.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind == FaultKind::Local || self.cause.is_some_and(|cause| cause.side == Side::Ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_code_and_a_flag_for_more_lines() {
        for (line, code) in [
            ("250 ok\r\n", Some((250, true))),
            ("250-more\r\n", Some((250, false))),
            ("354\r\n", Some((354, true))),
            ("250\n", Some((250, true))),
            ("25 ok\r\n", None),
            ("+50 ok\r\n", None),
            ("150 ok\r\n", None),
            ("650 ok\r\n", None),
            ("2500 ok\r\n", None),
            ("HTTP/1.1 400 Bad Request\r\n", None),
            ("\r\n", None),
        ] {
            assert_eq!(code_of(line.as_bytes()), code, "{line:?}");
        }
    }

    #[test]
    fn a_reply_of_many_lines_is_read_as_a_whole() {
        let reply = RawReply {
            code: 552,
            text: b"552-5.2.2 The mailbox\r\n552 5.2.2 is full\r\n".to_vec(),
        };
        assert_eq!(reply.parsed().to_string(), "552 5.2.2 The mailbox is full");
        assert_eq!(reply.later_lines().collect::<Vec<_>>(), ["5.2.2 is full"]);
        for (code, text, parsed) in [
            (552, "250-2.1.5 jo\r\n552 5.2.2 full\r\n", "552 5.2.2 full"),
            (521, "220-2.0.0 mx\r\n521 no mail\r\n", "521 no mail"),
            // The last line was too far behind to be kept.
            (451, "550-5.1.1 see below\r\n", "451 see below"),
            (
                250,
                "550-5.1.1 see below\r\n250 ok\r\n",
                "250 see below 250 ok",
            ),
        ] {
            let reply = RawReply {
                code,
                text: text.into(),
            };
            assert_eq!(reply.parsed().to_string(), parsed, "{text:?}");
        }
    }
}
