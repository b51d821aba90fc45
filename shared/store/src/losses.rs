//! What is done when Redis has lost its last writes, or may have: it is said, counted, and put
//! right at once by the process that notices it first.

use std::time::Duration;

use deadpool_redis::redis::pipe;
use domain::event::Event;
use futures::stream::{self, StreamExt};
use tokio::time::{MissedTickBehavior, interval};

use crate::error::StoreError;
use crate::handle::Store;
use crate::lease_token::LeaseToken;
use crate::look::Look;
use crate::repair::Repaired;
use crate::scripts::{NOTE, ms};

/// How often each process looks at all shards.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many shards are looked at, or put right, at once.
const AT_ONCE: usize = 2;

/// How long the claim on one incident is kept: longer than processes take to notice it.
const CLAIM_KEPT: Duration = Duration::from_secs(3_600);

/// How often an incident is dealt with again whose store did not answer midway.
const TRIES_MAX: u32 = 60;

/// A shard whose server has lost writes, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The shard.
    pub shard: u16,
    /// What was found.
    pub look: Look,
    /// How often it was dealt with in vain.
    tries: u32,
    /// Whether this process has claimed to tell of it, and to repair the shard: that stays so when
    /// it has to try again.
    tells: bool,
    repairs: bool,
    /// Names this process in what it claims.
    nonce: u64,
}

impl Incident {
    fn new(shard: u16, look: Look) -> Result<Self, StoreError> {
        Ok(Self {
            shard,
            look,
            tries: 0,
            tells: false,
            repairs: false,
            nonce: LeaseToken::new_nonce()?,
        })
    }
}

impl Store {
    /// Looks every second, and at once when a claim has found that writes were lost, until `stop`
    /// is over. Every process does.
    pub async fn watch_for_losses(self, stop: impl Future<Output = ()>) {
        let mut beat = interval(LOOK_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watch = async {
            let mut incidents = Vec::new();
            loop {
                tokio::select! {
                    _ = beat.tick() => {}
                    () = self.history.noticed.notified() => {}
                }
                incidents.extend(self.notice_losses().await);
                incidents = self.deal_with(incidents).await;
            }
        };
        tokio::select! {
            () = watch => {}
            () = stop => {}
        }
    }

    /// Looks at all shards, and tells of those whose server has lost writes or may have. Each is
    /// told of once. A shard that does not answer is looked at the next time.
    pub async fn notice_losses(&self) -> Vec<Incident> {
        let looks =
            stream::iter(0..self.shards()).map(async |shard| (shard, self.look(shard).await));
        let looks: Vec<_> = looks.buffer_unordered(AT_ONCE).collect().await;
        let mut incidents = Vec::new();
        for (shard, look) in looks {
            match look {
                Ok(look) if look.is_another || look.is_proof() => {
                    match Incident::new(shard, look) {
                        Ok(incident) => incidents.push(incident),
                        Err(err) => {
                            tracing::error!(%err, shard, "a loss of writes is left to other processes");
                        }
                    }
                }
                Ok(_) => {}
                // That the store is away is said by all that wanted something of it.
                Err(err) => tracing::debug!(%err, shard, "could not look whether writes were lost"),
            }
        }
        if !incidents.is_empty() {
            self.history.note_incidents();
        }
        incidents
    }

    /// Deals with incidents; gives back those that have to wait for the store.
    async fn deal_with(&self, incidents: Vec<Incident>) -> Vec<Incident> {
        if incidents.is_empty() {
            return incidents;
        }
        if incidents.iter().any(|incident| incident.tries == 0) {
            let proven = incidents
                .iter()
                .filter(|incident| incident.look.is_proof())
                .count();
            tracing::info!(
                shards = incidents.len(),
                proven,
                "redis was started again, or another server took over; these shards are looked through"
            );
        }
        let dealt_with = stream::iter(incidents).map(async |mut incident| match self.put_right(&mut incident).await {
            Ok(_) => None,
            Err(err) if incident.tries == TRIES_MAX => {
                let shard = incident.shard;
                tracing::error!(%err, shard, "a shard could not be looked through; the next upkeep.repair does it");
                None
            }
            Err(err) => {
                tracing::debug!(%err, shard = incident.shard, "a shard is looked through later");
                incident.tries += 1;
                Some(incident)
            }
        });
        dealt_with
            .buffer_unordered(AT_ONCE)
            .filter_map(futures::future::ready)
            .collect()
            .await
    }

    /// Puts right what a loss of writes has left behind in one shard, and says so. What the repair
    /// found and put right; none if another process does that. May be repeated.
    pub async fn put_right(&self, incident: &mut Incident) -> Result<Option<Repaired>, StoreError> {
        let shard = incident.shard;
        let Look {
            is_behind, entries, ..
        } = incident.look;
        if incident.look.is_proof() && incident.tries == 0 {
            tracing::warn!(
                shard,
                entries,
                is_behind,
                "redis has lost its last writes; what was settled in that time may be tried again"
            );
        }
        // If Redis has come back empty, the next process to start would write another shape.
        self.check_meta().await?;
        self.restore_places(shard).await?;
        self.tell_of_loss(incident).await?;
        if !incident.repairs {
            incident.repairs = self.claim_step(incident, "repair").await?;
        }
        if !incident.repairs {
            return Ok(None);
        }
        let repaired = self.repair(shard).await?;
        if repaired != Repaired::default() {
            let jobs: u64 = repaired.recovered.values().sum();
            let (woken, recounted, swept) = (
                repaired.woken.len(),
                repaired.recounted.len(),
                repaired.swept,
            );
            tracing::warn!(
                shard,
                jobs,
                woken,
                recounted,
                swept,
                "a shard was put right after redis had lost writes"
            );
        }
        Ok(Some(repaired))
    }

    /// Writes the event of a loss that is certain, once for all processes that notice it.
    async fn tell_of_loss(&self, incident: &mut Incident) -> Result<(), StoreError> {
        if !incident.look.is_proof() {
            return Ok(());
        }
        if !incident.tells && !self.claim_step(incident, "tell").await? {
            return Ok(());
        }
        incident.tells = true;
        let event = Event::writes_lost(if incident.look.entries > 0 {
            "journal"
        } else {
            "serial"
        });
        let mut call = self.call(&NOTE, incident.shard);
        call.arg(event.line());
        let _: i64 = self.connections.script(&call).await?;
        Ok(())
    }

    /// Claims one step of dealing with an incident for this process. Only one of all that notice it
    /// gets it, however often it has to ask.
    async fn claim_step(&self, incident: &Incident, step: &str) -> Result<bool, StoreError> {
        let key = self
            .keys
            .shard(incident.shard)
            .incident(step, &incident.look.incident);
        let mut commands = pipe();
        commands
            .cmd("SET")
            .arg(&key)
            .arg(incident.nonce)
            .arg("NX")
            .arg("PX")
            .arg(ms(CLAIM_KEPT))
            .ignore();
        commands.cmd("GET").arg(&key);
        let (owner,): (Option<u64>,) = self.connections.pipeline(&commands).await?;
        Ok(owner == Some(incident.nonce))
    }
}
