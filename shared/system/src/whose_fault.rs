//! Decides whose fault an error of the system or of DNS is: ours, or the other side's. All parts of
//! Redeliver use these tables.
//!
//! An error on our side does not count against any recipient or destination. An error that is in no
//! table is ours, because the other side can cause only a few errors.

use std::error::Error;
use std::io::{self, ErrorKind};

use domain::outcome::{Fault, FaultKind, Side};
use nix::errno::Errno;

/// When an error of a connection occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once, before anything was sent. So this machine itself has refused.
    AtOnce,
    /// After something was sent. So it may be the answer of a router or of the peer.
    Later,
}

/// What is known about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Its name, for example `EMFILE` or `REFUSED`.
    pub name: &'static str,
    /// Whose fault it is.
    pub side: Side,
    /// What an operator can do about the error. Empty if it is the other side's fault.
    pub advice: &'static str,
}

/// An error of a connection, and whose fault it is.
struct NetworkRow {
    name: &'static str,
    errno: Errno,
    at_once: Side,
    later: Side,
    advice: &'static str,
}

/// An error of a file that a message names. `Theirs` means that the message is at fault.
struct FileRow {
    name: &'static str,
    errno: Errno,
    side: Side,
    advice: &'static str,
}

/// A response code of the DNS (RFC 1035, section 4.1.1, and the IANA registry "DNS RCODEs").
struct ResponseRow {
    code: u16,
    name: &'static str,
    side: Side,
    advice: &'static str,
}

const OPEN_FILES: &str = "raise the limit of open files (LimitNOFILE= or ulimit -n)";
const ALL_OPEN_FILES: &str = "raise the limit of open files of this machine (fs.file-max)";
const MEMORY: &str = "give this machine, or its memory limit, more memory";
const PORTS: &str = "check the route's sources, and widen net.ipv4.ip_local_port_range";
const FAMILY: &str = "this machine has no addresses of that kind; configure them, \
                      or leave such hosts to other machines";
const FIREWALL: &str = "check the firewall and the routes of this machine";
const ROUTES: &str = "check the network and the routes of this machine";
const RESOLVER: &str = "check the DNS server of `nameservers` or of the system, \
                        and that it serves this machine";
const PERMISSIONS: &str = "let the worker's user read the file and its folders";
const DISK: &str = "check the file system that the content is on";

/// An error that is in no table.
const UNKNOWN: Cause = Cause {
    name: "unknown error",
    side: Side::Ours,
    advice: "look up this error; the other side cannot cause it",
};

macro_rules! network {
    ($errno:ident, $at_once:ident, $later:ident, $advice:expr) => {
        NetworkRow {
            name: stringify!($errno),
            errno: Errno::$errno,
            at_once: Side::$at_once,
            later: Side::$later,
            advice: $advice,
        }
    };
}

macro_rules! file {
    ($errno:ident, $side:ident, $advice:expr) => {
        FileRow {
            name: stringify!($errno),
            errno: Errno::$errno,
            side: Side::$side,
            advice: $advice,
        }
    };
}

macro_rules! response {
    ($code:expr, $name:expr, $side:ident, $advice:expr) => {
        ResponseRow {
            code: $code,
            name: $name,
            side: Side::$side,
            advice: $advice,
        }
    };
}

/// Errors of connections.
///
/// An error that comes at once is from this machine: its routes, its firewall, its limits. Later,
/// the same number can mean an ICMP message of a router on the way (Linux: `icmp_err_convert`). So
/// `EHOSTUNREACH` and `ENETUNREACH` have two sides. `EACCES` has too: with ICMPv6 it can mean a
/// firewall in front of the peer. If a gateway of ours is down, the error is the same as for a dead
/// host, and counts as the error of a dead host.
#[rustfmt::skip]
const NETWORK: [NetworkRow; 27] = [
    network!(EMFILE,        Ours,   Ours,   OPEN_FILES),
    network!(ENFILE,        Ours,   Ours,   ALL_OPEN_FILES),
    network!(ENOBUFS,       Ours,   Ours,   MEMORY),
    network!(ENOMEM,        Ours,   Ours,   MEMORY),
    network!(EAGAIN,        Ours,   Ours,   PORTS),
    network!(EADDRNOTAVAIL, Ours,   Ours,   PORTS),
    network!(EADDRINUSE,    Ours,   Ours,   PORTS),
    network!(EAFNOSUPPORT,  Ours,   Ours,   FAMILY),
    network!(EPERM,         Ours,   Ours,   FIREWALL),
    network!(EACCES,        Ours,   Theirs, FIREWALL),
    network!(EINVAL,        Ours,   Ours,   ROUTES),
    network!(ENETDOWN,      Ours,   Ours,   ROUTES),
    network!(ENETUNREACH,   Ours,   Theirs, ROUTES),
    network!(EHOSTUNREACH,  Ours,   Theirs, ROUTES),
    network!(EHOSTDOWN,     Theirs, Theirs, ""),
    network!(ECONNREFUSED,  Theirs, Theirs, ""),
    network!(ECONNRESET,    Theirs, Theirs, ""),
    network!(ECONNABORTED,  Theirs, Theirs, ""),
    network!(ENETRESET,     Theirs, Theirs, ""),
    network!(ETIMEDOUT,     Theirs, Theirs, ""),
    network!(EPIPE,         Theirs, Theirs, ""),
    network!(ENOTCONN,      Theirs, Theirs, ""),
    network!(ENOPROTOOPT,   Ours,   Theirs, ROUTES),
    network!(EOPNOTSUPP,    Ours,   Theirs, ROUTES),
    network!(EMSGSIZE,      Ours,   Theirs, ROUTES),
    network!(EPROTO,        Ours,   Theirs, ROUTES),
    network!(EIO,           Ours,   Ours,   ROUTES),
];

