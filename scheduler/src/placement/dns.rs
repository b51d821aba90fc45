//! Asks the DNS where a domain's mail goes. Bounded in time and in number, and left alone for a
//! while where it does not answer at all: ingest must not wait for it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant as StdInstant};

use config::model::Placement;
use domain::outcome::{Fault, Side};
use futures::future::join_all;
use placement::propose::MailHosts;
use system::dns::{self, DnsError};
use system::troubles::{News, Troubles};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// How many lookups in a row must stay without an answer before none are made for a while.
const SILENT_MAX: u32 = 16;

/// How long that is, in timeouts: ingest then waits at most a small part of its time.
const REST_TIMEOUTS: u32 = 10;

/// How long a domain waits for its turn to be asked for, in timeouts. Where the DNS is silent
/// nobody waits that long, for then it is left alone.
const QUEUE_TIMEOUTS: u32 = 5;

/// Answers that are kept: a placement is kept for good, so a domain is asked for once in a
/// process's life or twice.
const KEPT_MAX: u64 = 8_192;

/// The DNS, as far as it is asked for mail hosts.
#[derive(Debug)]
pub struct Dns {
    dns: dns::Dns,
    permits: Semaphore,
    timeout: Duration,
    silent: AtomicU32,
    rests_until: Mutex<Option<Instant>>,
    troubles: Troubles<Option<&'static str>>,
}

impl Dns {
    /// The DNS by these settings. Asks nothing yet; needs a Tokio runtime.
    ///
    /// # Errors
    /// Where the system's servers are to be asked and are not known; the text says what to set.
    pub fn new(settings: &Placement) -> Result<Self, String> {
        let Placement {
            nameservers,
            timeout,
            lookups_max,
            ..
        } = settings;
        let asked = dns::Settings {
            nameservers,
            timeout: *timeout,
            kept_max: KEPT_MAX,
            at_once_max: *lookups_max,
        };
        let dns = dns::Dns::new(asked).map_err(|why| {
            format!("{why}; name some in placement.nameservers, or set placement.mx = false")
        })?;
        let permits = Semaphore::new(settings.lookups_max);
        Ok(Self {
            dns,
            permits,
            timeout: settings.timeout,
            silent: AtomicU32::new(0),
            rests_until: Mutex::default(),
            troubles: Troubles::default(),
        })
    }

    /// What the DNS says of domains, in the order given. Each has one timeout from when it is asked
    /// for, and a few in which to be asked for at all.
    pub async fn mail_hosts(&self, domains: &[&str]) -> Vec<MailHosts> {
        if domains.is_empty() || self.rests() {
            return vec![MailHosts::Unanswered; domains.len()];
        }
        let deadline = Instant::now() + self.timeout * QUEUE_TIMEOUTS;
        join_all(domains.iter().map(|domain| self.look_up(domain, deadline))).await
    }

    async fn look_up(&self, domain: &str, deadline: Instant) -> MailHosts {
        if domain.starts_with('[') {
            return MailHosts::NotAsked;
        }
        // That our own queue is long says nothing of the DNS.
        let Ok(Ok(_permit)) = timeout_at(deadline, self.permits.acquire()).await else {
            return MailHosts::Unanswered;
        };
        if self.rests() {
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
                tracing::debug!(domain, %fault, "the DNS cannot say where mail goes");
                MailHosts::Unanswered
            }
            Ok(Err(DnsError::Failed(fault))) => {
                self.failed(&fault);
                return MailHosts::Unanswered;
            }
            Err(_) => {
                self.failed(&dns::late());
                return MailHosts::Unanswered;
            }
        };
        self.answered();
        hosts
    }

    fn answered(&self) {
        self.silent.store(0, Ordering::Relaxed);
        self.log(None);
    }

    /// Logs trouble with the resolver when it begins and when it is over.
    fn log(&self, fault: Option<&Fault>) {
        for news in self
            .troubles
            .note("dns", fault.map(|fault| fault.name), StdInstant::now())
        {
            match (news, fault) {
                (News::Begun, Some(fault)) => tracing::warn!(
                    %fault,
                    "the DNS cannot be asked where mail goes; new domains are placed by their own names, and stay there"
                ),
                (News::Begun, None) => {}
                (News::Over { lasted, times }, _) => {
                    tracing::info!(
                        lasted_s = lasted.as_secs(),
                        times,
                        "a trouble with the DNS is over"
                    );
                }
            }
        }
    }

    /// A resolver did not answer, or refused to.
    fn failed(&self, fault: &Fault) {
        self.log(Some(fault));
        if self.silent.fetch_add(1, Ordering::Relaxed) + 1 != SILENT_MAX {
            return;
        }
        let rest = self.timeout * REST_TIMEOUTS;
        tracing::warn!(
            ?rest,
            "the DNS does not answer and is left alone; domains that are new meanwhile are placed by their own names"
        );
        *self
            .rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + rest);
    }

    /// Whether the DNS is left alone. After its rest it has to stay silent as often as before to
    /// get another.
    fn rests(&self) -> bool {
        let mut until = self
            .rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let rests = until.is_some_and(|until| Instant::now() < until);
        if until.is_some() && !rests {
            *until = None;
            self.silent.store(0, Ordering::Relaxed);
        }
        rests
    }
}
