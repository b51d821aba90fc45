//! The wire: commands go out, whole replies come in, within bounds. What follows a reply stays for
//! the next one, so that replies can be pipelined and none is taken for the answer to another
//! command.

use std::io;

use bytes::{Buf, BytesMut};
use domain::outcome::{FaultKind, Side};
use domain::reply::Reply;
use system::whose_fault::{Cause, When, network_error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::contact;
use crate::in_doubt::InDoubt;

/// The most that one reply may have, in bytes. The longest lines of real servers fit in many times.
const REPLY_MAX: usize = 256 << 10;

/// How much of a reply's text is kept, in bytes.
const KEPT_MAX: usize = 16 << 10;

/// How much is read at once, in bytes.
const READ: usize = 4 << 10;

/// How much is written at once, in bytes.
const WRITE: usize = 64 << 10;

/// A connection, in the clear or encrypted.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection and what has been read from it ahead.
pub(crate) struct Wire {
    stream: Stream,
    ahead: BytesMut,
}

/// What the peer answered to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// The code of its last line, 200 to 599.
    pub(crate) code: u16,
    text: Vec<u8>,
}

/// Why there was no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Silence {
    pub(crate) kind: FaultKind,
    /// What is known about the error, if an error led to it. One that is ours counts against no
    /// recipient.
    pub(crate) cause: Option<Cause>,
    pub(crate) text: String,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
        }
    }

    /// Sends all of it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Silence> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|err: io::Error| lost(&err))
    }

    /// Sends the content in pieces, as many at once as there is room for in [`WRITE`], while the
    /// message may be sent. The peer drops a message whose last piece does not come.
    pub(crate) async fn send_content(
        &mut self,
        pieces: impl Iterator<Item = &[u8]>,
        in_doubt: &InDoubt,
    ) -> Result<(), Silence> {
        let sent = async {
            let mut together = Vec::new();
            for piece in pieces {
                if together.len() + piece.len() > WRITE {
                    self.stream.write_all(&together).await?;
                    together.clear();
                }
                if piece.len() > WRITE {
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

    /// When the connection is closed, it is reset, and nothing more of what was written is sent.
    pub(super) fn break_off(&self) {
        let stream = match &self.stream {
            Either::Left(stream) => stream,
            Either::Right(stream) => stream.get_ref().0,
        };
        if let Err(err) = stream.set_zero_linger() {
            tracing::debug!(%err, "a connection is closed in order; what was written to it may still arrive");
        }
    }

    /// Reads one reply of one or more lines (RFC 5321, section 4.2.1). Lines that differ in their
    /// codes are taken for what the last one says.
    pub(crate) async fn reply(&mut self) -> Result<Said, Silence> {
        let (mut text, mut size) = (Vec::new(), 0);
        loop {
            let line = self.line(REPLY_MAX - size).await?;
            size += line.len();
            let Some((code, last)) = code_of(&line) else {
                return Err(Silence::new(FaultKind::Garbled, "the peer spoke no SMTP"));
            };
            let kept = line.len().min(KEPT_MAX.saturating_sub(text.len()));
            text.extend_from_slice(&line[..kept]);
            if last {
                return Ok(Said { code, text });
            }
        }
    }

    /// One line, its end included.
    async fn line(&mut self, max: usize) -> Result<BytesMut, Silence> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.ahead[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let len = searched + at + 1;
                if len <= max {
                    return Ok(self.ahead.split_to(len));
                }
            }
            searched = self.ahead.len();
            if searched >= max {
                let text = format!("a reply of more than {REPLY_MAX} bytes");
                return Err(Silence::new(FaultKind::Garbled, text));
            }
            self.ahead.reserve(READ);
            match self.stream.read_buf(&mut self.ahead).await {
                Ok(0) => {
                    return Err(Silence::new(
                        FaultKind::Lost,
                        "the peer closed the connection",
                    ));
                }
                Ok(_) => contact::note_answer(),
                Err(err) => return Err(lost(&err)),
            }
        }
    }

    /// Whether the peer has said something that nobody asked for: then the next reply would be
    /// taken for another's.
    pub(crate) fn has_more(&self) -> bool {
        self.ahead.has_remaining()
    }

    /// The connection itself; what was read ahead is lost.
    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }
}

impl Said {
    /// The reply, read.
    pub(crate) fn reply(&self) -> Reply {
        Reply::parse(&String::from_utf8_lossy(&self.text))
    }

    /// The lines after the first without their codes, as EHLO's keywords stand there.
    pub(crate) fn more_lines(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.split(|byte| *byte == b'\n').skip(1);
        lines
            .filter_map(|line| str::from_utf8(line.get(4..)?).ok())
            .map(str::trim)
    }

    pub(crate) fn is_yes(&self) -> bool {
        (200..=299).contains(&self.code)
    }

    pub(crate) fn is_no(&self) -> bool {
        self.code >= 400
    }
}

/// The code that a line begins with, and whether the line is the reply's last.
fn code_of(line: &[u8]) -> Option<(u16, bool)> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = str::from_utf8(digits).ok()?.parse().ok()?;
    let well = digits.iter().all(u8::is_ascii_digit) && (200..=599).contains(&code);
    match rest.first()? {
        b'-' if well => Some((code, false)),
        b' ' | b'\r' | b'\n' if well => Some((code, true)),
        _ => None,
    }
}

fn lost(err: &io::Error) -> Silence {
    Silence::by(
        network_error(err, When::Later),
        FaultKind::Lost,
        &err.to_string(),
    )
}

impl Silence {
    /// One that no error led to.
    pub(crate) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            cause: None,
            text: text.into(),
        }
    }

    /// One that an error led to.
    pub(crate) fn by(cause: Cause, kind: FaultKind, what: &str) -> Self {
        Self {
            kind,
            cause: Some(cause),
            text: cause.explain(what),
        }
    }

    /// Whether it is certainly our own fault.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind == FaultKind::Local || self.cause.is_some_and(|cause| cause.side == Side::Ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_code_and_says_whether_more_follow() {
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
        let said = Said {
            code: 552,
            text: b"552-5.2.2 The mailbox\r\n552 5.2.2 is full\r\n".to_vec(),
        };
        assert_eq!(said.reply().to_string(), "552 5.2.2 The mailbox is full");
        assert_eq!(said.more_lines().collect::<Vec<_>>(), ["5.2.2 is full"]);
    }
}
