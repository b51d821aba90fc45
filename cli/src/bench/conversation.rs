//! Reads SMTP input, for the mail servers of several modes: the next command, or a message up to
//! its end.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;

/// The longest line that is read, in octets.
const LINE_MAX: u64 = 4_096;

/// The lines that a client sends.
pub(super) struct Input {
    reader: BufReader<OwnedReadHalf>,
    line: String,
}

impl Input {
    pub(super) fn new(half: OwnedReadHalf) -> Self {
        Self {
            reader: BufReader::new(half),
            line: String::new(),
        }
    }

    /// Returns the verb of the next command: its first four octets. `None` if the client has
    /// closed the connection.
    pub(super) async fn verb(&mut self) -> io::Result<Option<&str>> {
        Ok(self
            .next_line()
            .await?
            .then(|| self.line.get(..4).unwrap_or_default()))
    }

    /// Reads a message up to its final dot. Returns false if the client closed the connection
    /// before that.
    pub(super) async fn skip_message(&mut self) -> io::Result<bool> {
        loop {
            if !self.next_line().await? {
                return Ok(false);
            }
            if self.line.trim_end() == "." {
                return Ok(true);
            }
        }
    }

    /// Reads until the client closes the connection.
    pub(super) async fn skip_all(&mut self) -> io::Result<()> {
        let mut rest = [0; 256];
        while self.reader.read(&mut rest).await? > 0 {}
        Ok(())
    }

    /// Reads the next line. Returns false if the client has closed the connection.
    async fn next_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        Ok((&mut self.reader)
            .take(LINE_MAX)
            .read_line(&mut self.line)
            .await?
            > 0)
    }
}
