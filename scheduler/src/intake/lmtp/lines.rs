//! Reads from an LMTP connection: lines of bounded length, and content of bounded size. Reads and
//! writes fail with a time-out if the client is idle for too long. Knows no command.

use std::io;
use std::time::Duration;

use smtp_proto::request::receiver::{DataReceiver, DummyDataReceiver};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::dialogue::Line;

/// The longest command line, in bytes: 512 (RFC 5321, section 4.5.3.1.4) and room for what
/// extensions add.
const LINE_MAX: usize = 2_048;

/// A connection that is read line by line.
pub(super) struct Lines {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    idle_max: Duration,
}

/// The content of a message.
#[derive(Debug)]
pub(super) enum Content {
    /// The whole content.
    Whole(Vec<u8>),
    /// The content is larger than allowed.
    TooLarge,
}

impl Lines {
    pub(super) fn new(stream: TcpStream, idle_max: Duration) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            idle_max,
        }
    }

    /// Reads the next line. All of it must arrive within the time limit. Cancel-safe as long as
    /// nothing of the line has arrived.
    pub(super) async fn line(&mut self) -> io::Result<Line> {
        timeout(self.idle_max, self.whole_line()).await?
    }

    async fn whole_line(&mut self) -> io::Result<Line> {
        let (mut line, mut too_long) = (Vec::new(), false);
        loop {
            let chunk = self.chunk().await?;
            let end = chunk
                .iter()
                .position(|byte| *byte == b'\n')
                .map(|end| end + 1);
            let used = end.unwrap_or(chunk.len());
            too_long |= line.len() + used > LINE_MAX;
            if !too_long {
                line.extend_from_slice(&chunk[..used]);
            }
            self.reader.consume(used);
            if end.is_some() {
                return Ok(if too_long {
                    Line::TooLong
                } else {
                    Line::Whole(line)
                });
            }
        }
    }

    /// Reads the content up to the line that is a single dot, and removes the dots that were added
    /// to other lines (RFC 5321, section 4.5.2). Content that is too large is read to its end and
    /// discarded.
    pub(super) async fn content(&mut self, max: usize) -> io::Result<Content> {
        let mut receiver = DataReceiver::new();
        // A single dot ends the content only after a line end. Before the first line, that is the
        // line end of the DATA command.
        receiver.ingest(&mut b"\r\n".iter(), &mut Vec::new());
        let mut discarding: Option<DummyDataReceiver> = None;
        let mut content = Vec::new();
        loop {
            let chunk = self.chunk().await?;
            let mut rest = chunk.iter();
            let done = match &mut discarding {
                Some(discarding) => discarding.ingest(&mut rest),
                None => receiver.ingest(&mut rest, &mut content),
            };
            let used = chunk.len() - rest.as_slice().len();
            self.reader.consume(used);
            let too_large = content.len() > max || discarding.is_some();
            match (done, too_large) {
                (true, false) => return Ok(Content::Whole(content)),
                (true, true) => return Ok(Content::TooLarge),
                (false, true) if discarding.is_none() => {
                    discarding = Some(DummyDataReceiver::new_data(&receiver));
                    content = Vec::new();
                }
                (false, _) => {}
            }
        }
    }

    /// Writes a reply.
    pub(super) async fn reply(&mut self, reply: &str) -> io::Result<()> {
        let reply = format!("{reply}\r\n");
        timeout(self.idle_max, self.writer.write_all(reply.as_bytes())).await?
    }

    /// Returns the bytes that have arrived and are not used yet. Waits if there are none.
    async fn chunk(&mut self) -> io::Result<&[u8]> {
        let chunk = timeout(self.idle_max, self.reader.fill_buf()).await??;
        if chunk.is_empty() {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(chunk)
        }
    }
}
