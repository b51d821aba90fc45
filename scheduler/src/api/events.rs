//! `GET /v1/events`: the journal as server-sent events. A client that reconnects with the last id
//! that it saw misses no event that the journal still has, and gets none twice. If the journal has
//! removed events that the client has not seen, it sends an `EventsMissing` first. A client with a
//! token for some accounts gets only the events of their jobs.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse;
use domain::account::Accounts;
use domain::clock::Timestamp;
use domain::event::{Event, EventKind};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use store::entry_id::EntryId;
use store::error::StoreError;
use store::journal::Entry;
use store::look::{EntryState, Gap};
use system::limiter::admit_outage;
use tokio::time::sleep;

use super::Api;
use super::problem::Problem;
use crate::access::caller::Caller;
use crate::event_readers::EventReader;

/// How many entries of each shard are read at once.
const READ_COUNT: usize = 8;

/// How long to wait before a journal without new entries is read again.
const POLL: Duration = Duration::from_millis(200);

/// The type of the event which reports that events are missing. It is in no journal, and goes only
/// to the client that misses them.
const EVENTS_MISSING: &str = "EventsMissing";

/// The query of `GET /v1/events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// The names of the kinds wanted, with commas between them. All kinds if absent.
    types: Option<String>,
    /// Where to start: after this id, or at the `start` of the journal. From now on if absent.
    after: Option<String>,
}

/// The events of the journal that a client gets.
struct Wanted {
    /// The kinds; all if it is empty.
    kinds: Vec<EventKind>,
    accounts: Accounts,
}

impl Wanted {
    /// Whether the client gets this event. An event about no job, for example about a destination,
    /// concerns all accounts.
    fn contains(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.accounts.allow_job(&event.job)
    }
}

/// The place of a client in the journals of all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor(Vec<Place>);

/// The place of a client in the journal of one shard: the last entry of which it has seen an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    entry: EntryId,
    /// How many events of the entry the client has seen. `None` means all.
    seen: Option<usize>,
}

impl Place {
    /// Returns the entry after which to continue reading.
    fn after(self) -> EntryId {
        if self.seen.is_some() {
            self.entry.before()
        } else {
            self.entry
        }
    }
}

/// `GET /v1/events`.
pub async fn get(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<EventQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let Query(EventQuery { types, after }) = query?;
    let wanted = Wanted {
        kinds: read_kinds(types.as_deref())?,
        accounts: caller.accounts().clone(),
    };
    let shards = usize::from(api.store.shards());
    let last_seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .filter(|id| !id.is_empty());
    let field = if last_seen.is_some() {
        "Last-Event-ID"
    } else {
        "after"
    };
    // The number of incidents when it was last checked that the journal still has the entries that
    // the client has seen.
    let mut checked_at = None;
    let cursor = match last_seen.or(after.as_deref()) {
        None => {
            checked_at = Some(api.store.incidents());
            let ends = api.store.journal_ends().await?;
            let place = |entry| Place { entry, seen: None };
            Cursor(ends.into_iter().map(place).collect())
        }
        Some("start") => Cursor(vec![Place::default(); shards]),
        Some(id) => id
            .parse()
            .ok()
            .filter(|cursor: &Cursor| cursor.0.len() == shards)
            .ok_or_else(|| {
                let detail =
                    "this is no id of this store's stream; use the id of an event, or start";
                Problem::bad_field(field, detail)
            })?,
    };
    let (stop, clock) = (api.stop.clone(), api.store.clock().clone());
    let metrics = api.store.metrics().clone();
    let reader = api.event_readers.open(caller.name());
    let events = stream::unfold(
        (api, wanted, reader, cursor, VecDeque::new(), checked_at),
        |state| async move {
            let (api, wanted, reader, mut cursor, mut entries, mut checked_at) = state;
            let mut batch = Vec::new();
            while entries.is_empty() && batch.is_empty() {
                let incidents = api.store.incidents();
                if checked_at == Some(incidents) {
                    match next_entries(&api, &reader, &cursor, incidents).await {
                        Some(next) => entries = next,
                        None => checked_at = None,
                    }
                } else if let Some(missing) = missing_events(&api, &mut cursor).await {
                    (batch, checked_at) = (missing, Some(incidents));
                }
            }
            if let Some((shard, entry)) = entries.pop_front() {
                reader.sends_next(entry.time);
                batch = wire_events(shard, &entry, &wanted, &mut cursor);
                reader.sent(batch.len());
            }
            // A long journal may be read by many clients. Other tasks get a turn between entries.
            tokio::task::yield_now().await;
            let state = (api, wanted, reader, cursor, entries, checked_at);
            Some((stream::iter(batch), state))
        },
    )
    .flatten()
    .map(move |event| {
        metrics.events_read(1);
        Ok(event)
    })
    .take_until(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = caller.ended(&*clock) => {}
        }
    });
    Ok(Sse::new(events).keep_alive(sse::KeepAlive::default()))
}

