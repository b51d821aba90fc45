//! A second implementation of the store's promises, in memory and as simple as possible. After any
//! operations, the store must have the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::clock::Timestamp;
use domain::standing::Standing;
use harness::bounce::{AWAY, FULL, FULL_FOR_GOOD, MAINTENANCE, OK, TOO_BIG, UNKNOWN};
use harness::world::{DAY, HOUR, LEASE};
use store::claim::LeaseKey;

use super::MAX_MESSAGES;

/// How long a job waits after a problem on our side.
const HELD: Duration = Duration::from_secs(900);

/// The state that the store must have.
#[derive(Default)]
pub(super) struct Model {
    pub(super) jobs: BTreeMap<&'static str, Job>,
    pub(super) standings: BTreeMap<&'static str, AddressState>,
    pub(super) delivered: BTreeMap<&'static str, Timestamp>,
    /// When a message was last delivered at a destination.
    pub(super) last_delivery: BTreeMap<&'static str, Timestamp>,
    /// The day on which a message was dropped on arrival.
    pub(super) dropped: BTreeMap<(&'static str, String), i64>,
    /// How often each message was accepted, and how often it ended.
    pub(super) accepted: BTreeMap<(String, String), usize>,
    pub(super) ended: BTreeMap<(String, String), usize>,
    /// When each lease ends, and the addresses that are still in it, even if it is void for them.
    pub(super) leases: BTreeMap<LeaseKey, (Timestamp, BTreeSet<&'static str>)>,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) created: Timestamp,
    pub(super) attempt: u32,
    /// Whether the last try did not count.
    pub(super) held: bool,
    pub(super) messages: Vec<String>,
    /// When the job is due. While it is leased: when it was due.
    pub(super) due: Timestamp,
    /// When the job was last tried. The platform's own try counts.
    pub(super) tried: Timestamp,
    pub(super) lease: Option<Leased>,
}

#[derive(Debug)]
pub(super) struct Leased {
    pub(super) key: LeaseKey,
    pub(super) claimed: Timestamp,
    /// How many of its messages the worker has seen.
    pub(super) seen: usize,
    /// Whether no message had been delivered at its destination since the job was created.
    pub(super) host_down: bool,
}

/// The standing of an address.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AddressState {
    pub(super) standing: Standing,
    pub(super) until: Option<Timestamp>,
    pub(super) strikes: u32,
}

impl Model {
    /// Processes a bounce. Returns the name of the answer.
    pub(super) fn post(
        &mut self,
        address: &'static str,
        message: &str,
        reply: &str,
        occurred: Timestamp,
        now: Timestamp,
    ) -> &str {
        if self
            .delivered
            .get(address)
            .is_some_and(|delivered| occurred <= *delivered)
        {
            return "stale";
        }
        let gone = self
            .standings
            .get(address)
            .filter(|gone| gone.is_gone(now))
            .map(|gone| gone.standing);
        let waits = self
            .jobs
            .get(address)
            .is_some_and(|job| job.messages.iter().any(|one| one == message));
        if [UNKNOWN, FULL_FOR_GOOD].contains(&reply) {
            // An unavailable address can still turn out to be dead.
            if gone.is_none() || (gone == Some(Standing::Unavailable) && reply == UNKNOWN) {
                if !waits {
                    self.accept(address, message);
                    self.end(address, message);
                }
                self.retire(address, standing_after(reply), false, now);
            }
            return "retired";
        }
        if gone.is_some() {
            return "retired";
        }
        if waits {
            return "duplicate";
        }
        if reply == TOO_BIG {
            self.drop(address, message, now);
            return "dropped";
        }
        self.accept(address, message);
        let Some(job) = self.jobs.get_mut(address) else {
            let messages = vec![message.to_owned()];
            let job = Job {
                created: now,
                attempt: 0,
                held: false,
                messages,
                due: now,
                tried: occurred,
                lease: None,
            };
            self.jobs.insert(address, job);
            return "scheduled";
        };
        job.messages.push(message.to_owned());
        let bound = job.lease.as_ref().map_or(0, |lease| lease.seen) + MAX_MESSAGES;
        let replaced =
            (job.messages.len() > bound).then(|| job.messages.remove(bound - MAX_MESSAGES));
        if let Some(replaced) = replaced {
            self.end(address, &replaced);
        }
        "joined"
    }

