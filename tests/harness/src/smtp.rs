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

/// What the peer does when a command has come.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Answers.
    Say(&'static str),
    /// Answers, and closes the connection.
    SayAndClose(&'static str),
    /// Answers when the test lets it, by [`SmtpPeer::say_it`].
    SayLater(&'static str),
    /// Says nothing any more.
    Hang,
    /// Closes the connection.
    Close,
    /// Breaks the connection off, so that what was sent is lost too.
    Reset,
    /// Says this much and no more, be it half a reply.
    Begin(&'static str),
    /// Answers, a byte at a time with a pause of so many milliseconds before each.
    Drip(&'static str, u64),
    /// Answers a STARTTLS, and then speaks TLS.
    Encrypt(&'static str),
}

/// One command that the peer was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// On which connection, from 1.
    pub connection: usize,
    /// The command. Empty: the connection was made. A dot: the end of the content.
    pub command: String,
}

/// A listener on loopback. It stops when this is dropped.
pub struct SmtpPeer {
    /// Where it listens.
    pub address: SocketAddr,
    received: watch::Sender<Vec<Received>>,
    contents: Arc<Mutex<Vec<Bytes>>>,
    says_it: watch::Sender<bool>,
    _stop: DropGuard,
}

type Script = dyn Fn(&Received) -> Act + Send + Sync;

impl SmtpPeer {
    /// A peer that says yes to everything.
    pub async fn agreeable() -> Self {
        Self::start(|received| agree(&received.command)).await
    }

    /// A peer that does what `script` says; [`agree`] is the usual answer.
    pub async fn start(script: impl Fn(&Received) -> Act + Send + Sync + 'static) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), None, script).await
    }

    /// The same at this address of loopback, with what it encrypts by; port 0 is any that is free.
    pub async fn start_at(
        at: SocketAddr,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Received) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::listen_at(at, tls, false, script).await
    }

    /// A peer on loopback that speaks TLS from the first byte.
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
        let address = listener.local_addr().expect("it is bound");
        let received = watch::Sender::new(Vec::new());
        let (says_it, stop) = (watch::Sender::new(false), CancellationToken::new());
        let contents = Arc::new(Mutex::default());
        let says = says_it.subscribe();
        let listening = listen(
            listener,
            (tls, encrypted),
            Arc::new(script),
            received.clone(),
            Arc::clone(&contents),
            says,
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(listening));
        Self {
            address,
            received,
            contents,
            says_it,
            _stop: stop.drop_guard(),
        }
    }

    /// All that it was sent so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.borrow().clone()
    }

    /// The contents that it was sent so far, without the dots that SMTP adds.
    pub fn contents(&self) -> Vec<Bytes> {
        self.contents.lock().expect("nobody panics with it").clone()
    }

    /// Lets it give the answers of [`Act::SayLater`], now and from now on.
    pub fn say_it(&self) {
        self.says_it.send_replace(true);
    }

    /// On which connections a command that starts so was sent.
    pub fn connections_of(&self, command: &str) -> Vec<usize> {
        let received = self.received();
        received
            .iter()
            .filter(|received| received.command.starts_with(command))
            .map(|received| received.connection)
            .collect()
    }

    /// Waits until it has been sent `count` commands that start so.
    pub async fn has_heard(&self, command: &str, count: usize) {
        let enough = |received: &Vec<Received>| {
            received
                .iter()
                .filter(|received| received.command.starts_with(command))
                .count()
                >= count
        };
        in_time("a command", self.received.subscribe().wait_for(enough))
            .await
            .expect("this is the sender");
    }
}

/// What a server says that takes every mail.
pub fn agree(command: &str) -> Act {
    match command.split([' ', ':']).next().unwrap_or_default() {
        "" => Act::Say("220 peer.example ESMTP"),
        "EHLO" => Act::Say("250-peer.example\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES"),
        "DATA" => Act::Say("354 go on"),
        "QUIT" => Act::SayAndClose("221 2.0.0 bye"),
        _ => Act::Say("250 2.0.0 ok"),
    }
}

/// What a peer encrypts by, and whether it does so from the first byte.
type Tls = (Option<TlsAcceptor>, bool);

async fn listen(
    listener: TcpListener,
    tls: Tls,
    script: Arc<Script>,
    received: watch::Sender<Vec<Received>>,
    contents: Arc<Mutex<Vec<Bytes>>>,
    says: watch::Receiver<bool>,
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
            says.clone(),
        ));
    }
}

/// Speaks with one client until either side has enough.
async fn converse(
    stream: TcpStream,
    (tls, encrypted): Tls,
    connection: usize,
    script: Arc<Script>,
    received: watch::Sender<Vec<Received>>,
    contents: Arc<Mutex<Vec<Bytes>>>,
    mut says: watch::Receiver<bool>,
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
            Act::Say(reply) | Act::SayAndClose(reply) | Act::Encrypt(reply) => reply,
            Act::SayLater(reply) => {
                says.wait_for(|says| *says).await.ok()?;
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
            Act::SayAndClose(_) => return None,
            Act::Encrypt(_) => {
                let Either::Left(stream) = lines.into_inner() else {
                    panic!("TLS begins once")
                };
                let tls = tls
                    .as_ref()
                    .expect("a peer that encrypts has a certificate");
                lines = BufReader::new(Either::Right(Box::new(tls.accept(stream).await.ok()?)));
            }
            _ => {}
        }
        if reply.starts_with("354") {
            let content = read_content(&mut lines).await?;
            contents
                .lock()
                .expect("nobody panics with it")
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

/// The lines up to a dot alone, without the dot that a line got which begins with one (RFC 5321,
/// section 4.5.2).
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
