//! Whether all processes of the fleet agree: each announces its policy, and reports if another one
//! has another policy, or if the store has another number of shards than this process.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use deadpool_redis::redis::pipe;
use domain::clock::Timestamp;
use domain::event::Event;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;

/// After how many missing announcements a process counts as gone.
const MISSED_MAX: u32 = 3;

/// How many processes are compared at most.
const PROCESSES_MAX: isize = 10_000;

/// How often a difference is reported again.
const REPEATED: Duration = Duration::from_secs(300);

/// The name under which the event about a difference is claimed.
const TASK: &str = "fleet_diverged";

/// One process of the fleet.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Its part in the fleet: `scheduler` or `worker`.
    pub role: &'static str,
    /// The fingerprint of its policy.
    pub policy: String,
    /// How often it announces itself.
    pub interval: Duration,
}

/// What another process has announced: its part in the fleet, and its policy.
type Other = (String, String);

impl Store {
    /// Announces this process, and logs if another process has another policy, or if the store has
    /// another number of shards than this process. Also writes an event about it, one for the whole
    /// fleet. Repeats this until `stop` ends, and then signs off.
    pub async fn compare_fleet(self, process: Announcement, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let id = Uuid::now_v7().to_string();
        let member = format!("{} {} {id}", process.role, process.policy);
        let mut reported: Option<(BTreeSet<Other>, Instant)> = None;
        loop {
            match self.announce(&member, process.interval * MISSED_MAX).await {
                Ok((others, shards)) => {
                    if shards != self.shards() {
                        tracing::error!(
                            shards = self.shards(),
                            in_redis = shards,
                            "redis has another number of shards than this process: another process \
                             has written it anew; stop one of them, and start it with the same \
                             redis.shards or another redis.prefix"
                        );
                    }
                    let differ: BTreeSet<Other> = others
                        .into_iter()
                        .filter(|(_, policy)| *policy != process.policy)
                        .collect();
                    let is_known = reported
                        .as_ref()
                        .is_some_and(|(known, at)| *known == differ && at.elapsed() < REPEATED);
                    if differ.is_empty() {
                        reported = None;
                    } else if !is_known {
                        self.report_divergence(&process, &differ).await;
                        reported = Some((differ, Instant::now()));
                    }
                }
                // Other calls log that the store does not answer.
                Err(err) => tracing::debug!(%err, "this process could not be announced"),
            }
            if timeout(process.interval, &mut stop).await.is_ok() {
                break;
            }
        }
        let mut leave = pipe();
        leave.zrem(self.keys.policies(), &member).ignore();
        let left: Result<(), StoreError> = self.connections.pipeline(&leave).await;
        if let Err(err) = left {
            tracing::debug!(%err, "this process stopped without signing off");
        }
    }

    async fn report_divergence(&self, process: &Announcement, differ: &BTreeSet<Other>) {
        for (role, policy) in differ {
            tracing::warn!(
                role = process.role,
                policy = process.policy,
                other = role,
                other_policy = policy,
                "a {role} of the fleet has another policy than this {}: start all processes with \
                 the same version and the same [policy]",
                process.role
            );
        }
        let roles: BTreeSet<&str> = differ
            .iter()
            .map(|(role, _)| role.as_str())
            .chain([process.role])
            .collect();
        let roles: Vec<&str> = roles.into_iter().collect();
        let reason = format!("policies differ: {}", roles.join(", "));
        let noted = async {
            // The claim ends by itself, so its instant does not matter.
            let is_mine = self.claim_occurrence(TASK, Timestamp::default(), REPEATED);
            if is_mine.await? {
                self.note(&Event::fleet_diverged(reason)).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(err) = noted.await {
            tracing::debug!(%err, "the event about different policies was not written");
        }
    }

    /// Records that this process is alive, and forgets those that were silent for longer than
    /// `silent_max`, by the clock of the server. Returns what the others have announced, and the
    /// number of shards that Redis has.
    async fn announce(
        &self,
        member: &str,
        silent_max: Duration,
    ) -> Result<(Vec<Other>, u16), StoreError> {
        let key = self.keys.policies();
        self.beat(&key, member, silent_max).await?;
        let (found,): (Vec<Text>,) = self
            .connections
            .pipeline(pipe().zrange(&key, 0, PROCESSES_MAX - 1))
            .await?;
        let (shards,): (Option<u16>,) = self
            .connections
            .pipeline(pipe().hget(self.keys.meta(), "shards"))
            .await?;
        let others = found
            .iter()
            .filter(|Text(other)| other != member)
            .filter_map(|Text(other)| {
                let mut words = other.split(' ');
                Some((words.next()?.to_owned(), words.next()?.to_owned()))
            })
            .collect();
        Ok((others, shards.unwrap_or(self.shards())))
    }
}