    /// Drops a message on arrival. The same message has no further event today and tomorrow.
    fn drop(&mut self, address: &'static str, message: &str, now: Timestamp) {
        let today = now.ms().div_euclid(DAY.as_millis() as i64);
        let is_known = self
            .dropped
            .get(&(address, message.to_owned()))
            .is_some_and(|day| *day >= today - 1);
        if !is_known {
            self.accept(address, message);
            self.end(address, message);
            self.dropped.insert((address, message.to_owned()), today);
        }
    }

    /// Records a fact about an address, and about this message if one is given. Returns the name of
    /// the answer.
    pub(super) fn report(
        &mut self,
        address: &'static str,
        kind: &str,
        message: Option<&str>,
        now: Timestamp,
    ) -> &str {
        let standing = self.standings.get(address).map(|gone| gone.standing);
        if kind == "delivered" {
            self.delivered.insert(address, now);
        }
        match (kind, standing) {
            ("complaint" | "delivered" | "engaged", Some(Standing::Suppressed)) => "suppressed",
            ("complaint", _) => {
                for message in self
                    .jobs
                    .remove(address)
                    .map(|job| job.messages)
                    .unwrap_or_default()
                {
                    self.end(address, &message);
                }
                self.standings.insert(
                    address,
                    AddressState {
                        standing: Standing::Suppressed,
                        until: None,
                        strikes: 0,
                    },
                );
                "suppressed"
            }
            ("reinstate", None | Some(Standing::Active)) => "noted",
            ("reinstate", _) => {
                self.standings.insert(
                    address,
                    AddressState {
                        standing: Standing::Active,
                        until: None,
                        strikes: 0,
                    },
                );
                "reinstated"
            }
            _ if self.jobs.contains_key(address) => {
                self.show_sign_of_life(address, kind, message, now)
            }
            // A reinstatement by an operator stays recorded.
            (_, None) => "noted",
            (_, Some(Standing::Active)) if self.standings[address].strikes == 0 => "noted",
            (_, Some(standing)) => {
                self.standings.remove(address);
                if standing == Standing::Active {
                    "noted"
                } else {
                    "reinstated"
                }
            }
        }
    }

    fn show_sign_of_life(
        &mut self,
        address: &'static str,
        kind: &str,
        named: Option<&str>,
        now: Timestamp,
    ) -> &str {
        let job = self.jobs.get_mut(address).unwrap();
        let all = kind == "delivered" && named.is_none();
        let is_ended = |message: &String| all || Some(message.as_str()) == named;
        let ended: Vec<String> = job
            .messages
            .iter()
            .filter(|message| is_ended(message))
            .cloned()
            .collect();
        let is_recent = now.since(job.tried) < HOUR;
        let closes = ended.len() == job.messages.len();
        if !closes && (job.lease.is_some() || (ended.is_empty() && (is_recent || named.is_some())))
        {
            return "noted";
        }
        self.standings.remove(address);
        job.messages.retain(|message| !ended.contains(message));
        if !is_recent {
            (job.attempt, job.created, job.held, job.due) = (0, now, false, now);
        }
        if closes {
            self.jobs.remove(address);
        }
        for message in ended {
            self.end(address, &message);
        }
        match (closes, is_recent) {
            (true, _) => "closed",
            (_, true) => "ended",
            _ => "resumed",
        }
    }

