//! The list of destinations. First come those in trouble: held, or with a breaker that is not
//! closed. Then come those with work, by the agenda. Last come those that only have attempts under
//! way, which the agenda does not have: they are found by their leases. The list is read in pages.
//! Looking for a hundred costs one read per shard and five operations for each that is found. A
//! destination that several accounts share takes one more call. A page needs two to eight such
//! looks.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use deadpool_redis::redis::{FromRedisValue, Pipeline, Value, from_redis_value, pipe};
use domain::clock::Timestamp;
use domain::destination::Destination;

use crate::batch::BATCH_MAX;
use crate::destination_controls::{BreakerState, PaceReport, Waiting, read_pace};
use crate::error::StoreError;
use crate::handle::Store;
use crate::keys::Shard;
use crate::raw::{self, Text};

/// How many times a page is filled up because destinations that were found do not belong there.
/// After that it is returned as it is.
const FILLS_MAX: usize = 8;

/// How many destinations are looked at together, at least.
const LOOKED_AT_MIN: usize = 100;

/// How many operations read one destination.
const OPERATIONS: usize = 5;

/// How many leases of each shard are read to find destinations with attempts under way.
const LEASES_READ: usize = 1_000;

/// One destination of the list with its current state.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The destination.
    pub destination: Destination,
    /// Its pace.
    pub pace: PaceReport,
    /// What waits there.
    pub waiting: Waiting,
    /// Whether it is in the set of those in trouble.
    is_known: bool,
    /// Whether it is on the agenda.
    is_on_agenda: bool,
}

/// A part of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Held, or with a breaker that is not closed. Those in this state for longest come first.
    Trouble,
    /// On the agenda. Those whose turn comes first are first.
    Work,
    /// With attempts under way, and not on the agenda. They are in the order of their names.
    UnderWay,
}

/// A destination's score and name. Redis too orders destinations of one score by their names'
/// bytes.
type At = (i64, String);

/// A place in the list: after a destination, or before all of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPlace {
    part: Part,
    at: At,
}

/// The error for a text that is not a place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no place in the list")]
pub struct NotAPlace;

impl Store {
    /// Returns a page of the list of destinations, after `after` or from its start. The page has at
    /// most `most` (and never more than [`BATCH_MAX`]). Also returns where the next page starts;
    /// none at the end.
    ///
    /// A destination whose turn changes between two pages may be in both, or in neither. So may one
    /// whose trouble begins or ends. Changes nothing.
    pub async fn destinations_after(
        &self,
        after: Option<ListPlace>,
        most: usize,
    ) -> Result<(Vec<Listed>, Option<ListPlace>), StoreError> {
        let most = most.clamp(1, BATCH_MAX);
        let mut after = after.unwrap_or_else(|| ListPlace::before(Part::Trouble));
        let mut listed = Vec::new();
        for _ in 0..FILLS_MAX {
            let looked_at = (most - listed.len()).max(LOOKED_AT_MIN);
            let found = self.found_after(&after, looked_at).await?;
            let (is_end, now) = (found.len() < looked_at, self.clock.now());
            for (at, one) in self.describe(found).await? {
                after.at = at;
                match one {
                    Ok(one) if after.part.has(&one, now) => listed.push(one),
                    Ok(_) => {}
                    // The other destinations are still listed.
                    Err(why) => tracing::warn!(%why, "a destination is left out of the list"),
                }
                if listed.len() == most {
                    return Ok((listed, Some(after)));
                }
            }
            match after.part {
                Part::Trouble if is_end => after = ListPlace::before(Part::Work),
                Part::Work if is_end => after = ListPlace::before(Part::UnderWay),
                Part::UnderWay if is_end => return Ok((listed, None)),
                Part::Trouble | Part::Work | Part::UnderWay => {}
            }
        }
        Ok((listed, Some(after)))
    }

