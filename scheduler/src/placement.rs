//! Decides the destinations of recipient domains. A placement in the store counts first, then the
//! list of providers, then the domain's mail hosts in the DNS. If two schedulers differ, the store
//! decides.

use std::sync::Arc;

use config::model::Config;
use domain::destination::Destination;
use placement::propose::{MailHosts, Proposal};
use placement::providers::Providers;
use policy::table::Table;
use store::error::StoreError;
use store::handle::Store;
use store::place::distinct;

pub mod dns;

use dns::Dns;

/// Returns the destinations of domains, and places those that are new.
#[derive(Clone, Debug)]
pub struct Placer {
    store: Store,
    dns: Option<Arc<Dns>>,
}

impl Placer {
    /// Places by providers, and also by mail hosts if there is a `dns`.
    pub fn new(store: Store, dns: Option<Dns>) -> Self {
        Self {
            store,
            dns: dns.map(Arc::new),
        }
    }

    /// Places as configured.
    ///
    /// # Errors
    /// If the DNS servers of the system are needed and not known. The text names the key to set.
    pub fn from_config(store: Store, config: &Config) -> Result<Self, String> {
        let dns = config
            .placement
            .mx
            .then(|| Dns::new(&config.placement))
            .transpose()?;
        Ok(Self::new(store, dns))
    }

    /// Returns the destinations of domains, in the order given. A domain may occur more than once.
    /// New domains are placed for good, so use this only for bounces and facts that are being
    /// accepted, and [`Store::destinations`] for all else. Takes no longer than Redis and
    /// `placement.timeout` together.
    ///
    /// # Errors
    /// If the store fails. A DNS that does not answer is no error.
    pub async fn place(&self, domains: &[&str]) -> Result<Vec<Destination>, StoreError> {
        let (distinct, places) = distinct(domains);
        let kept = self.store.kept(&distinct).await?;
        let new: Vec<&str> = distinct
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| kept.is_none())
            .map(|(name, _)| *name)
            .collect();
        let mut placed = if new.is_empty() {
            Vec::new()
        } else {
            self.store
                .place(propose(self.store.providers(), self.dns.as_deref(), &new).await)
                .await?
        }
        .into_iter();
        let found: Vec<Destination> = kept
            .into_iter()
            .map(|kept| {
                kept.or_else(|| placed.next())
                    .expect("each domain that was not kept has just been placed")
            })
            .collect();
        Ok(places
            .into_iter()
            .map(|place| found[place].clone())
            .collect())
    }
}

/// Returns where domains would be placed if they were new, in the order given. Neither reads nor
/// writes Redis.
pub async fn propose(providers: &Providers, dns: Option<&Dns>, domains: &[&str]) -> Vec<Proposal> {
    let without_provider: Vec<&str> = domains
        .iter()
        .copied()
        .filter(|domain| providers.of_domain(domain).is_none())
        .collect();
    let hosts = match dns {
        Some(dns) => dns.mail_hosts(&without_provider).await,
        None => vec![MailHosts::NotAsked; without_provider.len()],
    };
    let mut hosts = hosts.into_iter();
    let place = |domain: &&str| {
        let hosts = providers
            .of_domain(domain)
            .is_none()
            .then(|| hosts.next())
            .flatten();
        Proposal::new(providers, domain, &hosts.unwrap_or(MailHosts::NotAsked))
    };
    domains.iter().map(place).collect()
}

/// Finds policy rows that match nothing because they are for a domain that belongs to a provider.
/// Returns a text for each, with what to write instead. This is no error, because the domain may
/// have been placed under its own name before.
pub fn rows_without_effect(table: &Table, store: &Store) -> Vec<String> {
    let rows = table
        .rows()
        .iter()
        .filter_map(|row| Some((row, row.destination.as_deref()?)));
    rows.filter_map(|(row, domain)| {
        let provider = store.providers().of_domain(domain)?;
        let name = &row.name;
        Some(format!(
            "row {name} is for destination \"{domain}\", which belongs to \"{provider}\": \
             write \"{provider}\" instead"
        ))
    })
    .collect()
}
