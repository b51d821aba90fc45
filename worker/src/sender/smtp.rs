//! Hands mail to a relay over SMTP (RFC 5321). Connections are kept and used again.
//!
//! What the relay says to MAIL, RCPT or the content is its answer for this message. Trouble before that (no connection,
//! a refused greeting) and lost connections are ours, and never count against the recipient.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool::managed::{self, Metrics, Pool, RecycleError, RecycleResult};
use mail_send::SmtpClient;
use mail_send::smtp::AssertReply;
use shared::address::Address;
use shared::config::SmtpSettings;
use shared::outcome::{Fault, FaultKind, Outcome, Side};
use shared::reply::Reply;
use smtp_proto::{EXT_8BIT_MIME, EXT_SIZE, EXT_SMTP_UTF8, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Attempt, Sender};

/// After so long without use a connection is not trusted any more: servers close idle ones.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// A relay has at least so long to take a message and answer for it: one that is given up too early is sent again, and
/// comes twice (RFC 5321, section 4.5.3.2.6).
const CONTENT_TIMEOUT: Duration = Duration::from_secs(600);

/// Sends by one relay.
pub struct SmtpSender {
    pool: Pool<Relay>,
    /// Whether the last connection could not be made, so that the log says once that it is so.
    down: AtomicBool,
    relay: String,
}

/// Makes connections to the relay.
struct Relay {
    settings: SmtpSettings,
}

/// A connection on which EHLO has been answered.
struct Connection {
    client: SmtpClient<TcpStream>,
    /// What the relay offers, as bits of `smtp_proto`.
    offers: u32,
    used: Instant,
    /// Whether a transaction is under way. It stays so where the attempt was cancelled, and nobody knows then what the
    /// relay will say next.
    in_transaction: bool,
}

/// Why a transaction did not end with a yes.
enum Stop {
    /// The relay said no; the connection is still good, unless it said 421.
    Said(Reply),
    /// The connection is of no more use.
    Broken(Fault),
    /// The connection had ended before it took the first command.
    Dead(Fault),
}

impl SmtpSender {
    /// A sender for one relay. Nothing is connected yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: SmtpSettings) -> Self {
        let connections = settings.connections;
        let relay = format!("{}:{}", settings.host, settings.port);
        let pool = Pool::builder(Relay { settings })
            .max_size(connections)
            .build()
            .expect("a pool without time limits of its own needs no runtime");
        Self { pool, relay, down: AtomicBool::new(false) }
    }

    /// One transaction on one connection. `Err` where a connection that had been used before turned out to be dead.
    async fn attempt(&self, attempt: &Attempt, content: &[u8]) -> Result<Outcome, Fault> {
        let mut connection = match self.pool.get().await {
            Ok(connection) => {
                if self.down.swap(false, Ordering::Relaxed) {
                    tracing::info!(relay = self.relay, "the relay answers again");
                }
                connection
            }
            Err(managed::PoolError::Backend(fault)) => {
                if !self.down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(relay = self.relay, %fault, "the relay cannot be used; jobs of its route wait");
                }
                return Ok(Outcome::Unreachable(fault));
            }
            Err(other) => return Ok(Outcome::Unreachable(ours(FaultKind::Connect, other.to_string()))),
        };
        let fresh = managed::Object::metrics(&connection).recycle_count == 0;
        match connection.transact(attempt, content).await {
            Ok(reply) => Ok(Outcome::Accepted(reply)),
            // A relay's farewell to a kept connection is about the connection (RFC 5321, section 3.8), not the message.
            Err(Stop::Said(reply)) if reply.code == Some(421) && !fresh => {
                drop(managed::Object::take(connection));
                Err(ours(FaultKind::Lost, reply.to_string()))
            }
            Err(Stop::Said(reply)) => {
                if reply.code == Some(421) || connection.reset().await.is_err() {
                    drop(managed::Object::take(connection));
                }
                Ok(outcome_of(reply))
            }
            Err(Stop::Dead(fault)) if !fresh => {
                drop(managed::Object::take(connection));
                Err(fault)
            }
            Err(Stop::Broken(fault) | Stop::Dead(fault)) => {
                drop(managed::Object::take(connection));
                Ok(Outcome::Unreachable(fault))
            }
        }
    }
}

