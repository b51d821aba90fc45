//! An SMTP server that follows a script, command by command.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::wait::in_time;

/// What the peer does when a command has come.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Answers.
    Say(&'static str),
    /// Answers, and closes the connection.
    SayAndClose(&'static str),
    /// Says nothing any more.
    Hang,
    /// Closes the connection.
    Close,
}

/// One command that the peer was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// On which connection, from 1.
    pub connection: usize,
    /// The command. Empty: the connection was made. A dot: the end of the content.
    pub command: String,
}

/// A listener on loopback. It stops when this is dropped.
pub struct SmtpPeer {
    /// Where it listens.
    pub address: SocketAddr,
    heard: watch::Sender<Vec<Heard>>,
    _stop: DropGuard,
}

type Script = dyn Fn(&Heard) -> Act + Send + Sync;

impl SmtpPeer {
    /// A peer that says yes to everything.
    pub async fn agreeable() -> Self {
        Self::start(|heard| agree(&heard.command)).await
    }

    /// A peer that does what `script` says; [`agree`] is the usual answer.
    pub async fn start(script: impl Fn(&Heard) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let heard = watch::Sender::new(Vec::new());
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(listen(listener, Arc::new(script), heard.clone())));
        Self { address, heard, _stop: stop.drop_guard() }
    }

    /// All that it was sent so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.borrow().clone()
    }

    /// On which connections a command that starts so was sent.
    pub fn connections_of(&self, command: &str) -> Vec<usize> {
        let heard = self.heard();
        heard.iter().filter(|heard| heard.command.starts_with(command)).map(|heard| heard.connection).collect()
    }

    /// Waits until it has been sent `count` commands that start so.
    pub async fn has_heard(&self, command: &str, count: usize) {
        let enough =
            |heard: &Vec<Heard>| heard.iter().filter(|heard| heard.command.starts_with(command)).count() >= count;
        in_time("a command", self.heard.subscribe().wait_for(enough)).await.expect("this is the sender");
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

async fn listen(listener: TcpListener, script: Arc<Script>, heard: watch::Sender<Vec<Heard>>) {
    for connection in 1.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        tokio::spawn(converse(stream, connection, script.clone(), heard.clone()));
    }
}

/// Speaks with one client until either side has enough.
async fn converse(
    stream: TcpStream,
    connection: usize,
    script: Arc<Script>,
    heard: watch::Sender<Vec<Heard>>,
) -> Option<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut command = String::new();
    loop {
        let now = Heard { connection, command };
        let act = script(&now);
        heard.send_modify(|heard| heard.push(now));
        match act {
            Act::Say(reply) | Act::SayAndClose(reply) => {
                writer.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
                if matches!(act, Act::SayAndClose(_)) {
                    return None;
                }
                if reply.starts_with("354") {
                    while lines.next_line().await.ok()?? != "." {}
                    command = ".".to_owned();
                } else {
                    command = lines.next_line().await.ok()??;
                }
            }
            Act::Hang => return std::future::pending().await,
            Act::Close => return None,
        }
    }
}