    /// Returns the first destinations of a part that come after a place, of all shards, at most
    /// `most`.
    async fn found_after(&self, after: &ListPlace, most: usize) -> Result<Vec<At>, StoreError> {
        if after.part == Part::UnderWay {
            let names = self.names_under_way(LEASES_READ).await?;
            let found = names.into_iter().map(|name| (0, name));
            return Ok(found.filter(|one| *one > after.at).take(most).collect());
        }
        let first: Vec<Pipeline> = (0..self.shards())
            .map(|shard| self.ask_for(shard, after, 0, most))
            .collect();
        let first: Vec<(Vec<(Text, f64)>,)> = self.connections.pipelines(&first).await?;
        let mut found = Vec::new();
        for (shard, (page,)) in (0..self.shards()).zip(first) {
            found.extend(self.after_place(shard, after, page, most).await?);
        }
        found.sort_unstable();
        found.truncate(most);
        Ok(found)
    }

    /// Returns the names of destinations that have leased jobs, in their order. Looks at the first
    /// leases of each shard, at most `leases_max`.
    pub(crate) async fn names_under_way(
        &self,
        leases_max: usize,
    ) -> Result<BTreeSet<String>, StoreError> {
        let ids = self.leased(leases_max).await?;
        let domains: BTreeSet<&str> = ids
            .iter()
            .filter_map(|id| Some(id.rsplit_once('@')?.1))
            .collect();
        let domains: Vec<&str> = domains.into_iter().collect();
        let mut names = BTreeSet::new();
        for domains in domains.chunks(BATCH_MAX) {
            let found = self.destinations(domains).await?;
            names.extend(found.iter().map(|one| one.as_str().to_owned()));
        }
        Ok(names)
    }

    fn ask_for(&self, shard: u16, after: &ListPlace, seen: usize, most: usize) -> Pipeline {
        let mut ask = pipe();
        ask.cmd("ZRANGE")
            .arg(after.part.key(self.keys.shard(shard)))
            .arg(after.at.0)
            .arg("+inf")
            .arg("BYSCORE");
        ask.arg("LIMIT").arg(seen).arg(most).arg("WITHSCORES");
        ask
    }

    /// Returns the destinations of a shard that come after a place. `page` has the first of that
    /// instant and later ones, which were read already. Destinations of one instant are at most as
    /// many as one call woke.
    async fn after_place(
        &self,
        shard: u16,
        after: &ListPlace,
        mut page: Vec<(Text, f64)>,
        most: usize,
    ) -> Result<Vec<At>, StoreError> {
        let (mut seen, mut found) = (0, Vec::new());
        loop {
            seen += page.len();
            let is_last = page.len() < most;
            found.extend(
                page.into_iter()
                    .map(|(Text(name), score)| (score as i64, name))
                    .filter(|one| *one > after.at),
            );
            if is_last || found.len() >= most {
                return Ok(found);
            }
            (page,) = self
                .connections
                .pipeline(&self.ask_for(shard, after, seen, most))
                .await?;
        }
    }

    /// Reads the current state of destinations, in the order given.
    async fn describe(
        &self,
        found: Vec<At>,
    ) -> Result<Vec<(At, Result<Listed, StoreError>)>, StoreError> {
        let named = |(_, name): &At| Destination::named(name.as_str());
        let destinations: Vec<Destination> = found.iter().map(named).collect();
        let mut asked: HashMap<u16, (Vec<usize>, Pipeline)> = HashMap::new();
        for (place, destination) in destinations.iter().enumerate() {
            let (places, ask) = asked.entry(destination.shard(self.shards())).or_default();
            let keys = self.keys.shard(destination.shard(self.shards()));
            let due = keys.due(destination.as_str());
            places.push(place);
            ask.hgetall(keys.pace(destination.as_str()))
                .zcard(&due)
                .zrange_withscores(&due, 0, 0);
            ask.zscore(keys.trouble(), destination.as_str())
                .zscore(keys.agenda(), destination.as_str());
        }
        let (places, pipelines): (Vec<Vec<usize>>, Vec<Pipeline>) = asked.into_values().unzip();
        let answers: Vec<Vec<Value>> = self.connections.pipelines(&pipelines).await?;
        let mut listed = Vec::with_capacity(destinations.len());
        for (places, answers) in places.into_iter().zip(answers) {
            for (place, answers) in places.into_iter().zip(answers.chunks_exact(OPERATIONS)) {
                listed.push((place, read(&destinations[place], answers)));
            }
        }
        listed.sort_unstable_by_key(|(place, _)| *place);
        for (_, one) in &mut listed {
            if let Ok(one) = one
                && one.pace.is_shared
            {
                one.waiting = self.waiting(&one.destination).await?;
            }
        }
        Ok(found
            .into_iter()
            .zip(listed.into_iter().map(|(_, one)| one))
            .collect())
    }
}

