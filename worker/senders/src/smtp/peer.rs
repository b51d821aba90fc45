//! The peer of a connection: its name, its address, and how to connect to it.

use std::net::{IpAddr, SocketAddr};

use crate::settings::session::TlsMode;

/// A server, and how to connect to it. All sessions with one peer are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    /// Its name, which its certificate has to match.
    pub(crate) host: String,
    pub(crate) place: Place,
    /// The local address that the connection uses; `None` if the system chooses it.
    pub(crate) source: Option<IpAddr>,
    pub(crate) tls: TlsMode,
}

/// The network address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// This port at the address to which the system resolves the peer's name.
    Port(u16),
    /// This address and port.
    Address(SocketAddr),
}

impl Place {
    /// Returns the port.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Port(port) => port,
            Self::Address(address) => address.port(),
        }
    }
}
