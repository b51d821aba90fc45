//! A DNS resolver for mail: placement and the `mx` sender both use it. The callers decide what an
//! answer means to them. If there is no answer, this module decides whose fault that is, by the
//! tables of `whose_fault`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use domain::outcome::{Fault, FaultKind, Side};
use futures::future::join;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::whose_fault::{Cause, Unusable, own_error, response_code};

/// How many servers are asked one by one, after the query to all of them together has failed.
const SERVERS_MAX: usize = 3;

/// The name of the failure if no server could be asked.
const UNASKED: Option<&str> = Some(Unusable::Unasked.cause().name);

/// How often a query is tried if this process has no socket for it, and the pause between two
/// tries.
const SHORTAGE_TRIES: usize = 10;
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// The settings of a resolver.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The servers to ask. If empty, those of the system.
    pub nameservers: &'a [SocketAddr],
    /// How long one query may take, including its one repetition. The caller enforces this time.
    pub timeout: Duration,
    /// How many answers are cached. Each is cached for its time to live in DNS.
    pub kept_max: u64,
    /// How many queries may be under way at once. Each may need a few sockets.
    pub at_once_max: usize,
}

/// A resolver. Its own timeouts are not exact, so a caller must set a time limit itself.
#[derive(Clone, Debug)]
pub struct Dns {
    /// Asks all servers together, and caches answers.
    all: TokioResolver,
    /// Each of these asks one server. Empty if there is only one server.
    each: Arc<[TokioResolver]>,
    servers: Arc<[SocketAddr]>,
    permits: Arc<Semaphore>,
}

/// Why DNS returned no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// The name does not exist.
    NoName,
    /// The name exists, but has no such records.
    NoRecords,
    /// There is no usable answer.
    Failed(Fault),
}

/// A mail host of an MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailHost {
    /// The host with the lowest preference is tried first.
    pub preference: u16,
    /// Its name with the final dot, as text. Characters that a host name cannot have are escaped.
    pub name: String,
}

impl Dns {
    /// A resolver with these settings. It sends no query yet. It needs a Tokio runtime.
    ///
    /// # Errors
    /// If the system's servers are to be used, but are not known.
    pub fn new(settings: Settings<'_>) -> Result<Self, String> {
        let (config, mut options) = if settings.nameservers.is_empty() {
            read_system_conf()
                .map_err(|err| format!("cannot find the system's DNS server: {err}"))?
        } else {
            let servers = settings
                .nameservers
                .iter()
                .map(|address| name_server(*address))
                .collect();
            (
                ResolverConfig::from_name_servers(servers),
                ResolverOpts::default(),
            )
        };
        options.cache_size = settings.kept_max;
        options.max_active_requests = settings.at_once_max;
        // One repetition fits into the caller's timeout.
        options.timeout = settings.timeout / 2;
        options.attempts = 1;
        let servers = config.name_servers().to_vec();
        let address = |server: &NameServerConfig| {
            Some(SocketAddr::new(server.ip, server.connections.first()?.port))
        };
        let addresses = servers.iter().filter_map(address).collect();
        let all = resolver(config, options.clone())?;
        let each = if servers.len() > 1 {
            servers
        } else {
            Vec::new()
        };
        let each = each.into_iter().take(SERVERS_MAX).map(|server| {
            resolver(
                ResolverConfig::from_name_servers(vec![server]),
                options.clone(),
            )
        });
        let permits = Arc::new(Semaphore::new(settings.at_once_max));
        Ok(Self {
            all,
            each: each.collect::<Result<_, _>>()?,
            servers: addresses,
            permits,
        })
    }