fn read(destination: &Destination, answers: &[Value]) -> Result<Listed, StoreError> {
    fn as_<T: FromRedisValue>(answer: &Value) -> Result<T, StoreError> {
        from_redis_value(answer.clone()).map_err(|why| StoreError::Refused(why.to_string()))
    }
    let fields: HashMap<Text, Text> = as_(&answers[0])?;
    let fields = raw::texts(fields);
    let first: Vec<(Text, f64)> = as_(&answers[2])?;
    let known: Option<f64> = as_(&answers[3])?;
    let visited: Option<f64> = as_(&answers[4])?;
    Ok(Listed {
        destination: destination.clone(),
        pace: read_pace(destination, &fields)?,
        waiting: Waiting {
            jobs: as_(&answers[1])?,
            next_due: first
                .first()
                .map(|(_, due)| Timestamp::from_ms(*due as i64)),
        },
        is_known: known.is_some(),
        is_on_agenda: visited.is_some(),
    })
}

impl Listed {
    fn is_in_trouble(&self, now: Timestamp) -> bool {
        self.pace.hold_at(now).is_some() || self.pace.breaker != BreakerState::Closed
    }
}

impl Part {
    fn key(self, keys: &Shard) -> String {
        match self {
            Self::Trouble => keys.trouble(),
            Self::Work | Self::UnderWay => keys.agenda().to_owned(),
        }
    }

    /// Whether a destination that was found in this part belongs there, so that none is listed
    /// twice.
    fn has(self, one: &Listed, now: Timestamp) -> bool {
        match self {
            Self::Trouble => one.is_in_trouble(now),
            Self::Work if one.is_in_trouble(now) => !one.is_known,
            // The agenda also has destinations that are visited once more before they are removed
            // from it.
            Self::Work => one.waiting.jobs > 0 || one.pace.in_flight > 0,
            Self::UnderWay if one.is_on_agenda => false,
            Self::UnderWay if one.is_in_trouble(now) => !one.is_known,
            Self::UnderWay => one.pace.in_flight > 0,
        }
    }
}

impl ListPlace {
    fn before(part: Part) -> Self {
        Self {
            part,
            at: (0, String::new()),
        }
    }
}

/// The text that [`ListPlace::from_str`] reads.
impl fmt::Display for ListPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Trouble => "trouble",
            Part::Work => "work",
            Part::UnderWay => "under_way",
        };
        write!(f, "{part}/{}/{}", self.at.0, self.at.1)
    }
}

impl FromStr for ListPlace {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        let mut parts = text.splitn(3, '/');
        let part = match parts.next() {
            Some("trouble") => Part::Trouble,
            Some("work") => Part::Work,
            Some("under_way") => Part::UnderWay,
            _ => return Err(NotAPlace),
        };
        let score = parts
            .next()
            .and_then(|score| score.parse().ok())
            .ok_or(NotAPlace)?;
        Ok(Self {
            part,
            at: (score, parts.next().ok_or(NotAPlace)?.to_owned()),
        })
    }
}