#[async_trait]
impl Sender for SmtpSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        let Some(content) = &attempt.content else {
            return Outcome::Unreadable("the message has no content, which an smtp route needs".to_owned());
        };
        // A kept connection may have been closed by the relay while nobody looked. Each such try uses one up.
        loop {
            match self.attempt(attempt, content).await {
                Ok(outcome) => return outcome,
                Err(fault) => tracing::debug!(%fault, "a kept connection was dead"),
            }
        }
    }
}

impl managed::Manager for Relay {
    type Type = Connection;
    type Error = Fault;

    async fn create(&self) -> Result<Connection, Fault> {
        let SmtpSettings { host, port, helo, timeout: limit, .. } = &self.settings;
        let connect = |text: String| ours(FaultKind::Connect, format!("{host}:{port}: {text}"));
        let stream = timeout(*limit, TcpStream::connect((host.as_str(), *port)))
            .await
            .map_err(|_| connect("no answer".to_owned()))?
            .map_err(|err| connect(err.to_string()))?;
        // Each command waits for its reply: holding back small segments would only add delay.
        stream.set_nodelay(true).map_err(|err| connect(err.to_string()))?;
        let mut client = SmtpClient { stream, timeout: *limit };
        let greeting = timeout(*limit, client.read()).await.unwrap_or(Err(mail_send::Error::Timeout));
        greeting.and_then(AssertReply::into_positive_completion).map_err(|err| fault(&err))?;
        let offers = client.ehlo(helo).await.map_err(|err| fault(&err))?.capabilities;
        Ok(Connection { client, offers, used: Instant::now(), in_transaction: false })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Fault> {
        if connection.in_transaction || connection.used.elapsed() > IDLE_MAX {
            return Err(RecycleError::message("not to be used again"));
        }
        Ok(())
    }
}

impl Connection {
    async fn transact(&mut self, attempt: &Attempt, content: &[u8]) -> Result<Reply, Stop> {
        let mail = self.mail_command(attempt, content)?;
        self.in_transaction = true;
        let reply = self.client.cmd(&mail).await.map_err(|err| match err {
            mail_send::Error::Timeout => Stop::Broken(fault(&err)),
            _ => Stop::Dead(fault(&err)),
        })?;
        want(&reply, 200..=299)?;
        let rcpt = format!("RCPT TO:<{}>\r\n", attempt.recipient.as_str());
        want(&self.command(&rcpt).await?, 200..=299)?;
        want(&self.command("DATA\r\n").await?, 354..=354)?;
        let reply = self.send_content(content).await?;
        let reply = want(&reply, 200..=299)?;
        self.in_transaction = false;
        self.used = Instant::now();
        Ok(reply)
    }

    fn mail_command(&self, attempt: &Attempt, content: &[u8]) -> Result<String, Stop> {
        let from = attempt.envelope_from.as_ref();
        let mut command = format!("MAIL FROM:<{}>", from.map_or("", |from| from.as_str()));
        if self.offers & EXT_SIZE != 0 {
            command.push_str(&format!(" SIZE={}", content.len()));
        }
        if self.offers & EXT_8BIT_MIME != 0 && !content.is_ascii() {
            command.push_str(" BODY=8BITMIME");
        }
        if !attempt.recipient.is_ascii() || !from.is_none_or(Address::is_ascii) {
            if self.offers & EXT_SMTP_UTF8 == 0 {
                // RFC 6531, section 3.5: what cannot be said to this relay is returned with this status.
                return Err(Stop::Said(Reply::parse("553 5.6.7 the relay does not take internationalized addresses")));
            }
            command.push_str(" SMTPUTF8");
        }
        command.push_str("\r\n");
        Ok(command)
    }

    async fn command(&mut self, command: &str) -> Result<Response<String>, Stop> {
        self.client.cmd(command).await.map_err(|err| Stop::Broken(fault(&err)))
    }

