//! Asks the DNS where a domain's mail goes. Bounded in time and in number, and left alone for a while where it does not
//! answer at all: ingest must not wait for it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use shared::config::Placement;
use shared::placement::propose::MailHosts;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// How many lookups in a row must stay without an answer before none are made for a while.
const SILENT_MAX: u32 = 16;

/// How long that is, in timeouts: ingest then waits at most a small part of its time.
const REST_TIMEOUTS: u32 = 10;

/// The DNS, as far as it is asked for mail hosts.
#[derive(Debug)]
pub struct Dns {
    resolver: TokioResolver,
    permits: Semaphore,
    timeout: Duration,
    silent: AtomicU32,
    rests_until: Mutex<Option<Instant>>,
}

impl Dns {
    /// The DNS by these settings. Asks nothing yet; needs a Tokio runtime.
    ///
    /// # Errors
    /// Where the system's servers are to be asked and are not known; the text says what to set.
    pub fn new(settings: &Placement) -> Result<Self, String> {
        let mut builder = if settings.nameservers.is_empty() {
            TokioResolver::builder_tokio().map_err(|err| {
                format!("the system names no DNS server ({err}); name some in placement.nameservers, or set placement.mx = false")
            })?
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
        // One repetition fits into our own timeout, which covers the whole batch.
        options.timeout = settings.timeout / 2;
        options.attempts = 1;
        options.max_active_requests = settings.lookups_max;
        let resolver = builder.build().map_err(|err| format!("no DNS resolver: {err}; look at [placement]"))?;
        let permits = Semaphore::new(settings.lookups_max);
        Ok(Self {
            resolver,
            permits,
            timeout: settings.timeout,
            silent: AtomicU32::new(0),
            rests_until: Mutex::default(),
        })
    }

    /// What the DNS says of domains, in the order given, within one timeout for all of them.
    pub async fn mail_hosts(&self, domains: &[&str]) -> Vec<MailHosts> {
        if domains.is_empty() || self.rests() {
            return vec![MailHosts::Unanswered; domains.len()];
        }
        let deadline = Instant::now() + self.timeout;
        join_all(domains.iter().map(|domain| self.look_up(domain, deadline))).await
    }

    async fn look_up(&self, domain: &str, deadline: Instant) -> MailHosts {
        if domain.starts_with('[') {
            return MailHosts::NotAsked;
        }
        // The last dot says that the name is whole, so that no search list is gone through.
        let name = format!("{domain}.");
        let asked = timeout_at(deadline, async {
            let _permit = self.permits.acquire().await.ok()?;
            Some(self.resolver.mx_lookup(name).await)
        });
        let lookup = match asked.await {
            Ok(Some(Ok(lookup))) => lookup,
            Ok(Some(Err(err))) if err.is_no_records_found() => {
                self.answered();
                return MailHosts::Answered(Default::default());
            }
            Ok(Some(Err(NetError::Dns(err)))) => {
                self.answered();
                tracing::debug!(domain, %err, "the DNS cannot say where mail goes");
                return MailHosts::Unanswered;
            }
            Ok(_) | Err(_) => {
                self.stayed_silent();
                return MailHosts::Unanswered;
            }
        };
        self.answered();
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
            _ => None,
        });
        MailHosts::from_records(records)
    }

    fn answered(&self) {
        self.silent.store(0, Ordering::Relaxed);
    }

    fn stayed_silent(&self) {
        if self.silent.fetch_add(1, Ordering::Relaxed) + 1 != SILENT_MAX {
            return;
        }
        let rest = self.timeout * REST_TIMEOUTS;
        tracing::warn!(
            ?rest,
            "the DNS does not answer; new domains are placed by their own names for now, and it is asked again later"
        );
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + rest);
    }

    /// Whether the DNS is left alone. After its rest it has to stay silent as often as before to get another.
    fn rests(&self) -> bool {
        let mut until = self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        let rests = until.is_some_and(|until| Instant::now() < until);
        if until.is_some() && !rests {
            *until = None;
            self.answered();
        }
        rests
    }
}
