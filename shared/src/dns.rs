//! The DNS, as far as it says where mail goes: the resolver that placement and the mx sender both ask. What an answer
//! means to them they say themselves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;

/// How the DNS is asked.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Whom to ask; none: the servers that the system names.
    pub nameservers: &'a [SocketAddr],
    /// How long one question may take, its one repetition included. The caller keeps the time.
    pub timeout: Duration,
    /// How many answers are kept, each as long as the DNS says that it holds.
    pub kept_max: u64,
    /// How many questions are under way at once with one server.
    pub at_once_max: usize,
}

/// A resolver. It has no time limit of its own that callers could rely on.
#[derive(Debug)]
pub struct Dns(TokioResolver);

/// Why the DNS gave no records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist.
    #[error("the name does not exist")]
    NoName,
    /// It exists, and has no such records.
    #[error("the name has no such records")]
    NoRecords,
    /// Its own servers fail, says the resolver.
    #[error("{0}")]
    Failed(String),
    /// The resolver could not be asked, or said nothing.
    #[error("{0}")]
    Silent(String),
}

impl Dns {
    /// The DNS by these settings. Asks nothing yet; needs a Tokio runtime.
    ///
    /// # Errors
    /// Where the system's servers are to be asked and are not known.
    pub fn new(settings: Settings<'_>) -> Result<Self, String> {
        let mut builder = if settings.nameservers.is_empty() {
            TokioResolver::builder_tokio().map_err(|err| format!("the system names no DNS server: {err}"))?
        } else {
            let servers = settings.nameservers.iter().map(|address| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                NameServerConfig::new(address.ip(), true, connections.into())
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.cache_size = settings.kept_max;
        options.max_active_requests = settings.at_once_max;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // One repetition fits into the caller's timeout.
        options.timeout = settings.timeout / 2;
        options.attempts = 1;
        builder.build().map(Self).map_err(|err| format!("no DNS resolver: {err}"))
    }

    /// The MX records of a domain, preference and host with its last dot, in no order.
    pub async fn mail_hosts(&self, domain: &str) -> Result<Vec<(u16, String)>, DnsError> {
        let lookup = self.0.mx_lookup(whole(domain)).await.map_err(|err| sort(&err))?;
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
            _ => None,
        });
        Ok(records.collect())
    }

    /// The addresses of a host, of both kinds.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let lookup = self.0.lookup_ip(whole(host)).await.map_err(|err| sort(&err))?;
        Ok(lookup.iter().collect())
    }
}

/// The last dot says that the name is whole, so that no search list is gone through.
fn whole(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

fn sort(err: &NetError) -> DnsError {
    match err {
        err if err.is_nx_domain() => DnsError::NoName,
        err if err.is_no_records_found() => DnsError::NoRecords,
        NetError::Dns(err) => DnsError::Failed(err.to_string()),
        err => DnsError::Silent(err.to_string()),
    }
}
