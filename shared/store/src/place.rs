//! Where recipient domains are placed. The first placement of a domain is kept for good, so that
//! all processes and versions look for an address in one place, whatever their configuration and
//! the DNS say later.
//!
//! Bounded: a placement is kept for each domain that something was taken in for, up to a number in
//! all; the ones used lately are in memory too.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use deadpool_redis::redis::{FromRedisValue, Pipeline, pipe};
use domain::destination::{Destination, shard};
use futures::future::try_join_all;
use placement::propose::{MailHosts, Proposal};
use placement::providers::Providers;

use crate::batch::BATCH_MAX;
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;

/// What each pipeline was told, with the items that it was about.
type AnswerPerPipeline<T> = Vec<(Vec<usize>, T)>;

impl Store {
    /// Where domains go, in the order given; of names that come more than once each place is told.
    /// For looking things up: writes nothing, and a domain that is not placed yet is where the
    /// configuration alone would place it.
    pub async fn destinations(&self, domains: &[&str]) -> Result<Vec<Destination>, StoreError> {
        let (distinct, places) = distinct(domains);
        let kept = self.kept(&distinct).await?;
        let new = distinct
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| kept.is_none());
        let proposals: Vec<Proposal> = new
            .map(|(domain, _)| self.by_configuration(domain))
            .collect();
        let at_home = self.at_home(&proposals).await?;
        let mut proposals = proposals
            .into_iter()
            .map(|proposal| stay(proposal, &at_home).destination);
        let found: Vec<Destination> = kept
            .into_iter()
            .map(|kept| {
                kept.or_else(|| proposals.next())
                    .expect("there is a proposal for each that is not kept")
            })
            .collect();
        Ok(places
            .into_iter()
            .map(|place| found[place].clone())
            .collect())
    }

    /// The placements that are kept, in the order given. Domains must not come twice.
    pub async fn kept(&self, domains: &[&str]) -> Result<Vec<Option<Destination>>, StoreError> {
        let mut kept = self.places.remembered(domains);
        let unknown: Vec<usize> = (0..domains.len()).filter(|n| kept[*n].is_none()).collect();
        let asked: Vec<&str> = unknown.iter().map(|n| domains[*n]).collect();
        let found = self.kept_in_redis(&asked).await?;
        let mut recent = self.places.recent();
        for (n, found) in unknown.into_iter().zip(found) {
            if let Some(destination) = &found {
                recent.put(domains[n], destination);
            }
            kept[n] = found;
        }
        Ok(kept)
    }

    /// The same, whatever this process remembers.
    async fn kept_in_redis(
        &self,
        domains: &[&str],
    ) -> Result<Vec<Option<Destination>>, StoreError> {
        let found: AnswerPerPipeline<(Vec<Option<Text>>, u64)> = self
            .ask_by_shard(
                0..domains.len(),
                |n| shard(domains[*n], self.shards()),
                |shard, asked, commands| {
                    let key = self.keys.place(shard);
                    let fields: Vec<&str> = asked.iter().map(|n| domains[*n]).collect();
                    commands
                        .cmd("HMGET")
                        .arg(&key)
                        .arg(fields)
                        .cmd("HLEN")
                        .arg(&key);
                },
            )
            .await?;
        let mut kept = vec![None; domains.len()];
        for (asked, (names, count)) in found {
            let Some(first) = asked.first() else { continue };
            self.places.kept[usize::from(shard(domains[*first], self.shards()))]
                .store(count, Ordering::Relaxed);
            for (n, name) in asked.into_iter().zip(names) {
                kept[n] = name.map(|Text(name)| Destination::named(name));
            }
        }
        Ok(kept)
    }

    /// Places domains that are not placed yet, and tells where each is now, in the order given. Of
    /// several processes that propose at once the first has it its way, and all are told the same.
    /// A domain that has jobs waiting under its own name stays there, whatever is proposed: they
    /// would no longer be found. Not kept is what is beyond [`PlaceBounds::kept_max`]. Domains must
    /// not come twice. May be repeated.
    pub async fn place(&self, proposals: Vec<Proposal>) -> Result<Vec<Destination>, StoreError> {
        let shard_of = |proposal: &Proposal| shard(&proposal.domain, self.shards());
        let full = |proposal: &Proposal| self.places.is_full(shard_of(proposal));
        let proposals: Vec<Proposal> = proposals
            .into_iter()
            .map(|proposal| {
                if full(&proposal) {
                    self.by_configuration(&proposal.domain)
                } else {
                    proposal
                }
            })
            .collect();
        let at_home = self.at_home(&proposals).await?;
        let placed = proposals
            .into_iter()
            .map(|proposal| stay(proposal, &at_home));
        self.keep(
            placed
                .map(
                    |Proposal {
                         domain,
                         destination,
                         ..
                     }| (domain, destination),
                )
                .collect(),
        )
        .await
    }

    /// Writes placements that are not kept yet, and tells where each domain is now, in the order
    /// given.
    async fn keep(
        &self,
        mut placed: Vec<(String, Destination)>,
    ) -> Result<Vec<Destination>, StoreError> {
        let shard_of = |n: &usize| shard(&placed[*n].0, self.shards());
        let to_keep = (0..placed.len()).filter(|n| !self.places.is_full(shard_of(n)));
        let written: AnswerPerPipeline<(Vec<Text>,)> = self
            .ask_by_shard(to_keep, shard_of, |shard, asked, commands| {
                let key = self.keys.place(shard);
                for (domain, destination) in asked.iter().map(|n| &placed[*n]) {
                    commands
                        .hset_nx(&key, domain, destination.as_str())
                        .ignore();
                }
                let fields: Vec<&str> = asked.iter().map(|n| placed[*n].0.as_str()).collect();
                commands.cmd("HMGET").arg(&key).arg(fields);
            })
            .await?;
        let mut recent = self.places.recent();
        for (asked, (names,)) in written {
            for (n, Text(name)) in asked.into_iter().zip(names) {
                placed[n].1 = Destination::named(name);
                recent.put(&placed[n].0, &placed[n].1);
            }
        }
        Ok(placed
            .into_iter()
            .map(|(_, destination)| destination)
            .collect())
    }

    /// Writes again what this process remembers of one shard's placements, if Redis has lost it:
    /// the jobs that were placed by it may be in other shards, on servers that have lost nothing.
    /// From then on this process goes by what Redis has. Until then it remembers, so that intake
    /// places none of these domains elsewhere.
    pub(crate) async fn restore_places(&self, of_shard: u16) -> Result<(), StoreError> {
        let is_restored = |domain: &str| shard(domain, self.shards()) == of_shard;
        let remembered = self.places.begin_restoring(is_restored);
        let domains: Vec<&str> = remembered.keys().map(|domain| &**domain).collect();
        let kept = self.kept_in_redis(&domains).await?;
        let lost = remembered
            .iter()
            .zip(kept)
            .filter(|(_, kept)| kept.is_none());
        let lost = lost.map(|((domain, destination), _)| (domain.to_string(), destination.clone()));
        self.keep(lost.collect()).await?;
        self.places.end_restoring(is_restored);
        Ok(())
    }

    /// The providers by which domains are placed.
    pub fn providers(&self) -> &Providers {
        &self.places.providers
    }

    fn by_configuration(&self, domain: &str) -> Proposal {
        Proposal::new(&self.places.providers, domain, &MailHosts::NotAsked)
    }

    /// Of domains that are about to go elsewhere, those that have jobs waiting under their own
    /// name: their placement was not kept, because there were too many, or was taken out by hand.
    async fn at_home(&self, proposals: &[Proposal]) -> Result<HashSet<String>, StoreError> {
        let own: Vec<Destination> = proposals
            .iter()
            .map(|proposal| Destination::own_name(&proposal.domain))
            .collect();
        let leaving = (0..proposals.len()).filter(|n| proposals[*n].destination != own[*n]);
        let found: AnswerPerPipeline<Vec<u64>> = self
            .ask_by_shard(
                leaving,
                |n| own[*n].shard(self.shards()),
                |shard, asked, commands| {
                    for destination in asked.iter().map(|n| &own[*n]) {
                        commands
                            .cmd("EXISTS")
                            .arg(self.keys.shard(shard).due(destination.as_str()));
                    }
                },
            )
            .await?;
        let waiting = found
            .into_iter()
            .flat_map(|(asked, waiting)| asked.into_iter().zip(waiting));
        Ok(waiting
            .filter(|(_, keys)| *keys > 0)
            .map(|(n, _)| proposals[n].domain.clone())
            .collect())
    }

    /// Asks Redis about items, all shards at once: one pipeline for the items of each, so that none
    /// spans two hash slots. Tells for each pipeline the items that it was about.
    async fn ask_by_shard<T: FromRedisValue>(
        &self,
        items: impl Iterator<Item = usize>,
        shard_of: impl Fn(&usize) -> u16,
        ask: impl Fn(u16, &[usize], &mut Pipeline),
    ) -> Result<AnswerPerPipeline<T>, StoreError> {
        let mut by_shard: HashMap<u16, Vec<usize>> = HashMap::new();
        for item in items {
            by_shard.entry(shard_of(&item)).or_default().push(item);
        }
        let batches = by_shard
            .iter()
            .flat_map(|(shard, items)| items.chunks(BATCH_MAX).map(move |items| (shard, items)));
        let ask = &ask;
        try_join_all(batches.map(|(shard, items)| async move {
            let mut commands = pipe();
            ask(*shard, items, &mut commands);
            Ok((items.to_vec(), self.connections.pipeline(&commands).await?))
        }))
        .await
    }
}

/// A proposal, or the domain's own name where jobs wait under it.
fn stay(mut proposal: Proposal, at_home: &HashSet<String>) -> Proposal {
    if at_home.contains(&proposal.domain) {
        proposal.destination = Destination::own_name(&proposal.domain);
    }
    proposal
}

/// Each name once, and for each of those given the place of its like.
pub fn distinct<'n>(names: &[&'n str]) -> (Vec<&'n str>, Vec<usize>) {
    let (mut distinct, mut known) = (Vec::new(), HashMap::new());
    let places = names
        .iter()
        .map(|name| {
            *known.entry(*name).or_insert_with(|| {
                distinct.push(*name);
                distinct.len() - 1
            })
        })
        .collect();
    (distinct, places)
}
