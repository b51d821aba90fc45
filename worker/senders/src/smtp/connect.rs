//! Makes connections, and decides which side a failure belongs to.
//!
//! If a system call fails at once, the error comes from this machine, and nothing was sent. A later
//! error may come from a router or the peer. To distinguish the two, each step of connecting is a
//! separate call here.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdStream};

use domain::outcome::{FaultKind, Side};
use socket2::{Domain, Protocol, Socket, Type};
use system::whose_fault::{Cause, NO_SOURCE, When, network_error, own_error};
use tokio::net::TcpStream;

use super::peer::{Peer, Place};
use super::wire::NoReply;

/// Connects to a peer.
pub(super) async fn connect(peer: &Peer) -> Result<TcpStream, NoReply> {
    let stream = match peer.place {
        Place::Port(port) => to_relay(&peer.host, port).await?,
        Place::Address(address) => to_host(&peer.host, address, peer.source).await?,
    };
    // Each command waits for its reply, so delaying small segments would only add latency.
    stream
        .set_nodelay(true)
        .map_err(|err| failed(&peer.host, &err, network_error(&err, When::Later)))?;
    Ok(stream)
}

/// Connects to a relay. A relay belongs to our side, whichever machine it runs on.
async fn to_relay(host: &str, port: u16) -> Result<TcpStream, NoReply> {
    let connected = TcpStream::connect((host, port)).await;
    connected.map_err(|err| match own_error(&err) {
        Some(cause) => NoReply::caused_by(cause, FaultKind::Connect, &format!("{host}: {err}")),
        None => NoReply::new(FaultKind::Connect, format!("{host}: {err}")),
    })
}

/// Connects to a mail host of the destination.
async fn to_host(
    host: &str,
    address: SocketAddr,
    source: Option<IpAddr>,
) -> Result<TcpStream, NoReply> {
    let at_once = |err: io::Error| failed(host, &err, network_error(&err, When::AtOnce));
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .map_err(at_once)?;
    socket.set_nonblocking(true).map_err(at_once)?;
    if let Some(source) = source {
        let bound = socket.bind(&SocketAddr::new(source, 0).into());
        bound.map_err(|err| failed(host, &err, NO_SOURCE))?;
    }
    match socket.connect(&address.into()) {
        Err(err) if !is_under_way(&err) => return Err(at_once(err)),
        _ => {}
    }
    let later = |err: io::Error| failed(host, &err, network_error(&err, When::Later));
    let stream = TcpStream::from_std(StdStream::from(socket)).map_err(at_once)?;
    stream.writable().await.map_err(later)?;
    match stream.take_error() {
        Ok(None) => Ok(stream),
        Ok(Some(err)) | Err(err) => Err(later(err)),
    }
}

fn is_under_way(err: &io::Error) -> bool {
    use nix::errno::Errno;
    err.raw_os_error() == Some(Errno::EINPROGRESS as i32)
}

fn failed(host: &str, err: &io::Error, cause: Cause) -> NoReply {
    let kind = if cause.side == Side::Ours {
        FaultKind::Local
    } else {
        FaultKind::Connect
    };
    NoReply::caused_by(cause, kind, &format!("{host}: {err}"))
}
