//! The placement of recipient domains. The first placement of a domain is kept for good. So all
//! processes and versions look for an address in one place, even if the configuration and the DNS
//! change later.
//!
//! It is bounded: Redis keeps a placement for each domain that had a bounce or fact, up to a total
//! number. Those used recently are in memory too.

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

/// The answer to each pipeline, with the items that it asked about.
type AnswerPerPipeline<T> = Vec<(Vec<usize>, T)>;

impl Store {
    /// Returns the destinations of domains, in the order given; domains may come more than once.
    /// This is a look-up and writes nothing. A domain that is not placed yet gets the destination
    /// that the configuration alone would give it.
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
        let with_waiting_jobs = self.with_waiting_jobs(&proposals).await?;
        let mut proposals = proposals
            .into_iter()
            .map(|proposal| keep_own_name(proposal, &with_waiting_jobs).destination);
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

    /// Returns the placements that are kept, in the order given. Domains must not come twice.
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

    /// Like `kept`, but asks Redis without looking at what this process remembers.
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

    /// Places domains that are not placed yet. Returns the destination of each domain, in the order
    /// given. If several processes propose at once, the first proposal is kept and all get the same
    /// answer.
    ///
    /// A domain that has jobs waiting under its own name stays there, even if another destination
    /// is proposed, because its jobs would not be found elsewhere. Placements beyond
    /// [`PlaceBounds::kept_max`] are not kept. Domains must not come twice. May be repeated.
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
        let with_waiting_jobs = self.with_waiting_jobs(&proposals).await?;
        let placed = proposals
            .into_iter()
            .map(|proposal| keep_own_name(proposal, &with_waiting_jobs));
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

    /// Writes placements that are not kept yet. Returns the destination of each domain, in the
    /// order given.
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

    /// Writes what this process remembers of one shard's placements again, if Redis has lost it.
    /// The jobs that were placed by it may be in other shards, on servers that have lost nothing.
    /// After that, this process asks Redis again. Until then it relies on its memory, so that
    /// intake places none of these domains elsewhere.
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

    /// Returns the providers that domains are placed by.
    pub fn providers(&self) -> &Providers {
        &self.places.providers
    }

    fn by_configuration(&self, domain: &str) -> Proposal {
        Proposal::new(&self.places.providers, domain, &MailHosts::NotAsked)
    }

    /// Returns which of these domains have jobs waiting under their own name although another
    /// destination is proposed. Their placement was not kept, because there were too many, or was
    /// removed by hand.
    async fn with_waiting_jobs(
        &self,
        proposals: &[Proposal],
    ) -> Result<HashSet<String>, StoreError> {
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

    /// Asks Redis about items, for all shards at once. Each pipeline has items of one shard only,
    /// so that none spans two hash slots. Returns the answer to each pipeline with its items.
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

/// Returns the proposal, with the domain's own name as destination if jobs wait under it.
fn keep_own_name(mut proposal: Proposal, with_waiting_jobs: &HashSet<String>) -> Proposal {
    if with_waiting_jobs.contains(&proposal.domain) {
        proposal.destination = Destination::own_name(&proposal.domain);
    }
    proposal
}

/// Returns each name once, and for each given name its place among those.
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
