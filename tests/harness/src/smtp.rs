//! An SMTP server that follows a script, command by command.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::wait::in_time;

/// What the peer does after a command.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Sends a reply.
    Say(&'static str),
    /// Sends a reply, and closes the connection.
    ReplyAndClose(&'static str),
    /// Sends a reply, but only after the test has called [`SmtpPeer::release_replies`].
    SayWhenReleased(&'static str),
    /// Sends nothing any more.
    Hang,
    /// Closes the connection.
    Close,
    /// Resets the connection, so that data still under way is lost too.
    Reset,
    /// Sends these bytes, for example half a reply, and then nothing any more.
    Begin(&'static str),
    /// Sends a reply byte by byte, with a pause of this many milliseconds before each byte.
    Drip(&'static str, u64),
    /// Sends the reply to STARTTLS, and starts TLS.
    Encrypt(&'static str),
}

/// One command that the peer has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The number of the connection, counted from 1.
    pub connection: usize,
    /// The command. An empty one means that the connection was made. A dot means the end of the
    /// content.
    pub command: String,
}

impl Received {
    /// Whether the command starts with `command`. An empty `command` means that the connection was
    /// made.
    pub fn is(&self, command: &str) -> bool {
        self.command.starts_with(command) && (!command.is_empty() || self.command.is_empty())
    }
}

/// A server on loopback. It stops when this is dropped.
pub struct SmtpPeer {
    /// The address that it listens on.
    pub address: SocketAddr,
    received: watch::Sender<Vec<Received>>,
    contents: Arc<Mutex<Vec<Bytes>>>,
    /// Whether the test has called [`Self::release_replies`].
    released: watch::Sender<bool>,
    _stop: DropGuard,
}

type Script = dyn Fn(&Received) -> Act + Send + Sync;

impl SmtpPeer {
    /// Starts a peer that accepts everything.
    pub async fn agreeable() -> Self {
        Self::start(|received| agree(&received.command)).await
    }

    /// Starts a peer that does `act` after each command that starts with `command`, and otherwise
    /// accepts everything.
    pub async fn agreeable_except(command: &'static str, act: Act) -> Self {
        Self::start(agree_except(command, act)).await
    }

    /// Starts a peer that follows `script`. [`agree`] returns the usual answers.
    pub async fn start(script: impl Fn(&Received) -> Act + Send + Sync + 'static) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), None, script).await
    }

    /// Like [`Self::start`], but at this address of loopback, and with TLS if given. Port 0 means
    /// any free port.
    pub async fn start_at(
        at: SocketAddr,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Received) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::listen_at(at, tls, false, script).await
    }

    /// Starts a peer on loopback that uses TLS from the first byte.
    pub async fn start_encrypted(
        tls: TlsAcceptor,
        script: impl Fn(&Received) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::listen_at(([127, 0, 0, 1], 0).into(), Some(tls), true, script).await
    }

    async fn listen_at(
        at: SocketAddr,
        tls: Option<TlsAcceptor>,
        encrypted: bool,
        script: impl Fn(&Received) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).await.expect("the port is free");
        let address = listener.local_addr().expect("the socket is bound");
        let received = watch::Sender::new(Vec::new());
        let (released, stop) = (watch::Sender::new(false), CancellationToken::new());
        let contents = Arc::new(Mutex::default());
        let listening = listen(
            listener,
            (tls, encrypted),
            Arc::new(script),
            received.clone(),
            Arc::clone(&contents),
            released.subscribe(),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(listening));
        Self {
            address,
            received,
            contents,
            released,
            _stop: stop.drop_guard(),
        }
    }

    /// Returns all commands that it has received so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.borrow().clone()
    }

    /// Returns the contents of all messages so far, without the dots that SMTP adds.
    pub fn contents(&self) -> Vec<Bytes> {
        self.contents
            .lock()
            .expect("no task panics while it holds this lock")
            .clone()
    }

    /// Sends the replies of [`Act::SayWhenReleased`] that wait, and from now on each at once.
    pub fn release_replies(&self) {
        self.released.send_replace(true);
    }

    /// Returns the connections on which a command with this start was received.
    pub fn connections_of(&self, command: &str) -> Vec<usize> {
        let received = self.received();
        received
            .iter()
            .filter(|received| received.command.starts_with(command))
            .map(|received| received.connection)
            .collect()
    }

    /// Waits until it has received `count` commands with this start.
    pub async fn wait_for_command(&self, command: &str, count: usize) {
        let enough = |received: &Vec<Received>| {
            received
                .iter()
                .filter(|received| received.command.starts_with(command))
                .count()
                >= count
        };
        in_time("a command", self.received.subscribe().wait_for(enough))
            .await
            .expect("the watch channel is open as long as this value exists");
    }
}

/// Returns how a server that accepts all mail answers `command`.
pub fn agree(command: &str) -> Act {
    match command.split([' ', ':']).next().unwrap_or_default() {
        "" => Act::Say("220 peer.example ESMTP"),
        "EHLO" => Act::Say("250-peer.example\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES"),
        "DATA" => Act::Say("354 go on"),
        "QUIT" => Act::ReplyAndClose("221 2.0.0 bye"),
        _ => Act::Say("250 2.0.0 ok"),
    }
}

/// Returns a script that does `act` after each command that starts with `command`, and otherwise
/// accepts everything. An empty `command` means that the connection was made.
pub fn agree_except(
    command: &'static str,
    act: Act,
) -> impl Fn(&Received) -> Act + Copy + Send + Sync + 'static {
    move |received| {
        if received.is(command) {
            act
        } else {
            agree(&received.command)
        }
    }
}

