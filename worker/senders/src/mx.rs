//! Delivers mail directly to the recipients' own mail hosts (RFC 5321, section 5.1).
//!
//! If a host cannot be reached, rejects us or closes the connection, the next host is tried. If a
//! host replies about the message, that reply is the outcome. A 421 greeting is a failure of the
//! destination's host. From our own relay it would be a failure on our side.

use std::sync::Arc;

use async_trait::async_trait;
use domain::outcome::{Outcome, Side};
use domain::transcript::{Phase, Transcript};

use self::hosts::{Dns, LookupError};
use self::skipped::SkippedHost;
use self::sources::Sources;
use super::smtp::pool::Pools;
use super::smtp::recorder::TranscriptRecorder;
use super::smtp::tls::TlsClient;
use super::smtp::{OpenSessions, assumed_reply, without_content};
use crate::attempt::Attempt;
use crate::contact;
use crate::sender::Sender;
use crate::settings::mx::MxSettings;
use crate::settings::session::{AfterDot, TlsMode};
use crate::smtp::peer::{Peer, Place};
use crate::smtp::session::SessionParameters;

mod hosts;
mod public;
mod skipped;
mod sources;

/// Sends to mail hosts directly.
pub struct MxSender {
    settings: MxSettings,
    /// The DNS, or why it is not available.
    dns: Result<Dns, String>,
    pools: Pools,
    sources: Sources,
}

impl MxSender {
    /// Returns a sender to the hosts that the DNS names. It makes no lookup yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(settings: MxSettings) -> Self {
        Self::with_shared_limit(settings, OpenSessions::new(usize::MAX))
    }

    /// Like [`new`](Self::new), and shares the limit on open sessions with other senders.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_shared_limit(settings: MxSettings, sessions: Arc<OpenSessions>) -> Self {
        let dns = Dns::new(&settings);
        if let Err(why) = &dns {
            tracing::error!(
                why,
                "the mx sender cannot use the DNS; jobs of its route wait"
            );
        }
        let session = settings.session.clone();
        let tls = TlsClient::new(session.certificates.clone());
        let pools = Pools::new(
            SessionParameters {
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

    async fn try_hosts(
        &self,
        attempt: &Attempt,
        content: &[u8],
        recorder: &mut TranscriptRecorder,
    ) -> Outcome {
        recorder.begin(Phase::Lookup);
        contact::stop_waiting();
        let dns = match &self.dns {
            Ok(dns) => dns,
            Err(why) => return LookupError::ours(why.clone()).outcome(),
        };
        let domain = attempt.recipient.domain();
        let hosts = match dns.hosts(domain, &self.settings.session.helo).await {
            Ok(hosts) => hosts,
            Err(err) => return err.outcome(),
        };
        let mut skipped: Option<SkippedHost> = None;
        let mut addresses_left = self.settings.hosts_max;
        let mut turn = self.sources.turn();
        for host in hosts.into_iter().take(self.settings.hosts_max) {
            recorder.begin(Phase::Lookup);
            contact::stop_waiting();
            let addresses = match dns.addresses(&host).await {
                Ok(addresses) => addresses,
                Err(err) => {
                    skipped = SkippedHost::NotFound(err).or_more_informative(skipped);
                    continue;
                }
            };
            for address in addresses {
                let Some(source) = turn.source(address) else {
                    skipped = SkippedHost::NoSource.or_more_informative(skipped);
                    continue;
                };
                if addresses_left == 0 {
                    break;
                }
                addresses_left -= 1;
                let place = Place::Address((address, self.settings.port).into());
                let peer = Peer {
                    host: hosts::name(&host, address),
                    place,
                    source,
                    tls: self.tls_for(domain),
                };
                contact::begin_host();
                match self
                    .pools
                    .hand_over(&peer, attempt, content, recorder)
                    .await
                {
                    Ok(reply) => return Outcome::Delivered(reply),
                    Err(stop) if stop.is_in_doubt() => {
                        recorder.mark_in_doubt();
                        return match self.settings.session.after_dot {
                            AfterDot::AssumeDelivered => Outcome::Delivered(assumed_reply()),
                            AfterDot::Resend => stop.outcome(Side::Theirs),
                        };
                    }
                    Err(stop) if stop.is_about_connection() && stop.phase != Phase::Dot => {
                        // An unroutable address was not tried and does not count.
                        addresses_left += usize::from(stop.is_unroutable());
                        skipped = SkippedHost::Stopped(stop).or_more_informative(skipped);
                    }
                    Err(stop) => return stop.outcome(Side::Theirs),
                }
            }
        }
        skipped.map_or_else(|| LookupError::NoAddress.outcome(), SkippedHost::outcome)
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
        let mut recorder = TranscriptRecorder::default();
        let outcome = self.try_hosts(attempt, content, &mut recorder).await;
        (outcome, Some(recorder.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tls_is_required_for_the_configured_domains() {
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
