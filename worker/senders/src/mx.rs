//! Takes mail straight to the recipients' own mail hosts (RFC 5321, section 5.1).
//!
//! A host that cannot be reached, turns us away or closes is a reason to try the next; what a host
//! says about the message is the outcome. Here a greeting of 421 is the host's failure and says
//! something about it, other than at our own relay.

use std::sync::Arc;

use async_trait::async_trait;
use domain::outcome::{Outcome, Side};
use domain::transcript::{Phase, Transcript};

use self::hosts::{Dns, Lookup};
use self::passed::Passed;
use self::sources::Sources;
use super::smtp::pool::Pools;
use super::smtp::tls::TlsClient;
use super::smtp::trail::Trail;
use super::smtp::{OpenSessions, assumed, without_content};
use crate::attempt::Attempt;
use crate::contact;
use crate::sender::Sender;
use crate::settings::mx::MxSettings;
use crate::settings::session::{AfterDot, TlsMode};
use crate::smtp::peer::{Peer, Place};
use crate::smtp::session::Manner;

mod hosts;
mod passed;
mod public;
mod sources;

/// Sends to mail hosts.
pub struct MxSender {
    settings: MxSettings,
    /// The DNS, or why there is none.
    dns: Result<Dns, String>,
    pools: Pools,
    sources: Sources,
}

impl MxSender {
    /// A sender to the hosts that the DNS names. Nothing is asked yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: MxSettings) -> Self {
        Self::among(settings, OpenSessions::new(usize::MAX))
    }

    /// The same, whose sessions are bounded together with those of other senders.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn among(settings: MxSettings, sessions: Arc<OpenSessions>) -> Self {
        let dns = Dns::new(&settings);
        if let Err(why) = &dns {
            tracing::error!(why, "the mx sender has no DNS; jobs of its route wait");
        }
        let session = settings.session.clone();
        let tls = TlsClient::new(session.certificates.clone());
        let pools = Pools::new(
            Manner {
                settings: session,
                login: None,
                tls,
            },
            sessions,
        );
        let sources = Sources::new(&settings.sources);
        Self {
            settings,
            dns,
            pools,
            sources,
        }
    }

    async fn try_hosts(&self, attempt: &Attempt, content: &[u8], trail: &mut Trail) -> Outcome {
        trail.begin(Phase::Lookup);
        contact::pause();
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
        let mut turn = self.sources.turn();
        for host in hosts.into_iter().take(self.settings.hosts_max) {
            trail.begin(Phase::Lookup);
            contact::pause();
            let addresses = match dns.addresses(&host).await {
                Ok(addresses) => addresses,
                Err(no) => {
                    passed = Passed::Unfound(no).or_rather(passed);
                    continue;
                }
            };
            for address in addresses {
                let Some(source) = turn.source(address) else {
                    passed = Passed::Sourceless.or_rather(passed);
                    continue;
                };
                if left == 0 {
                    break;
                }
                left -= 1;
                let place = Place::Address((address, self.settings.port).into());
                let peer = Peer {
                    host: hosts::name(&host, address),
                    place,
                    source,
                    tls: self.tls_for(domain),
                };
                contact::turn_to_host();
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
                        // An address that there is no way to was not tried.
                        left += usize::from(stop.is_no_way());
                        passed = Passed::Stopped(stop).or_rather(passed);
                    }
                    Err(stop) => return stop.outcome(Side::Theirs),
                }
            }
        }
        passed.map_or_else(|| Lookup::NoAddress.outcome(), Passed::outcome)
    }

    fn tls_for(&self, domain: &str) -> TlsMode {
        let required = self
            .settings
            .tls_required
            .iter()
            .any(|rule| rule.covers(domain));
        if required {
            TlsMode::Required
        } else {
            self.settings.tls
        }
    }
}

#[async_trait]
impl Sender for MxSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_traced(attempt).await.0
    }

    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        let Some(content) = &attempt.content else {
            return (without_content(), None);
        };
        let mut trail = Trail::default();
        let outcome = self.try_hosts(attempt, content, &mut trail).await;
        (outcome, Some(trail.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tls_is_required_where_it_is_said() {
        let settings = MxSettings {
            tls_required: ["example.com", "*.example.org"]
                .map(|rule| rule.parse().unwrap())
                .into(),
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
    }
}
