//! Takes mail straight to the recipients' own mail hosts (RFC 5321, section 5.1).
//!
//! A host that cannot be reached, turns us away or closes is a reason to try the next; what a host says about the message
//! is the outcome. Here a greeting of 421 is the host's failure and says something about it, other than at our own relay.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use shared::config::{AfterDot, MxSettings, TlsMode};
use shared::outcome::{Outcome, Side};
use shared::transcript::{Phase, Transcript};

use self::hosts::{Dns, Lookup};
use self::passed::Passed;
use super::smtp::pool::Pools;
use super::smtp::session::{Manner, Peer, Place};
use super::smtp::tls::TlsClient;
use super::smtp::trail::Trail;
use super::smtp::{assumed, without_content};
use super::{Attempt, Sender};

mod hosts;
mod passed;
mod public;

/// Sends to mail hosts.
pub struct MxSender {
    settings: MxSettings,
    /// The DNS, or why there is none.
    dns: Result<Dns, String>,
    pools: Pools,
    /// Which of our own addresses comes next.
    turn: AtomicUsize,
}

impl MxSender {
    /// A sender to the hosts that the DNS names. Nothing is asked yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: MxSettings) -> Self {
        let dns = Dns::new(&settings);
        if let Err(why) = &dns {
            tracing::error!(why, "the mx sender has no DNS; jobs of its route wait");
        }
        let session = settings.session.clone();
        let tls = TlsClient::new(session.certificates.clone());
        let pools = Pools::new(Manner { settings: session, login: None, tls });
        Self { settings, dns, pools, turn: AtomicUsize::new(0) }
    }

    async fn try_hosts(&self, attempt: &Attempt, content: &[u8], trail: &mut Trail) -> Outcome {
        trail.begin(Phase::Lookup);
        let dns = match &self.dns {
            Ok(dns) => dns,
            Err(why) => return Lookup::ours(why.clone()).outcome(),
        };
        let domain = attempt.recipient.domain();
        let hosts = match dns.hosts(domain, &self.settings.session.helo).await {
            Ok(hosts) => hosts,
            Err(no) => return no.outcome(),
        };
        let mut passed: Option<Passed> = None;
        let mut left = self.settings.hosts_max;
        for host in hosts.into_iter().take(self.settings.hosts_max) {
            trail.begin(Phase::Lookup);
            let addresses = match dns.addresses(&host).await {
                Ok(addresses) => addresses,
                Err(no) => {
                    passed = Passed::Unfound(no).or_rather(passed);
                    continue;
                }
            };
            for address in addresses {
                let Some(source) = self.source(address) else {
                    passed = Passed::Sourceless.or_rather(passed);
                    continue;
                };
                if left == 0 {
                    break;
                }
                left -= 1;
                let place = Place::Address((address, self.settings.port).into());
                let peer = Peer { host: host.clone(), place, source, tls: self.tls_for(domain) };
                match self.pools.hand_over(&peer, attempt, content, trail).await {
                    Ok(reply) => return Outcome::Delivered(reply),
                    Err(stop) if stop.is_unknown() => {
                        trail.is_unknown();
                        return match self.settings.session.after_dot {
                            AfterDot::AssumeDelivered => Outcome::Delivered(assumed()),
                            AfterDot::Resend => stop.outcome(Side::Theirs),
                        };
                    }
                    Err(stop) if stop.is_about_connection() && stop.phase != Phase::Dot => {
                        passed = Passed::Stopped(stop).or_rather(passed);
                    }
                    Err(stop) => return stop.outcome(Side::Theirs),
                }
            }
        }
        passed.map_or_else(|| Lookup::NoAddress.outcome(), Passed::outcome)
    }

    /// The address of our own to reach this one from: `Some(None)` where the system chooses, `None` where we have none of
    /// its kind.
    fn source(&self, address: IpAddr) -> Option<Option<IpAddr>> {
        if self.settings.sources.is_empty() {
            return Some(None);
        }
        let same_kind = self.settings.sources.iter().filter(|source| source.is_ipv4() == address.is_ipv4());
        let fit: Vec<_> = same_kind.collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(fit.len())?;
        Some(Some(*fit[turn]))
    }

    fn tls_for(&self, domain: &str) -> TlsMode {
        let required = self.settings.tls_required.iter().any(|rule| rule.covers(domain));
        if required { TlsMode::Required } else { self.settings.tls }
    }
}

#[async_trait]
impl Sender for MxSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_traced(attempt).await.0
    }

    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        let Some(content) = &attempt.content else { return (without_content(), None) };
        let mut trail = Trail::default();
        let outcome = self.try_hosts(attempt, content, &mut trail).await;
        (outcome, Some(trail.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tls_is_required_where_it_is_said_and_sources_take_turns() {
        let settings = MxSettings {
            tls_required: ["example.com", "*.example.org"].map(|rule| rule.parse().unwrap()).into(),
            sources: ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap()).to_vec(),
            nameservers: vec!["127.0.0.1:53".parse().unwrap()],
            ..MxSettings::default()
        };
        let sender = MxSender::new(settings);
        for (domain, mode) in [
            ("example.com", TlsMode::Required),
            ("news.example.com", TlsMode::Opportunistic),
            ("a.b.example.org", TlsMode::Required),
            ("example.org", TlsMode::Opportunistic),
        ] {
            assert_eq!(sender.tls_for(domain), mode, "{domain}");
        }
        let four = "198.51.100.1".parse().unwrap();
        let turns: Vec<_> = (0..3).map(|_| sender.source(four).flatten().unwrap().to_string()).collect();
        assert_eq!(turns, ["192.0.2.1", "192.0.2.2", "192.0.2.1"]);
        let six = "2001:db8::2".parse().unwrap();
        assert_eq!(sender.source(six).flatten().unwrap().to_string(), "2001:db8::1");
    }
}