/// The TLS of a peer, and whether it is used from the first byte.
type Tls = (Option<TlsAcceptor>, bool);

async fn listen(
    listener: TcpListener,
    tls: Tls,
    script: Arc<Script>,
    received: watch::Sender<Vec<Received>>,
    contents: Arc<Mutex<Vec<Bytes>>>,
    released: watch::Receiver<bool>,
) {
    for connection in 1.. {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (received, contents) = (received.clone(), contents.clone());
        tokio::spawn(converse(
            stream,
            tls.clone(),
            connection,
            script.clone(),
            received,
            contents,
            released.clone(),
        ));
    }
}

/// Serves one client until either side closes the connection.
async fn converse(
    stream: TcpStream,
    (tls, encrypted): Tls,
    connection: usize,
    script: Arc<Script>,
    received: watch::Sender<Vec<Received>>,
    contents: Arc<Mutex<Vec<Bytes>>>,
    mut released: watch::Receiver<bool>,
) -> Option<()> {
    let stream = match &tls {
        Some(tls) if encrypted => Either::Right(Box::new(tls.accept(stream).await.ok()?)),
        _ => Either::Left(stream),
    };
    let mut lines = BufReader::new(stream);
    let mut command = String::new();
    loop {
        let now = Received {
            connection,
            command,
        };
        let act = script(&now);
        received.send_modify(|received| received.push(now));
        let reply = match act {
            Act::Say(reply) | Act::ReplyAndClose(reply) | Act::Encrypt(reply) => reply,
            Act::SayWhenReleased(reply) => {
                released.wait_for(|released| *released).await.ok()?;
                reply
            }
            Act::Begin(part) => {
                lines.write_all(part.as_bytes()).await.ok()?;
                lines.flush().await.ok()?;
                return std::future::pending().await;
            }
            Act::Drip(reply, pause_ms) => {
                for byte in reply.bytes().chain(*b"\r\n") {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    lines.write_all(&[byte]).await.ok()?;
                    lines.flush().await.ok()?;
                }
                command = read_line(&mut lines).await?;
                continue;
            }
            Act::Hang => return std::future::pending().await,
            Act::Close => return None,
            Act::Reset => {
                if let Either::Left(stream) = lines.get_ref() {
                    stream.set_zero_linger().ok()?;
                }
                return None;
            }
        };
        lines
            .write_all(format!("{reply}\r\n").as_bytes())
            .await
            .ok()?;
        lines.flush().await.ok()?;
        match act {
            Act::ReplyAndClose(_) => return None,
            Act::Encrypt(_) => {
                let Either::Left(stream) = lines.into_inner() else {
                    panic!("TLS is on already")
                };
                let tls = tls.as_ref().expect("a peer with TLS has a certificate");
                lines = BufReader::new(Either::Right(Box::new(tls.accept(stream).await.ok()?)));
            }
            _ => {}
        }
        if reply.starts_with("354") {
            let content = read_content(&mut lines).await?;
            contents
                .lock()
                .expect("no task panics while it holds this lock")
                .push(content);
            command = ".".to_owned();
        } else {
            command = read_line(&mut lines).await?;
        }
    }
}

type Lines = BufReader<Either<TcpStream, Box<TlsStream<TcpStream>>>>;

async fn read_line(lines: &mut Lines) -> Option<String> {
    let mut line = String::new();
    lines
        .read_line(&mut line)
        .await
        .ok()
        .filter(|len| *len > 0)?;
    Some(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads lines up to a line with only a dot. A client adds a dot to each line that starts with a
/// dot (RFC 5321, section 4.5.2); this removes it.
async fn read_content(lines: &mut Lines) -> Option<Bytes> {
    let mut content = Vec::new();
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        if line == b".\r\n" {
            return Some(content.into());
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