/// Errors of files that messages name. If a path leads to no file, to a folder or into a loop, a
/// later try would fail too, so the message is at fault.
#[rustfmt::skip]
const FILES: [FileRow; 17] = [
    file!(ENOENT,       Theirs, ""),
    file!(ENOTDIR,      Theirs, ""),
    file!(EISDIR,       Theirs, ""),
    file!(ELOOP,        Theirs, ""),
    file!(ENAMETOOLONG, Theirs, ""),
    file!(EINVAL,       Theirs, ""),
    file!(EACCES,       Ours,   PERMISSIONS),
    file!(EPERM,        Ours,   PERMISSIONS),
    file!(EIO,          Ours,   DISK),
    file!(ENOSPC,       Ours,   DISK),
    file!(EDQUOT,       Ours,   DISK),
    file!(EROFS,        Ours,   DISK),
    file!(ESTALE,       Ours,   DISK),
    file!(ETIMEDOUT,    Ours,   DISK),
    file!(EMFILE,       Ours,   OPEN_FILES),
    file!(ENFILE,       Ours,   ALL_OPEN_FILES),
    file!(ENOMEM,       Ours,   MEMORY),
];

/// Response codes that are not an answer. A working resolver returns SERVFAIL if the domain's own
/// servers fail, and YXDOMAIN if a DNAME of the domain makes names too long. The other codes are
/// about the resolver and about us.
#[rustfmt::skip]
const RESPONSES: [ResponseRow; 17] = [
    response!(1,  "FORMERR",   Ours,   RESOLVER),
    response!(2,  "SERVFAIL",  Theirs, ""),
    response!(4,  "NOTIMP",    Ours,   RESOLVER),
    response!(5,  "REFUSED",   Ours,   RESOLVER),
    response!(6,  "YXDOMAIN",  Theirs, ""),
    response!(7,  "YXRRSET",   Ours,   RESOLVER),
    response!(8,  "NXRRSET",   Ours,   RESOLVER),
    response!(9,  "NOTAUTH",   Ours,   RESOLVER),
    response!(10, "NOTZONE",   Ours,   RESOLVER),
    response!(16, "BADVERS",   Ours,   RESOLVER),
    response!(17, "BADKEY",    Ours,   RESOLVER),
    response!(18, "BADTIME",   Ours,   RESOLVER),
    response!(19, "BADMODE",   Ours,   RESOLVER),
    response!(20, "BADNAME",   Ours,   RESOLVER),
    response!(21, "BADALG",    Ours,   RESOLVER),
    response!(22, "BADTRUNC",  Ours,   RESOLVER),
    response!(23, "BADCOOKIE", Ours,   RESOLVER),
];

/// A source address that this machine does not have.
pub const NO_SOURCE: Cause = Cause {
    name: "no such source",
    side: Side::Ours,
    advice: "name addresses of this machine in the route's sources",
};

/// Our own certificates or keys cannot be used.
pub const OWN_TLS: Cause = Cause {
    name: "our TLS settings",
    side: Side::Ours,
    advice: "check tls_ca_file, tls_cert_file and tls_key_file of the route, \
             or the certificates that this system trusts",
};

/// Why there is no usable response from DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No resolver answered in time.
    Late,
    /// A resolver could not be asked.
    Unasked,
    /// Its answer cannot be read, or does not answer the question. The domain is at fault, because
    /// a resolver passes on what the domain's servers answer.
    Broken,
    /// The answer is too long even for TCP.
    TooLong,
    /// The name cannot be the name of a host: a label is empty or too long, or it has characters
    /// that no host name can have.
    BadName,
}

