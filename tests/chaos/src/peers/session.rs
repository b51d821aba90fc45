//! One connection of a client to a peer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{Book, Transaction};
use crate::script::{Act, Phase};

/// How late a slow answer comes.
const SLOWLY: Duration = Duration::from_millis(800);

/// The pause between the bytes of an answer that comes byte by byte.
const DRIP: Duration = Duration::from_millis(30);

/// How long a peer that hangs waits for the client to give up.
const HANG: Duration = Duration::from_secs(20);

/// The longest line and the largest content that a peer reads.
const CONTENT_MAX: u64 = 1 << 20;

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// What happens after an answer.
enum Next {
    Command,
    Encrypt,
    Close,
    Reset,
}

struct Session {
    book: Arc<Book>,
    connection: usize,
    route: &'static str,
    encrypted: bool,
    offers_tls: bool,
    life: String,
    return_path: String,
    /// The recipient of the previous transaction.
    last: Option<String>,
    open: Option<Transaction>,
}

/// Serves one client until either side ends the connection.
pub(super) async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    route: &'static str,
    book: Arc<Book>,
) {
    let connection = book.next_connection();
    let mut session = Session {
        book,
        connection,
        route,
        encrypted: false,
        offers_tls: tls.is_some(),
        life: "?".to_owned(),
        return_path: String::new(),
        last: None,
        open: None,
    };
    // It does not matter how the connection ends: the records contain what the client did.
    let _ = session.run(stream, tls).await;
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_transaction();
    }
}

impl Session {
    fn end_transaction(&mut self) {
        if let Some(transaction) = self.open.take() {
            self.book.end(&transaction);
        }
    }

    async fn run(&mut self, stream: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(Either::Left(stream));
        say(&mut lines, "220 peer.chaos.test ESMTP").await?;
        loop {
            let Some(line) = read_line(&mut lines).await? else {
                return Ok(());
            };
            match self.answer(&line, &mut lines).await? {
                Next::Command => {}
                Next::Close => return Ok(()),
                Next::Reset => {
                    if let Either::Left(stream) = lines.get_ref() {
                        stream.set_zero_linger()?;
                    }
                    return Ok(());
                }
                Next::Encrypt => {
                    let (Some(tls), Either::Left(stream)) = (&tls, lines.into_inner()) else {
                        return Ok(());
                    };
                    lines = BufReader::new(Either::Right(Box::new(tls.accept(stream).await?)));
                    self.encrypted = true;
                }
            }
        }
    }

