//! The peer of a connection: its name, its address, and how to connect to it.

use std::net::{IpAddr, SocketAddr};

use crate::settings::session::TlsMode;

/// A server, and how to connect to it. Any session with a peer may be used in place of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    /// Its name, which its certificate has to match.
    pub(crate) host: String,
    pub(crate) place: Place,
    /// The local address that the connection uses.
    pub(crate) source: Option<IpAddr>,
    pub(crate) tls: TlsMode,
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// At this port of the address that the system resolves the name to.
    Port(u16),
    /// At this address.
    Address(SocketAddr),
}
