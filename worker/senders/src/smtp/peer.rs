//! The peer of a connection: its name, where it is, and how the connection is made.

use std::net::{IpAddr, SocketAddr};

use crate::settings::session::TlsMode;

/// Whom a connection is made to, and how. Sessions with one peer can stand for each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    /// Its name, which a certificate has to hold for.
    pub(crate) host: String,
    pub(crate) place: Place,
    /// The address of our own that the connection comes from.
    pub(crate) source: Option<IpAddr>,
    pub(crate) tls: TlsMode,
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// At this port of wherever the system says that its name is.
    Port(u16),
    /// Here.
    Address(SocketAddr),
}