impl Unusable {
    /// Returns its name, whose fault it is, and what to do about it.
    pub const fn cause(self) -> Cause {
        match self {
            Self::Late => Cause {
                name: "no answer",
                side: Side::Ours,
                advice: RESOLVER,
            },
            Self::Unasked => Cause {
                name: "not asked",
                side: Side::Ours,
                advice: RESOLVER,
            },
            Self::Broken => Cause {
                name: "broken answer",
                side: Side::Theirs,
                advice: "",
            },
            Self::TooLong => Cause {
                name: "answer too long",
                side: Side::Theirs,
                advice: "",
            },
            Self::BadName => Cause {
                name: "bad name",
                side: Side::Theirs,
                advice: "",
            },
        }
    }
}

impl Cause {
    /// Returns what happened, with the error's name and what to do about it: `mx1: Too many open
    /// files (EMFILE): raise …`.
    pub fn explain(&self, what: &str) -> String {
        let Self { name, advice, .. } = self;
        if advice.is_empty() {
            format!("{what} ({name})")
        } else {
            format!("{what} ({name}): {advice}")
        }
    }

    /// Returns the cause as a fault of this kind. `what` describes what happened.
    pub fn fault(self, kind: FaultKind, what: &str) -> Fault {
        Fault {
            kind,
            side: self.side,
            name: Some(self.name),
            text: self.explain(what),
        }
    }

    /// Whether the cause is that this process, or this machine, has too many files open. That ends
    /// when some of them are closed.
    pub fn is_shortage(&self) -> bool {
        ["EMFILE", "ENFILE"].contains(&self.name)
    }

    /// Whether this machine cannot reach an address at all: it has no route, or no address of that
    /// kind.
    pub fn is_unroutable(&self) -> bool {
        self.side == Side::Ours
            && [
                "ENETUNREACH",
                "EHOSTUNREACH",
                "EAFNOSUPPORT",
                "EADDRNOTAVAIL",
            ]
            .contains(&self.name)
    }
}

/// Returns whose fault an error of a connection to a peer is.
pub fn network_error(err: &io::Error, when: When) -> Cause {
    let errno = errno(err);
    let row = NETWORK.iter().find(|row| Some(row.errno) == errno);
    let Some(NetworkRow {
        name,
        at_once,
        later,
        advice,
        ..
    }) = row
    else {
        return UNKNOWN;
    };
    let side = if when == When::AtOnce {
        *at_once
    } else {
        *later
    };
    Cause {
        name,
        side,
        advice: if side == Side::Ours { advice } else { "" },
    }
}

/// Returns whose fault it is that a file cannot be read. `Theirs` means the message that names it.
pub fn file_error(err: &io::Error) -> Cause {
    let errno = errno(err);
    let row = FILES.iter().find(|row| Some(row.errno) == errno);
    row.map_or(UNKNOWN, |row| Cause {
        name: row.name,
        side: row.side,
        advice: row.advice,
    })
}

/// Returns what is known about an error that is always ours: a program that cannot be started, or a
/// server of ours that cannot be reached. `None` if it is in no table.
pub fn own_error(err: &io::Error) -> Option<Cause> {
    let cause = network_error(err, When::AtOnce);
    (cause != UNKNOWN).then_some(Cause {
        side: Side::Ours,
        ..cause
    })
}

/// Returns the error of the system that caused another error, if there is one.
pub fn system_error<'a>(err: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(err);
    while let Some(err) = cause {
        match err.downcast_ref::<io::Error>() {
            Some(err) if err.raw_os_error().is_some() => return Some(err),
            _ => cause = err.source(),
        }
    }
    None
}

/// Returns whose fault a response code of DNS is. An unknown code is about the resolver, so it is
/// ours.
pub fn response_code(code: u16) -> Cause {
    let row = RESPONSES.iter().find(|row| row.code == code);
    let unknown = Cause {
        name: "unknown code",
        side: Side::Ours,
        advice: RESOLVER,
    };
    row.map_or(unknown, |row| Cause {
        name: row.name,
        side: row.side,
        advice: row.advice,
    })
}

/// Returns the number of an error. The standard library and TLS also make errors without a number,
/// only with a kind. `InvalidData` means a TLS alert, or a record that TLS cannot read.
fn errno(err: &io::Error) -> Option<Errno> {
    if let Some(number) = err.raw_os_error() {
        return Some(Errno::from_raw(number));
    }
    Some(match err.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Errno::ECONNRESET,
        ErrorKind::ConnectionAborted => Errno::ECONNABORTED,
        ErrorKind::ConnectionRefused => Errno::ECONNREFUSED,
        ErrorKind::NotConnected => Errno::ENOTCONN,
        ErrorKind::BrokenPipe | ErrorKind::WriteZero => Errno::EPIPE,
        ErrorKind::TimedOut => Errno::ETIMEDOUT,
        ErrorKind::InvalidData => Errno::EPROTO,
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::InvalidInput => Errno::EINVAL,
        ErrorKind::InvalidFilename => Errno::ENAMETOOLONG,
        ErrorKind::PermissionDenied => Errno::EACCES,
        ErrorKind::OutOfMemory => Errno::ENOMEM,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