fn read_kinds(types: Option<&str>) -> Result<Vec<EventKind>, Problem> {
    let names = types
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            EventKind::parse(name).ok_or_else(|| {
                let known: Vec<String> = EventKind::ALL
                    .iter()
                    .map(|kind| kind.name().to_owned())
                    .collect();
                Problem::bad_field(
                    "types",
                    format!("there is no event {name}; choose from {}", known.join(", ")),
                )
            })
        })
        .collect()
}

/// Returns the entries after the cursor, with their shards. Waits until there are some, even if the
/// store cannot be reached. Returns `None` if Redis has lost, or may have lost, entries that the
/// client has seen.
async fn next_entries(
    api: &Api,
    reader: &EventReader,
    cursor: &Cursor,
    incidents: u64,
) -> Option<VecDeque<(usize, Entry)>> {
    let after: Vec<EntryId> = cursor.0.iter().map(|place| place.after()).collect();
    while api.store.incidents() == incidents {
        match read_entries(api, cursor, &after).await {
            Ok(None) => return None,
            Ok(Some(entries)) if !entries.is_empty() => return Some(entries.into()),
            Ok(Some(_)) => reader.has_all(),
            Err(err) => log_wait(&err),
        }
        sleep(POLL).await;
    }
    None
}

fn log_wait(err: &StoreError) {
    if let Some(left_out) = admit_outage("streams of events that wait") {
        tracing::warn!(%err, left_out, "a stream of events waits, because the store failed");
    }
}

/// Reads the entries after the cursor, in the order of time. Returns `None` if a shard has new
/// entries, but has lost the entry that the client has seen last. This check often finds a loss
/// before the regular search for lost writes does.
async fn read_entries(
    api: &Api,
    cursor: &Cursor,
    after: &[EntryId],
) -> Result<Option<Vec<(usize, Entry)>>, StoreError> {
    let journals = api.store.read_journal(after, READ_COUNT).await?;
    let has_new = journals.iter().any(|journal| !journal.is_empty());
    if has_new && has_lost_place(api, cursor, &journals).await? {
        return Ok(None);
    }
    let journals = journals.into_iter().enumerate();
    let mut entries: Vec<(usize, Entry)> = journals
        .flat_map(|(shard, journal)| journal.into_iter().map(move |entry| (shard, entry)))
        .collect();
    entries.sort_by_key(|(_, entry)| entry.id);
    Ok(Some(entries))
}

/// Whether a shard with new entries has lost the entry that the client has seen last. A trimmed
/// entry does not count as lost: a client that reads all the time has missed nothing.
async fn has_lost_place(
    api: &Api,
    cursor: &Cursor,
    journals: &[Vec<Entry>],
) -> Result<bool, StoreError> {
    let places = cursor.0.iter().zip(journals);
    let seen: Vec<Option<EntryId>> = places
        .map(|(place, journal)| {
            (place.entry != EntryId::default() && !journal.is_empty()).then_some(place.entry)
        })
        .collect();
    let is_there = api.store.journal_has(&seen).await?;
    if !is_there.contains(&Some(false)) {
        return Ok(false);
    }
    let absent = seen
        .into_iter()
        .zip(is_there)
        .map(|(id, is_there)| id.filter(|_| is_there == Some(false)));
    let absent: Vec<EntryId> = absent.map(Option::unwrap_or_default).collect();
    let gaps = api.store.journal_gaps(&absent).await?;
    Ok(gaps
        .into_iter()
        .flatten()
        .any(|gap| gap.state == EntryState::Lost))
}

