//! An LMTP client that sends line by line.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::wait::{eventually, in_time};

/// A connection whose greeting was received.
pub struct LmtpClient {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl LmtpClient {
    /// Connects as soon as a server listens there, and reads its greeting.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = eventually("an LMTP listener", async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        let (reader, writer) = stream.into_split();
        let mut client = Self {
            reader: BufReader::new(reader),
            writer,
        };
        let greeting = client.read_reply().await;
        assert!(greeting.starts_with("220 "), "{greeting}");
        client
    }

    /// Sends a line, and returns the last line of the reply.
    pub async fn say(&mut self, line: &str) -> String {
        self.send(&format!("{line}\r\n")).await;
        self.read_reply().await
    }

    /// Sends bytes unchanged.
    pub async fn send(&mut self, bytes: &str) {
        // If the server has closed the connection, its earlier replies can still be read.
        let _ = self.writer.write_all(bytes.as_bytes()).await;
    }

    /// Returns the last line of the next reply. It is empty if the server has closed the
    /// connection.
    pub async fn read_reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            in_time("a reply", self.reader.read_line(&mut line))
                .await
                .expect("the connection is not broken");
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    /// Delivers a message. Returns the reply for each accepted recipient.
    pub async fn deliver(&mut self, recipients: &[&str], message: &str) -> Vec<String> {
        assert!(self.say("LHLO client.example").await.starts_with("250 "));
        assert!(self.say("MAIL FROM:<>").await.starts_with("250 "));
        let mut accepted = 0;
        for recipient in recipients {
            accepted += usize::from(
                self.say(&format!("RCPT TO:<{recipient}>"))
                    .await
                    .starts_with("250 "),
            );
        }
        assert!(self.say("DATA").await.starts_with("354 "));
        self.send(&format!("{}\r\n.\r\n", message.replace("\r\n.", "\r\n..")))
            .await;
        let mut replies = Vec::new();
        for _ in 0..accepted {
            replies.push(self.read_reply().await);
        }
        replies
    }
}