    /// Returns the MX records of a domain, in no particular order.
    ///
    /// # Errors
    /// If there are none, or if there is no usable answer.
    pub async fn mail_hosts(&self, domain: &str) -> Result<Vec<MailHost>, DnsError> {
        let lookup = self.look_up(host_name(domain)?, RecordType::MX).await?;
        let records = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::MX(mx) => Some(MailHost {
                    preference: mx.preference,
                    name: mx.exchange.to_ascii(),
                }),
                _ => None,
            });
        Ok(records.collect())
    }

    /// Returns the IPv4 and IPv6 addresses of a host. One kind is enough. If both lookups fail, an
    /// error on our side is returned in preference to the other, because then the host may have
    /// addresses all the same.
    ///
    /// # Errors
    /// If it has no address, or if there is no usable answer.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let name = host_name(host)?;
        let (four, six) = (
            self.look_up(name.clone(), RecordType::A),
            self.look_up(name, RecordType::AAAA),
        );
        match join(four, six).await {
            (Err(four), Err(six)) => Err(if six.rank() > four.rank() { six } else { four }),
            (four, six) => {
                let found = [four, six].into_iter().flatten();
                let records = found.flat_map(|lookup| lookup.answers().to_vec());
                Ok(records.filter_map(|record| record.data.ip_addr()).collect())
            }
        }
    }

    /// Sends a query. Repeats it after a pause if this process had no socket for it.
    async fn look_up(&self, name: Name, kind: RecordType) -> Result<Lookup, DnsError> {
        let _permit = self.permits.acquire().await;
        let mut tries = 1;
        loop {
            match self.ask(&name, kind).await {
                Err(DnsError::Failed(fault)) if may_pass(&fault) && tries < SHORTAGE_TRIES => {
                    tries += 1;
                    sleep(SHORTAGE_PAUSE).await;
                }
                // The cause is unknown, so a socket could be opened after the failure. The shortage
                // may be over: one last try.
                Err(DnsError::Failed(fault)) if fault.name == UNASKED => {
                    return self.ask(&name, kind).await;
                }
                answer => return answer,
            }
        }
    }

    /// Asks all servers together. If the first server to answer reports a failure, each server is
    /// asked alone, because one broken server must not decide for the others. If all of them fail,
    /// an error that blames the domain's own servers is preferred.
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Lookup, DnsError> {
        let mut failed = match self
            .all
            .lookup(name.clone(), kind)
            .await
            .map_err(|err| dns_error(&err))
        {
            Err(DnsError::Failed(fault)) => fault,
            answer => return answer,
        };
        for server in self.each.iter() {
            match server
                .lookup(name.clone(), kind)
                .await
                .map_err(|err| dns_error(&err))
            {
                Err(DnsError::Failed(fault)) if fault.side == Side::Theirs => failed = fault,
                Err(DnsError::Failed(_)) => {}
                answer => return answer,
            }
        }
        Err(DnsError::Failed(
            self.why_unasked()
                .filter(|_| failed.name == UNASKED)
                .unwrap_or(failed),
        ))
    }

    /// Opens a socket to the first server, and returns the system's error if that fails. The
    /// resolver does not report this error.
    fn why_unasked(&self) -> Option<Fault> {
        let server = self.servers.first()?;
        let err = open_to(*server).err()?;
        Some(own_error(&err)?.fault(
            FaultKind::Lookup,
            &format!("the DNS server {server} cannot be asked: {err}"),
        ))
    }
}

/// Whether a query was not sent, perhaps because of a shortage of sockets, which may soon be over.
/// The resolver does not always report a shortage as such.
fn may_pass(fault: &Fault) -> bool {
    fault.is_shortage() || fault.name == UNASKED
}

/// Opens a socket to this server, to see the system's error. Nothing is sent.
fn open_to(server: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    UdpSocket::bind((any, 0))?.connect(server)
}

impl DnsError {
    /// Returns the rank of a failure. Of two failures, the one with the higher rank is reported.
    fn rank(&self) -> u8 {
        match self {
            Self::Failed(Fault {
                side: Side::Ours, ..
            }) => 3,
            Self::Failed(_) => 2,
            Self::NoRecords => 1,
            Self::NoName => 0,
        }
    }
}

/// The fault to report if no answer came within the caller's time limit.
pub fn late() -> Fault {
    Unusable::Late
        .cause()
        .fault(FaultKind::Lookup, "the DNS did not answer in time")
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn resolver(config: ResolverConfig, options: ResolverOpts) -> Result<TokioResolver, String> {
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder
        .build()
        .map_err(|err| format!("cannot make a DNS resolver: {err}"))
}

/// Parses the name of a host. It is not converted to ASCII: names from DNS are ASCII already, and a
/// conversion would reject the underscores that some mail hosts have. The name is marked as fully
/// qualified, so that no search list is applied.
fn host_name(text: &str) -> Result<Name, DnsError> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_allowed);
    let name = bare
        .split('.')
        .all(is_label)
        .then(|| Name::from_labels(bare.split('.').map(str::as_bytes)).ok());
    let name = name.flatten();
    let mut name = name.ok_or_else(|| {
        DnsError::Failed(Unusable::BadName.cause().fault(
            FaultKind::Lookup,
            &format!("{text} is not the name of a host"),
        ))
    })?;
    name.set_fqdn(true);
    Ok(name)
}

