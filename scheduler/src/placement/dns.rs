//! Looks up the mail hosts of domains in the DNS. Lookups are bounded in time and number. If the
//! DNS does not answer at all, lookups pause for a while, because intake must not wait for it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant as StdInstant};

use config::model::Placement;
use domain::outcome::{Fault, Side};
use futures::future::join_all;
use placement::propose::MailHosts;
use system::dns::{self, DnsError};
use system::troubles::{LogLine, Troubles};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// How many lookups in a row must fail before lookups pause.
const FAILURES_MAX: u32 = 16;

/// How long lookups pause, in time-outs. Long enough that intake spends only a small part of its
/// time waiting for the DNS.
const PAUSE_TIMEOUTS: u32 = 10;

/// How long a lookup waits for its turn, in time-outs. If the DNS does not answer, lookups pause
/// before any of them has waited that long.
const QUEUE_TIMEOUTS: u32 = 5;

/// How many answers are cached. A placement is kept for good, so a process looks up a domain only
/// once or twice.
const CACHED_MAX: u64 = 8_192;

/// Looks up mail hosts in the DNS.
#[derive(Debug)]
pub struct Dns {
    dns: dns::Dns,
    permits: Semaphore,
    timeout: Duration,
    /// How many lookups in a row have failed.
    failures: AtomicU32,
    paused_until: Mutex<Option<Instant>>,
    troubles: Troubles<Option<&'static str>>,
}

impl Dns {
    /// The DNS with these settings. Sends no query yet, but needs a Tokio runtime.
    ///
    /// # Errors
    /// If the DNS servers of the system are needed and not known. The text names the keys to set.
    pub fn new(settings: &Placement) -> Result<Self, String> {
        let Placement {
            nameservers,
            timeout,
            lookups_max,
            ..
        } = settings;
        let dns_settings = dns::Settings {
            nameservers,
            timeout: *timeout,
            kept_max: CACHED_MAX,
            at_once_max: *lookups_max,
        };
        let dns = dns::Dns::new(dns_settings).map_err(|why| {
            format!("{why}; set placement.nameservers, or set placement.mx = false")
        })?;
        let permits = Semaphore::new(settings.lookups_max);
        Ok(Self {
            dns,
            permits,
            timeout: settings.timeout,
            failures: AtomicU32::new(0),
            paused_until: Mutex::default(),
            troubles: Troubles::default(),
        })
    }

    /// Returns the mail hosts of domains, in the order given. A lookup may take one time-out, and
    /// may wait a few time-outs for its turn before that.
    pub async fn mail_hosts(&self, domains: &[&str]) -> Vec<MailHosts> {
        if domains.is_empty() || self.is_paused() {
            return vec![MailHosts::Unanswered; domains.len()];
        }
        let deadline = Instant::now() + self.timeout * QUEUE_TIMEOUTS;
        join_all(domains.iter().map(|domain| self.look_up(domain, deadline))).await
    }

    async fn look_up(&self, domain: &str, deadline: Instant) -> MailHosts {
        if domain.starts_with('[') {
            return MailHosts::NotAsked;
        }
        // A lookup that did not get its turn in our own queue does not count as a failure of the
        // DNS.
        let Ok(Ok(_permit)) = timeout_at(deadline, self.permits.acquire()).await else {
            return MailHosts::Unanswered;
        };
        if self.is_paused() {
            return MailHosts::Unanswered;
        }
        let hosts = match timeout(self.timeout, self.dns.mail_hosts(domain)).await {
            Ok(Ok(hosts)) => {
                MailHosts::from_records(hosts.into_iter().map(|host| (host.preference, host.name)))
            }
            Ok(Err(DnsError::NoName | DnsError::NoRecords)) => {
                MailHosts::Answered(Default::default())
            }
            Ok(Err(DnsError::Failed(fault))) if fault.side == Side::Theirs => {
                tracing::debug!(domain, %fault, "the DNS has no answer for a domain");
                MailHosts::Unanswered
            }
            Ok(Err(DnsError::Failed(fault))) => {
                self.record_failure(&fault);
                return MailHosts::Unanswered;
            }
            Err(_) => {
                self.record_failure(&dns::late());
                return MailHosts::Unanswered;
            }
        };
        self.record_answer();
        hosts
    }

    fn record_answer(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.log(None);
    }

    /// Logs trouble with the DNS when it begins and when it is over.
    fn log(&self, fault: Option<&Fault>) {
        for line in self
            .troubles
            .note("dns", fault.map(|fault| fault.name), StdInstant::now())
        {
            match (line, fault) {
                (LogLine::Begun, Some(fault)) => tracing::warn!(
                    %fault,
                    "mail hosts cannot be looked up in the DNS; \
                     new domains are placed under their own names, and stay there"
                ),
                (LogLine::Begun, None) => {}
                (LogLine::Over { lasted, times }, _) => {
                    tracing::info!(
                        lasted_s = lasted.as_secs(),
                        times,
                        "mail hosts can be looked up in the DNS again"
                    );
                }
            }
        }
    }

    /// Records that a resolver did not answer, or refused to.
    fn record_failure(&self, fault: &Fault) {
        self.log(Some(fault));
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 != FAILURES_MAX {
            return;
        }
        let pause = self.timeout * PAUSE_TIMEOUTS;
        tracing::warn!(
            ?pause,
            "the DNS does not answer, so lookups of mail hosts pause; \
             domains that are new meanwhile are placed under their own names"
        );
        *self
            .paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
    }

    /// Whether lookups pause. After a pause, lookups pause again only if [`FAILURES_MAX`] more of
    /// them fail in a row.
    fn is_paused(&self) -> bool {
        let mut until = self
            .paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_paused = until.is_some_and(|until| Instant::now() < until);
        if until.is_some() && !is_paused {
            *until = None;
            self.failures.store(0, Ordering::Relaxed);
        }
        is_paused
    }
}