    async fn answer(&mut self, line: &str, lines: &mut BufReader<Stream>) -> io::Result<Next> {
        let verb = line
            .split([' ', ':'])
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" | "HELO" => {
                line.get(5..)
                    .unwrap_or_default()
                    .trim()
                    .clone_into(&mut self.life);
                let tls = if self.offers_tls && !self.encrypted {
                    "250-STARTTLS\r\n"
                } else {
                    ""
                };
                let hello = format!(
                    "250-peer.chaos.test\r\n{tls}250-PIPELINING\r\n250-8BITMIME\r\n\
                     250 ENHANCEDSTATUSCODES"
                );
                say(lines, &hello).await?;
                Ok(Next::Command)
            }
            "STARTTLS" => {
                say(lines, "220 2.0.0 go on").await?;
                Ok(Next::Encrypt)
            }
            "MAIL" => {
                self.return_path = bracketed(line);
                say(lines, "250 2.1.0 ok").await?;
                Ok(Next::Command)
            }
            "RCPT" => self.recipient(&bracketed(line), lines).await,
            "DATA" => self.content(lines).await,
            "QUIT" => {
                say(lines, "221 2.0.0 bye").await?;
                Ok(Next::Close)
            }
            _ => {
                if verb == "RSET" {
                    self.end_transaction();
                }
                say(lines, "250 2.0.0 ok").await?;
                Ok(Next::Command)
            }
        }
    }

    async fn recipient(
        &mut self,
        recipient: &str,
        lines: &mut BufReader<Stream>,
    ) -> io::Result<Next> {
        self.end_transaction();
        let begins = self.last.as_deref() != Some(recipient);
        self.last = Some(recipient.to_owned());
        let transaction =
            self.book
                .begin(self.route, self.connection, &self.life, recipient, begins);
        let act = transaction.act;
        self.open = Some(transaction);
        match act {
            Act::Say(Phase::Recipient, reply) => {
                self.end_transaction();
                say(lines, reply).await?;
                return Ok(if reply.starts_with("421") {
                    Next::Close
                } else {
                    Next::Command
                });
            }
            Act::Hang(Phase::Recipient) => return hang(lines).await,
            Act::Reset(Phase::Recipient) => return Ok(Next::Reset),
            Act::Drip => {
                for byte in b"250 2.1.5 ok\r\n" {
                    sleep(DRIP).await;
                    lines.write_all(&[*byte]).await?;
                    lines.flush().await?;
                }
            }
            _ => say(lines, "250 2.1.5 ok").await?,
        }
        Ok(Next::Command)
    }

    async fn content(&mut self, lines: &mut BufReader<Stream>) -> io::Result<Next> {
        let Some(act) = self.open.as_ref().map(|open| open.act) else {
            say(lines, "503 5.5.1 no recipient").await?;
            return Ok(Next::Command);
        };
        say(lines, "354 go on").await?;
        let Some(content) = read_content(lines).await? else {
            return Ok(Next::Close);
        };
        let message = message_id(&content);
        let Some(open) = &self.open else {
            return Ok(Next::Close);
        };
        let reply = match act {
            Act::Hang(_) => return hang(lines).await,
            Act::Reset(_) => return Ok(Next::Reset),
            Act::Say(_, reply) => reply,
            Act::TakeAndClose => {
                self.book.record_accepted(open, &message, false);
                return Ok(Next::Close);
            }
            Act::Take | Act::TakeSlowly | Act::Drip => {
                self.book.record_accepted(open, &message, true);
                if self.route == "confirmed" {
                    self.book.report_later(open, &message, &self.return_path);
                }
                if act == Act::TakeSlowly {
                    sleep(SLOWLY).await;
                }
                "250 2.0.0 taken"
            }
        };
        self.end_transaction();
        say(lines, reply).await?;
        Ok(Next::Command)
    }
}

async fn say(lines: &mut BufReader<Stream>, reply: &str) -> io::Result<()> {
    lines.write_all(format!("{reply}\r\n").as_bytes()).await?;
    lines.flush().await
}

/// Waits until the client gives up.
async fn hang(lines: &mut BufReader<Stream>) -> io::Result<Next> {
    let mut rest = [0; 1_024];
    let gone = async { while lines.read(&mut rest).await.is_ok_and(|len| len > 0) {} };
    let _ = timeout(HANG, gone).await;
    Ok(Next::Close)
}

async fn read_line(lines: &mut BufReader<Stream>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let len = lines.take(CONTENT_MAX).read_until(b'\n', &mut line).await?;
    Ok((len > 0).then(|| String::from_utf8_lossy(&line).trim_end().to_owned()))
}

/// The lines up to a line with only a dot. `None` if the connection ends before.
async fn read_content(lines: &mut BufReader<Stream>) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    let mut lines = lines.take(CONTENT_MAX);
    loop {
        let start = content.len();
        if lines.read_until(b'\n', &mut content).await? == 0 {
            return Ok(None);
        }
        if &content[start..] == b".\r\n" {
            return Ok(Some(content));
        }
    }
}

fn bracketed(line: &str) -> String {
    line.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or_else(String::new, |(inner, _)| inner.to_owned())
}

fn message_id(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("Message-ID: "));
    value.unwrap_or("no Message-ID").trim().to_owned()
}
