//! Three mail servers on loopback that represent many mail systems. One accepts all mail, and two
//! hang, each in another way. They must not know about jobs, pace or policy.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::bench::conversation::Input;

/// How long a server hangs before it closes the connection.
const HANG: Duration = Duration::from_secs(120);

/// How long the healthy server takes for a message.
const SERVICE_TIME: Duration = Duration::from_millis(50);

/// How a server behaves.
#[derive(Clone, Copy)]
enum Behavior {
    /// It accepts every message.
    Healthy,
    /// It accepts connections and sends nothing.
    Silent,
    /// It answers every command before RCPT, and then sends nothing more.
    NoAnswerToRcpt,
}

/// The running servers. They end when this is dropped.
pub(super) struct Servers {
    pub(super) port: u16,
    pub(super) healthy: Ipv4Addr,
    pub(super) hanging: [Ipv4Addr; 2],
    accepting: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Starts the servers on one port, each on its own address.
    pub(super) async fn start() -> io::Result<Self> {
        let [healthy, silent, mute] = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
        let first = TcpListener::bind((healthy, 0)).await?;
        let port = first.local_addr()?.port();
        let bind =
            async |address| TcpListener::bind(SocketAddr::new(Ipv4Addr::into(address), port)).await;
        let accepting = vec![
            tokio::spawn(accept(first, Behavior::Healthy)),
            tokio::spawn(accept(bind(silent).await?, Behavior::Silent)),
            tokio::spawn(accept(bind(mute).await?, Behavior::NoAnswerToRcpt)),
        ];
        Ok(Self {
            port,
            healthy,
            hanging: [silent, mute],
            accepting,
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(listener: TcpListener, behavior: Behavior) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        // The error of a client that closes its connection does not matter here.
        connections.spawn(async move { drop(converse(stream, behavior).await) });
    }
}

async fn converse(stream: TcpStream, behavior: Behavior) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (input, mut output) = stream.into_split();
    let mut input = Input::new(input);
    if matches!(behavior, Behavior::Silent) {
        return hang(&mut input).await;
    }
    output.write_all(b"220 stall.example ESMTP\r\n").await?;
    while let Some(verb) = input.verb().await? {
        match verb {
            "RCPT" if matches!(behavior, Behavior::NoAnswerToRcpt) => {
                return hang(&mut input).await;
            }
            "EHLO" | "MAIL" | "RCPT" | "RSET" => output.write_all(b"250 2.0.0 Ok\r\n").await?,
            "DATA" => {
                output.write_all(b"354 go ahead\r\n").await?;
                if !input.skip_message().await? {
                    return Ok(());
                }
                sleep(SERVICE_TIME).await;
                output.write_all(b"250 2.0.0 taken\r\n").await?;
            }
            "QUIT" => return output.write_all(b"221 2.0.0 bye\r\n").await,
            _ => output.write_all(b"502 5.5.1 not here\r\n").await?,
        }
    }
    Ok(())
}

/// Sends nothing until the client closes the connection, or for [`HANG`].
async fn hang(input: &mut Input) -> io::Result<()> {
    tokio::select! {
        closed = input.skip_all() => closed,
        () = sleep(HANG) => Ok(()),
    }
}