    /// The addresses that a claim at `now` leases, in order, given the leases that the store made.
    pub(super) fn claim(
        &mut self,
        now: Timestamp,
        keys: &BTreeMap<&'static str, LeaseKey>,
    ) -> Vec<&'static str> {
        let lapsed: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, (deadline, _))| *deadline <= now)
            .collect();
        for (key, (deadline, addresses)) in lapsed
            .into_iter()
            .map(|(key, lease)| (*key, lease.clone()))
            .collect::<Vec<_>>()
        {
            self.leases.remove(&key);
            for address in addresses {
                if self.is_leased_under(address, key) {
                    self.put_back(address, deadline);
                }
            }
        }
        let mut claimed: Vec<_> = self
            .jobs
            .iter_mut()
            .filter(|(_, job)| job.lease.is_none() && job.due <= now)
            .collect();
        for (address, job) in &mut claimed {
            let host_down = self
                .last_delivery
                .get(domain(address))
                .is_none_or(|at| *at < job.created);
            let Some(key) = keys.get(*address).copied() else {
                continue;
            };
            job.lease = Some(Leased {
                key,
                claimed: now,
                seen: job.messages.len(),
                host_down,
            });
            self.leases
                .entry(key)
                .or_insert_with(|| (now.plus(LEASE), BTreeSet::new()))
                .1
                .insert(address);
        }
        claimed.into_iter().map(|(address, _)| *address).collect()
    }

    /// Whether the job is leased under this key.
    fn is_leased_under(&self, address: &str, key: LeaseKey) -> bool {
        self.jobs
            .get(address)
            .and_then(|job| job.lease.as_ref())
            .is_some_and(|lease| lease.key == key)
    }

    /// Takes an address out of a lease, because its job was settled or given back. Returns whether
    /// the lease was valid for it.
    pub(super) fn end_lease(&mut self, address: &'static str, key: LeaseKey) -> bool {
        let Some((_, addresses)) = self.leases.get_mut(&key) else {
            return false;
        };
        addresses.remove(address);
        if addresses.is_empty() {
            self.leases.remove(&key);
        }
        self.is_leased_under(address, key)
    }

    /// Extends a lease. Returns whether it still lasts.
    pub(super) fn extend(&mut self, key: LeaseKey, deadline: Timestamp) -> bool {
        let Some((until, _)) = self.leases.get_mut(&key) else {
            return false;
        };
        *until = deadline;
        true
    }

    /// Until when a job is leased, if it is leased.
    pub(super) fn leased_until(&self, job: &Job) -> Option<Timestamp> {
        job.lease.as_ref().map(|lease| self.leases[&lease.key].0)
    }

    /// Ends the lease of a job, which is then due at `due`.
    pub(super) fn put_back(&mut self, address: &'static str, due: Timestamp) {
        let job = self.jobs.get_mut(address).unwrap();
        (job.lease, job.due) = (None, due);
        self.trim(address);
    }

    /// The result of an attempt whose messages get `replies`: the delay until the next attempt, if
    /// the job waits for one.
    pub(super) fn settle(
        &mut self,
        address: &'static str,
        replies: &[&str],
        now: Timestamp,
    ) -> Option<Duration> {
        let job = self.jobs.get_mut(address).unwrap();
        let Leased {
            claimed,
            seen,
            host_down,
            ..
        } = job.lease.take().unwrap();
        let joined = job.messages.split_off(seen);
        let (mut waiting, mut step) = (
            std::mem::replace(&mut job.messages, joined),
            job.attempt + 1,
        );
        let (created, held) = (job.created, job.held);
        let overdue = |now: Timestamp| now.since(created) >= 30 * DAY;
        let mut replies = replies.iter().copied();
        while !waiting.is_empty() {
            let reply = match (overdue(claimed), held) {
                (true, true) => AWAY,
                (true, false) => "its last failure again",
                (false, _) => replies.next().unwrap_or(OK),
            };
            match (
                reply,
                delays(reply).get(step as usize).filter(|_| !overdue(now)),
            ) {
                (OK, _) => {
                    // A failure from here on is a new outage.
                    step = 0;
                    let job = self.jobs.get_mut(address).unwrap();
                    (job.created, job.attempt, job.held) = (now, 0, false);
                    self.delivered.insert(address, now);
                    self.last_delivery.insert(domain(address), now);
                    self.standings.remove(address);
                    self.end(address, &waiting.remove(0));
                }
                (TOO_BIG, _) => self.end(address, &waiting.remove(0)),
                (AWAY, _) if overdue(now) => {
                    for message in std::mem::take(&mut waiting) {
                        self.end(address, &message);
                    }
                }
                (AWAY, _) => {
                    let job = self.jobs.get_mut(address).unwrap();
                    (job.held, job.tried) = (true, now);
                    self.wait(address, waiting);
                    return Some(HELD);
                }
                (_, Some(delay)) => {
                    let job = self.jobs.get_mut(address).unwrap();
                    (job.attempt, job.held, job.tried) = (step, false, now);
                    self.wait(address, waiting);
                    return Some(*delay);
                }
                (reply, None) => {
                    for message in waiting {
                        self.end(address, &message);
                    }
                    // Only a failure of the host is evidence that the host is dead.
                    let host_down = host_down && reply != FULL_FOR_GOOD;
                    self.retire(address, standing_after(reply), host_down, now);
                    return None;
                }
            }
        }
        // Only messages that joined are left. They are tried at once, with the whole schedule.
        let job = self.jobs.get_mut(address).unwrap();
        (job.created, job.attempt, job.held, job.due) = (now, 0, false, now);
        if job.messages.is_empty() {
            self.jobs.remove(address);
        } else {
            self.trim(address);
        }
        None
    }

    /// Puts the messages that still wait back into their job, before those that joined.
    fn wait(&mut self, address: &'static str, waiting: Vec<String>) {
        self.jobs
            .get_mut(address)
            .unwrap()
            .messages
            .splice(0..0, waiting);
        self.trim(address);
    }

    fn retire(
        &mut self,
        address: &'static str,
        standing: Standing,
        host_down: bool,
        now: Timestamp,
    ) {
        for message in self
            .jobs
            .remove(address)
            .map(|job| job.messages)
            .unwrap_or_default()
        {
            self.end(address, &message);
        }
        let before = self.standings.get(address).map_or(0, |gone| gone.strikes);
        let strikes = before + 1;
        let gone = match standing {
            Standing::Unavailable if strikes < 3 || host_down => {
                let days = (30 << before.min(8)).min(180);
                AddressState {
                    standing,
                    until: Some(now.plus(days * DAY)),
                    strikes,
                }
            }
            Standing::Unavailable => AddressState {
                standing: Standing::Inactive,
                until: None,
                strikes,
            },
            _ => AddressState {
                standing,
                until: None,
                strikes: 0,
            },
        };
        self.standings.insert(address, gone);
    }

    /// Reinstates the addresses whose time is over. Returns how many.
    pub(super) fn reinstate(&mut self, now: Timestamp) -> u64 {
        let over = self
            .standings
            .values_mut()
            .filter(|gone| gone.until.is_some_and(|until| until <= now));
        over.map(|gone| (gone.standing, gone.until) = (Standing::Active, None))
            .count() as u64
    }

    fn trim(&mut self, address: &str) {
        let messages = &mut self.jobs.get_mut(address).unwrap().messages;
        let replaced: Vec<String> = messages
            .drain(..messages.len().saturating_sub(MAX_MESSAGES))
            .collect();
        for message in replaced {
            self.end(address, &message);
        }
    }

    fn accept(&mut self, address: &str, message: &str) {
        *self
            .accepted
            .entry((address.to_owned(), message.to_owned()))
            .or_default() += 1;
    }

    fn end(&mut self, address: &str, message: &str) {
        *self
            .ended
            .entry((address.to_owned(), message.to_owned()))
            .or_default() += 1;
    }
}

impl AddressState {
    fn is_gone(&self, now: Timestamp) -> bool {
        self.standing != Standing::Active && self.until.is_none_or(|until| until > now)
    }
}

/// The delays of a reply's schedule. Empty for replies that end a job at once.
pub(super) fn delays(reply: &str) -> Vec<Duration> {
    match reply {
        FULL => [24, 48, 72, 168].map(|hours| hours * HOUR).to_vec(),
        MAINTENANCE => [1, 4, 12, 24].map(|hours| hours * HOUR).to_vec(),
        _ => Vec::new(),
    }
}

/// The standing of an address that is retired by `reply`.
fn standing_after(reply: &str) -> Standing {
    if reply == UNKNOWN {
        Standing::Inactive
    } else {
        Standing::Unavailable
    }
}

fn domain(address: &'static str) -> &'static str {
    address.rsplit_once('@').unwrap().1
}
