//! Handles the case that Redis has lost its last writes, or may have. The process that notices it
//! first logs it, counts it and repairs the shard at once.

use std::time::Duration;

use deadpool_redis::redis::pipe;
use domain::event::Event;
use futures::stream::{self, StreamExt};
use tokio::time::{MissedTickBehavior, interval};

use crate::error::StoreError;
use crate::handle::Store;
use crate::lease_token::LeaseToken;
use crate::look::LossCheck;
use crate::repair::Repaired;
use crate::scripts::{NOTE, ms};

/// How often each process checks all shards.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many shards are checked, or repaired, at the same time.
const AT_ONCE: usize = 2;

/// How long the claim on one incident is kept: longer than processes take to notice it.
const CLAIM_KEPT: Duration = Duration::from_secs(3_600);

/// How many times handling an incident is retried if the store did not answer midway.
const TRIES_MAX: u32 = 60;

/// A shard whose server has lost writes, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The shard.
    pub shard: u16,
    /// What was found.
    pub look: LossCheck,
    /// How many times handling it has failed.
    tries: u32,
    /// Whether this process has claimed to write the event, and to repair the shard. The claims
    /// stay valid when it has to try again.
    writes_event: bool,
    repairs: bool,
    /// Identifies this process in its claims.
    nonce: u64,
}

impl Incident {
    fn new(shard: u16, look: LossCheck) -> Result<Self, StoreError> {
        Ok(Self {
            shard,
            look,
            tries: 0,
            writes_event: false,
            repairs: false,
            nonce: LeaseToken::new_nonce()?,
        })
    }
}

impl Store {
    /// Checks every second, and at once if a claim has found that writes were lost, until `stop`
    /// ends. Every process runs this.
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
                incidents.extend(self.find_losses().await);
                incidents = self.handle(incidents).await;
            }
        };
        tokio::select! {
            () = watch => {}
            () = stop => {}
        }
    }

    /// Checks all shards, and returns those whose server has lost writes or may have. Each incident
    /// is returned once. A shard that does not answer is checked the next time.
    pub async fn find_losses(&self) -> Vec<Incident> {
        let looks = stream::iter(0..self.shards())
            .map(async |shard| (shard, self.check_for_lost_writes(shard).await));
        let looks: Vec<_> = looks.buffer_unordered(AT_ONCE).collect().await;
        let mut incidents = Vec::new();
        for (shard, look) in looks {
            match look {
                Ok(look) if look.server_changed || look.is_proof() => {
                    match Incident::new(shard, look) {
                        Ok(incident) => incidents.push(incident),
                        Err(err) => {
                            tracing::error!(
                                %err,
                                shard,
                                "a loss of writes is left to other processes"
                            );
                        }
                    }
                }
                Ok(_) => {}
                // The callers that need the store report that it does not answer.
                Err(err) => {
                    tracing::debug!(%err, shard, "could not check whether writes were lost");
                }
            }
        }
        if !incidents.is_empty() {
            self.history.note_incidents();
        }
        incidents
    }

    /// Handles incidents. Returns those that must wait for the store.
    async fn handle(&self, incidents: Vec<Incident>) -> Vec<Incident> {
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
                "redis was restarted, or another server took over; checking these shards"
            );
        }
        let handled = stream::iter(incidents).map(async |mut incident| {
            match self.repair_after_loss(&mut incident).await {
                Ok(_) => None,
                Err(err) if incident.tries == TRIES_MAX => {
                    let shard = incident.shard;
                    tracing::error!(
                        %err,
                        shard,
                        "a shard could not be checked; the next upkeep.repair does it"
                    );
                    None
                }
                Err(err) => {
                    tracing::debug!(%err, shard = incident.shard, "a shard is checked later");
                    incident.tries += 1;
                    Some(incident)
                }
            }
        });
        handled
            .buffer_unordered(AT_ONCE)
            .filter_map(futures::future::ready)
            .collect()
            .await
    }

    /// Repairs what a loss of writes has left behind in one shard, and logs it. Returns what was
    /// repaired; none if another process repairs the shard. May be repeated.
    pub async fn repair_after_loss(
        &self,
        incident: &mut Incident,
    ) -> Result<Option<Repaired>, StoreError> {
        let shard = incident.shard;
        let LossCheck {
            is_behind, entries, ..
        } = incident.look;
        if incident.look.is_proof() && incident.tries == 0 {
            tracing::warn!(
                shard,
                entries,
                is_behind,
                "redis has lost its last writes; what was settled then may be tried again"
            );
        }
        // If Redis has come back empty, the next process to start would write another shape.
        self.check_meta().await?;
        self.restore_places(shard).await?;
        self.write_loss_event(incident).await?;
        if !incident.repairs {
            incident.repairs = self.claim_step(incident, "repair").await?;
            if incident.repairs && incident.look.server_changed {
                self.metrics().redis().server_changed();
            }
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
                "a shard was repaired after redis had lost writes"
            );
        }
        Ok(Some(repaired))
    }

    /// Writes the event of a certain loss, once for all processes that notice it.
    async fn write_loss_event(&self, incident: &mut Incident) -> Result<(), StoreError> {
        if !incident.look.is_proof() {
            return Ok(());
        }
        if !incident.writes_event && !self.claim_step(incident, "tell").await? {
            return Ok(());
        }
        incident.writes_event = true;
        let event = Event::writes_lost(if incident.look.entries > 0 {
            "journal"
        } else {
            "serial"
        });
        let mut call = self.call(&NOTE, incident.shard);
        call.arg("event", event.line());
        let _: i64 = self.connections.script(&call).await?;
        self.metrics().redis().lost_writes();
        Ok(())
    }

    /// Claims one step of handling an incident for this process. Only one of all processes that
    /// notice the incident gets it. A repeated claim of the same process succeeds again.
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