fn dns_error(err: &NetError) -> DnsError {
    match err {
        NetError::Dns(hickory_resolver::net::DnsError::NoRecordsFound(none)) => {
            match none.response_code {
                ResponseCode::NXDomain => DnsError::NoName,
                ResponseCode::NoError => DnsError::NoRecords,
                code => failed(response_code(code.into()), err),
            }
        }
        _ => failed(cause(err), err),
    }
}

fn failed(cause: Cause, err: &NetError) -> DnsError {
    DnsError::Failed(cause.fault(FaultKind::Lookup, &err.to_string()))
}

/// Returns whose fault it is that there is no answer.
fn cause(err: &NetError) -> Cause {
    match err {
        NetError::Dns(hickory_resolver::net::DnsError::ResponseCode(code)) => {
            response_code((*code).into())
        }
        // An error of the socket to our own DNS server, so it is ours.
        NetError::Io(err) => own_error(err).unwrap_or(Unusable::Unasked.cause()),
        NetError::Timeout => Unusable::Late.cause(),
        NetError::Proto(_) | NetError::ForeignClassRecord { .. } | NetError::Dns(_) => {
            Unusable::Broken.cause()
        }
        NetError::Truncated => Unusable::TooLong.cause(),
        _ => Unusable::Unasked.cause(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_dns_is_used_unchanged_unless_no_host_can_have_it() {
        let long = "x".repeat(64);
        let too_long = [long[..63].as_ref(); 4].join(".");
        for (name, good) in [
            ("mx1.example.com.", true),
            ("mx_1.example.com", true),
            ("_mx.example.com", true),
            ("MX.EXAMPLE.com", true),
            ("xn--bcher-kva.example", true),
            ("-a-.example", true),
            ("mx\\0401.example.com", false),
            ("mx 1.example.com", false),
            ("mx..example.com", false),
            (".example.com", false),
            ("", false),
            (".", false),
            ("mx\u{fc}.example.com", false),
            (&format!("{long}.example.com"), false),
            (&too_long, false),
        ] {
            assert_eq!(host_name(name).is_ok(), good, "{name:?}");
        }
    }

    #[test]
    fn each_error_of_the_resolver_has_its_side() {
        let of_code = |code| NetError::Dns(hickory_resolver::net::DnsError::ResponseCode(code));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        for (err, side) in [
            (of_code(ResponseCode::ServFail), Side::Theirs),
            (of_code(ResponseCode::Refused), Side::Ours),
            (of_code(ResponseCode::NotImp), Side::Ours),
            (of_code(ResponseCode::FormErr), Side::Ours),
            (NetError::Timeout, Side::Ours),
            (NetError::NoConnections, Side::Ours),
            (NetError::Busy, Side::Ours),
            (NetError::Io(refused.into()), Side::Ours),
            (NetError::Message("not all bytes sent"), Side::Ours),
            (NetError::Truncated, Side::Theirs),
            (NetError::Proto("rdata ends too early".into()), Side::Theirs),
        ] {
            let DnsError::Failed(fault) = dns_error(&err) else {
                panic!("{err} must be a failure")
            };
            assert_eq!(fault.side, side, "{err}");
        }
    }

    #[test]
    fn an_answer_without_records_is_judged_by_its_response_code() {
        use hickory_resolver::net::NoRecords;
        use hickory_resolver::proto::op::Query;

        let none = |code| dns_error(&NetError::from(NoRecords::new(Query::default(), code)));
        assert_eq!(none(ResponseCode::NXDomain), DnsError::NoName);
        assert_eq!(none(ResponseCode::NoError), DnsError::NoRecords);
        let DnsError::Failed(fault) = none(ResponseCode::Unknown(4_000)) else {
            panic!("an unknown code must be a failure")
        };
        assert_eq!(fault.side, Side::Ours);
    }
}
