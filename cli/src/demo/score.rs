//! What the journal tells: the story of each job and each message, event by event. Display and
//! report are made of it and of nothing else.

use std::collections::{BTreeMap, HashMap};

use domain::event::{Event, EventKind};
use domain::standing::Standing;

/// The stories of all jobs.
#[derive(Debug, Default)]
pub(crate) struct Score {
    jobs: HashMap<String, Story>,
    ended: usize,
}

/// The story of one job.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// What the first bounce said.
    pub(crate) label: Label,
    /// The last attempt's number; they count from 1.
    pub(crate) attempts: u32,
    /// The attempt that first got a message through.
    pub(crate) delivered_at: Option<u32>,
    /// Where the address went, if it left the active list.
    pub(crate) retired: Option<Standing>,
    /// Whether the job is over; a bounce that ended at once started none.
    pub(crate) over: bool,
    pub(crate) scheduled: bool,
    /// By how much each attempt was claimed after it was due, in ms of the demo's time.
    pub(crate) late_ms: Vec<i64>,
    /// How often each message ended, by its id.
    pub(crate) messages: HashMap<String, Ending>,
}

/// What the first bounce of a job said, by which the report groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label {
    /// The status, or the reply's code where it had none.
    pub(crate) status: String,
    /// The policy row.
    pub(crate) policy: String,
}

/// How a message ended; each count should be one in all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ending {
    pub(crate) delivered: u32,
    pub(crate) dropped: u32,
    pub(crate) expired: u32,
    /// Whether it waited in a job at all; a bounce that ended at once did not.
    pub(crate) waited: bool,
}

impl Ending {
    pub(crate) fn times(self) -> u32 {
        self.delivered + self.dropped + self.expired
    }
}

impl Score {
    /// Takes in the next event of the journal.
    pub(crate) fn note(&mut self, event: Event) {
        let story = self.jobs.entry(event.job.to_string()).or_default();
        if let Some(attempt) = event.attempt.filter(|attempt| *attempt > story.attempts) {
            story.attempts = attempt;
            story.late_ms.extend(event.late_ms);
        }
        let mut ending = Ending::default();
        match event.kind {
            EventKind::JobScheduled => {
                let code = event.reply.unwrap_or_default().chars().take(3).collect();
                let status = event.status.map_or(code, |status| status.to_string());
                story.label = Label {
                    status,
                    policy: event.policy.unwrap_or_default(),
                };
                story.scheduled = true;
                ending.waited = true;
            }
            EventKind::MessageJoined => ending.waited = true,
            EventKind::MessageDelivered => {
                ending.delivered = 1;
                story.delivered_at = story.delivered_at.or(event.attempt);
            }
            EventKind::MessageDropped => ending.dropped = 1,
            EventKind::MessageExpired => ending.expired = 1,
            EventKind::AddressRetired => {
                story.retired = event.standing;
                story.over = true;
            }
            EventKind::JobClosed => story.over = true,
            _ => {}
        }
        if let Some(id) = event.message {
            let known = story.messages.entry(id).or_default();
            if known.times() == 0 && ending.times() > 0 {
                self.ended += 1;
            }
            known.delivered += ending.delivered;
            known.dropped += ending.dropped;
            known.expired += ending.expired;
            known.waited |= ending.waited;
        }
    }

    /// Whether all of so many messages have ended, and all jobs with them.
    pub(crate) fn all_ended(&self, messages: usize) -> bool {
        self.ended >= messages
            && self.open() == 0
            && self
                .jobs
                .values()
                .all(|story| story.over || !story.scheduled)
    }

    /// How many messages have ended.
    pub(crate) fn ended(&self) -> usize {
        self.ended
    }

    /// How many messages have not ended.
    pub(crate) fn open(&self) -> usize {
        self.messages().filter(|ending| ending.times() == 0).count()
    }

    /// How many attempts there were.
    pub(crate) fn attempts(&self) -> u64 {
        self.jobs
            .values()
            .map(|story| u64::from(story.attempts))
            .sum()
    }

    /// One job's story.
    pub(crate) fn story(&self, job: &str) -> Option<&Story> {
        self.jobs.get(job)
    }

    /// All messages.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Ending> {
        self.jobs
            .values()
            .flat_map(|story| story.messages.values().copied())
    }

    /// All stories.
    pub(crate) fn stories(&self) -> impl Iterator<Item = &Story> {
        self.jobs.values()
    }

    /// The stories by what their first bounce said.
    pub(crate) fn by_label(&self) -> BTreeMap<&Label, Vec<&Story>> {
        let mut groups: BTreeMap<&Label, Vec<&Story>> = BTreeMap::new();
        for story in self.jobs.values().filter(|story| story.scheduled) {
            groups.entry(&story.label).or_default().push(story);
        }
        groups
    }
}
