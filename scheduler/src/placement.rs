//! Places recipient domains: what the store keeps, else what the providers say, else what the DNS
//! says of the domain's mail hosts. The store has the last word.

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

/// Tells where domains belong, and settles it for those that are new.
#[derive(Clone, Debug)]
pub struct Placer {
    store: Store,
    dns: Option<Arc<Dns>>,
}

impl Placer {
    /// Places by providers, and where there is a `dns` by mail hosts.
    pub fn new(store: Store, dns: Option<Dns>) -> Self {
        Self {
            store,
            dns: dns.map(Arc::new),
        }
    }

    /// Places as the configuration says.
    ///
    /// # Errors
    /// Where the system's DNS servers are to be asked and are not known; the text says what to set.
    pub fn from_config(store: Store, config: &Config) -> Result<Self, String> {
        let dns = config
            .placement
            .mx
            .then(|| Dns::new(&config.placement))
            .transpose()?;
        Ok(Self::new(store, dns))
    }

    /// Where domains belong, in the order given; they may come more than once. New ones are
    /// settled, so ask this for bounces that are taken in, and [`Store::destinations`] for all
    /// else. Takes no longer than Redis and `placement.timeout` together.
    ///
    /// # Errors
    /// Those of the store. A silent DNS is none.
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
                    .expect("each that is not kept has just been placed")
            })
            .collect();
        Ok(places
            .into_iter()
            .map(|place| found[place].clone())
            .collect())
    }
}

/// Where domains would be placed if they were new, in the order given. Looks at no Redis and writes
/// nothing.
pub async fn propose(providers: &Providers, dns: Option<&Dns>, domains: &[&str]) -> Vec<Proposal> {
    let asked: Vec<&str> = domains
        .iter()
        .copied()
        .filter(|domain| providers.of_domain(domain).is_none())
        .collect();
    let hosts = match dns {
        Some(dns) => dns.mail_hosts(&asked).await,
        None => vec![MailHosts::NotAsked; asked.len()],
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

/// Rows of the policy that are for a domain which belongs to a provider, and so match nothing; each
/// as what to write instead. No fault, for the domain may have been placed by its own name before.
pub fn rows_in_vain(table: &Table, store: &Store) -> Vec<String> {
    let rows = table
        .rows()
        .iter()
        .filter_map(|row| Some((row, row.destination.as_deref()?)));
    rows.filter_map(|(row, domain)| {
        let provider = store.providers().of_domain(domain)?;
        let name = &row.name;
        Some(format!("row {name} is for destination \"{domain}\", which belongs to \"{provider}\": write that instead"))
    })
    .collect()
}