    async fn send_content(&mut self, content: &[u8]) -> Result<Response<String>, Stop> {
        let sending = async {
            self.client.stream.write_all(&dot_stuffed(content)).await?;
            self.client.stream.flush().await
        };
        let limit = self.client.timeout.max(CONTENT_TIMEOUT);
        match timeout(limit, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => return Err(Stop::Broken(ours(FaultKind::Lost, err.to_string()))),
            Err(_) => {
                return Err(Stop::Broken(ours(
                    FaultKind::Lost,
                    "the relay did not take the message in time".to_owned(),
                )));
            }
        }
        // From here on the relay may have the message, whatever we hear.
        match timeout(limit, self.client.read()).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(err)) => Err(Stop::Broken(Fault { kind: FaultKind::Unanswered, ..fault(&err) })),
            Err(_) => Err(Stop::Broken(ours(FaultKind::Unanswered, "none in time".to_owned()))),
        }
    }

    /// Makes the connection fit for the next transaction.
    async fn reset(&mut self) -> Result<(), Stop> {
        if self.in_transaction {
            want(&self.command("RSET\r\n").await?, 200..=299)?;
            self.in_transaction = false;
        }
        self.used = Instant::now();
        Ok(())
    }
}

/// The reply, where it is one of those wanted. The first digit says yes or no, whatever the others are (RFC 5321, section
/// 4.2).
fn want(response: &Response<String>, codes: RangeInclusive<u16>) -> Result<Reply, Stop> {
    let reply = reply_of(response);
    match response.code {
        code if codes.contains(&code) => Ok(reply),
        400..=599 => Err(Stop::Said(reply)),
        code => {
            let text = format!("the relay said {code} where {} belongs", codes.start());
            Err(Stop::Broken(ours(FaultKind::Garbled, text)))
        }
    }
}

fn reply_of(response: &Response<String>) -> Reply {
    let [class, subject, detail] = response.esc;
    let status = if class == 0 { String::new() } else { format!("{class}.{subject}.{detail} ") };
    Reply::parse(&format!("{} {status}{}", response.code, response.message))
}

fn outcome_of(reply: Reply) -> Outcome {
    if reply.code.is_some_and(|code| code >= 500) { Outcome::Refused(reply) } else { Outcome::Deferred(reply) }
}

fn ours(kind: FaultKind, text: String) -> Fault {
    Fault { kind, side: Side::Ours, text }
}

fn fault(err: &mail_send::Error) -> Fault {
    use mail_send::Error;
    match err {
        Error::UnexpectedReply(reply) => ours(FaultKind::Connect, format!("the relay refused: {}", reply_of(reply))),
        Error::UnparseableReply => ours(FaultKind::Garbled, "the relay closed, or spoke no SMTP".to_owned()),
        Error::Timeout => ours(FaultKind::Lost, "no reply in time".to_owned()),
        other => ours(FaultKind::Lost, other.to_string()),
    }
}

/// The content as DATA takes it: lines that start with a dot get another, and a dot alone ends it (RFC 5321, section
/// 4.5.2). All line ends are CRLF already.
fn dot_stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + content.len() / 64 + 8);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    if !wire.is_empty() && !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_alone_ends_the_content_and_no_other_line_does() {
        for (content, wire) in [
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("", ".\r\n"),
            (".\r\nMAIL FROM:<x>\r\n", "..\r\nMAIL FROM:<x>\r\n.\r\n"),
            ("a\r\n.\r\n..b\r\n", "a\r\n..\r\n...b\r\n.\r\n"),
        ] {
            assert_eq!(dot_stuffed(content.as_bytes()), wire.as_bytes(), "{content:?}");
        }
    }

    #[test]
    fn status_details_of_one_digit_and_more_survive() {
        let response = |esc, message: &str| Response { code: 452, esc, message: message.to_owned() };
        assert_eq!(reply_of(&response([4, 3, 1], "full")).to_string(), "452 4.3.1 full");
        assert_eq!(reply_of(&response([0, 0, 0], "4.7.28 slow down")).to_string(), "452 4.7.28 slow down");
    }
}