/// Returns an `EventsMissing` for each shard in which the entry at the cursor is gone. Moves the
/// cursor to the newest entry before it that is still there. Returns `None` if the store cannot be
/// reached.
async fn missing_events(api: &Api, cursor: &mut Cursor) -> Option<Vec<sse::Event>> {
    let seen: Vec<EntryId> = cursor.0.iter().map(|place| place.entry).collect();
    let gaps = match api.store.journal_gaps(&seen).await {
        Ok(gaps) => gaps,
        Err(StoreError::Refused(why)) => {
            if let Some(left_out) = admit_outage("streams of events that cannot be checked") {
                tracing::error!(
                    why,
                    left_out,
                    "it cannot be checked whether a stream of events misses events"
                );
            }
            vec![None; seen.len()]
        }
        Err(err) => {
            log_wait(&err);
            sleep(POLL).await;
            return None;
        }
    };
    let mut missing = Vec::new();
    for (shard, gap) in gaps.into_iter().enumerate() {
        let Some(Gap {
            state,
            after,
            first,
        }) = gap
        else {
            continue;
        };
        cursor.0[shard] = Place {
            entry: after,
            seen: None,
        };
        let time =
            |id: EntryId| Timestamp::from_ms(id.ms.try_into().unwrap_or(i64::MAX)).to_string();
        let (reason, from, until) = match state {
            EntryState::Lost => (
                "lost",
                Some(after).filter(|id| id.ms > 0),
                Some(seen[shard]),
            ),
            _ => ("trimmed", Some(seen[shard]), first),
        };
        let wire = json!({
            "type": EVENTS_MISSING,
            "id": format!("{shard}:{}:missing", seen[shard]),
            "time": api.store.clock().now().to_string(),
            "reason": reason,
            "from": from.map(time),
            "until": until.map(time),
        });
        let sent = sse::Event::default()
            .id(cursor.to_string())
            .event(EVENTS_MISSING)
            .data(wire.to_string());
        missing.push(sent);
    }
    Some(missing)
}

/// Returns the wanted events of an entry that the client has not seen. Moves the cursor to the end
/// of the entry, even if there are none.
fn wire_events(
    shard: usize,
    entry: &Entry,
    wanted: &Wanted,
    cursor: &mut Cursor,
) -> Vec<sse::Event> {
    let place = cursor.0[shard];
    let seen = if place.entry == entry.id {
        place.seen.unwrap_or(0)
    } else {
        0
    };
    let count = entry.events.len();
    let mut unseen = Vec::new();
    for (n, event) in entry.events.iter().enumerate().skip(seen) {
        if !wanted.contains(event) {
            continue;
        }
        cursor.0[shard] = Place {
            entry: entry.id,
            seen: Some(n + 1).filter(|seen| *seen < count),
        };
        let wire = event.to_wire(&format!("{shard}:{}:{n}", entry.id), entry.time);
        let sent = sse::Event::default()
            .id(cursor.to_string())
            .event(event.kind.name())
            .data(wire.to_string());
        unseen.push(sent);
    }
    cursor.0[shard] = Place {
        entry: entry.id,
        seen: None,
    };
    unseen
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Place { entry, seen }) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{entry}")?;
            if let Some(seen) = seen {
                write!(f, "~{seen}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let place = |part: &str| {
            let (entry, seen) = part
                .split_once('~')
                .map_or((part, None), |(entry, seen)| (entry, Some(seen)));
            let seen = seen.map(|seen| seen.parse().map_err(|_| ())).transpose()?;
            Ok(Place {
                entry: entry.parse().map_err(|_| ())?,
                seen,
            })
        };
        text.split(',')
            .map(place)
            .collect::<Result<_, ()>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for text in ["1763716200000-0", "0-0,1763716200000-3~2,5-0"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        for text in ["", "x", "1-", "1-2~", "1-2,", "-1-2"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
