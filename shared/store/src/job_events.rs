//! The events of one address's latest job. They are found by reading the journal of its shard
//! backwards, because the journal has no index by job.

use deadpool_redis::redis::{Value, pipe};
use domain::clock::Timestamp;
use domain::event::{Event, EventKind};
use domain::job::JobId;

use crate::entry_id::EntryId;
use crate::error::StoreError;
use crate::handle::Store;
use crate::journal::read_entry;
use crate::raw::{self, Text};

/// The fewest and the most entries that are read at once. In between, as many are read as have
/// about [`PAGE_BYTES`].
const PAGE_MIN: usize = 8;
const PAGE_MAX: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// How much of a journal one call reads at most. The last page may exceed it.
#[derive(Clone, Copy, Debug)]
pub struct ReadBounds {
    /// How many entries.
    pub entries: usize,
    /// How many bytes of events, of all jobs.
    pub bytes: usize,
}

/// One event of a job.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// Its id, as the stream of all events has it: shard, entry, and number within the entry.
    pub id: String,
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub event: Event,
}

/// The events of one job that were found.
#[derive(Clone, Debug)]
pub struct JobEvents {
    /// The events, oldest first.
    pub events: Vec<JobEvent>,
    /// Whether the first of them is the start of the job. Reading stops there.
    pub is_from_start: bool,
    /// Reading stopped before this entry. `None` if it came to the beginning of the journal.
    pub next: Option<EntryId>,
}

impl Store {
    /// Reads the journal backwards from its end, or from `before`, for the events of one address.
    /// Stops at the start of the latest job, at the beginning of the journal, or when `bounds` are
    /// reached.
    pub async fn job_events(
        &self,
        id: &JobId,
        before: Option<EntryId>,
        bounds: ReadBounds,
    ) -> Result<JobEvents, StoreError> {
        let destination = self.destinations(&[id.recipient.domain()]).await?.remove(0);
        let shard = destination.shard(self.shards());
        let journal = self.keys.shard(shard).journal();
        let job = id.key();
        let part = unescaped_part(id);
        // Newest first.
        let mut found = Vec::new();
        let (mut next, mut entries, mut bytes) = (before, 0, 0);
        let mut count = PAGE_MIN;
        while entries < bounds.entries && bytes < bounds.bytes {
            let from = next.map_or_else(|| "+".to_owned(), |next| format!("({next}"));
            let mut command = pipe();
            command.xrevrange_count(journal, from, "-", count);
            let (page,): (Value,) = self.connections.pipeline(&command).await?;
            let page = raw::entries(page);
            let Some(oldest) = page.last().and_then(|(id, _)| id.parse().ok()) else {
                next = None;
                break;
            };
            next = Some(oldest);
            entries += page.len();
            let mut page_bytes = 0;
            for (entry, fields) in page {
                page_bytes += fields.iter().map(length).sum::<usize>();
                if !fields.iter().any(|field| contains(field, part)) {
                    continue;
                }
                let Some(entry) = read_entry((entry, fields)) else {
                    continue;
                };
                for (n, event) in entry.events.into_iter().enumerate().rev() {
                    if *event.job != *job {
                        continue;
                    }
                    let is_start = event.kind == EventKind::JobScheduled;
                    found.push(JobEvent {
                        id: format!("{shard}:{}:{n}", entry.id),
                        time: entry.time,
                        event,
                    });
                    if is_start {
                        found.reverse();
                        return Ok(JobEvents {
                            events: found,
                            is_from_start: true,
                            next: Some(entry.id),
                        });
                    }
                }
            }
            bytes += page_bytes;
            count = (PAGE_BYTES * count / page_bytes.max(1)).clamp(PAGE_MIN, PAGE_MAX);
        }
        found.reverse();
        Ok(JobEvents {
            events: found,
            is_from_start: false,
            next,
        })
    }
}

/// Returns a part of the job's id that is the same in JSON, whoever wrote it: Lua escapes `/`, and
/// serde does not. An entry without this part is not parsed.
fn unescaped_part(id: &JobId) -> &[u8] {
    let recipient = id.recipient.as_str();
    if recipient.contains(['"', '\\', '/']) {
        id.recipient.domain().as_bytes()
    } else {
        recipient.as_bytes()
    }
}

fn length(field: &Value) -> usize {
    match field {
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    }
}

fn contains(field: &Value, part: &[u8]) -> bool {
    match field {
        Value::BulkString(bytes) => memchr::memmem::find(bytes, part).is_some(),
        other => Text::from(other).0.as_bytes() == part,
    }
}
