//! What the journal records about each job and each message, collected event by event. The display
//! and the report show only this.

use std::collections::{BTreeMap, HashMap};

use domain::event::{Event, EventKind};
use domain::standing::Standing;

/// The results of all jobs.
#[derive(Debug, Default)]
pub(crate) struct Results {
    jobs: HashMap<String, JobResult>,
    ended: usize,
}

/// The result of one job so far.
#[derive(Debug, Default)]
pub(crate) struct JobResult {
    /// The status and policy row of the first bounce.
    pub(crate) label: Label,
    /// The number of the last attempt. The first attempt has the number 1.
    pub(crate) attempts: u32,
    /// The number of the attempt that first delivered a message.
    pub(crate) delivered_at: Option<u32>,
    /// The new standing of the address, if it left the active list.
    pub(crate) retired: Option<Standing>,
    /// Whether the job has ended.
    pub(crate) over: bool,
    /// Whether there was a job at all. A bounce that ended at once started none.
    pub(crate) scheduled: bool,
    /// How long after its due time each attempt was claimed, in ms of the demo's time.
    pub(crate) late_ms: Vec<i64>,
    /// How often each message ended, by message id.
    pub(crate) messages: HashMap<String, MessageResult>,
}

/// The status and the policy row of a job's first bounce. The report groups the jobs by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label {
    /// The status, or the code of the reply if it had no status.
    pub(crate) status: String,
    /// The policy row.
    pub(crate) policy: String,
}

/// How often a message ended in each way. The counts should add up to one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessageResult {
    pub(crate) delivered: u32,
    pub(crate) dropped: u32,
    pub(crate) expired: u32,
    /// Whether it waited in a job. The message of a bounce that ended at once did not.
    pub(crate) waited: bool,
}

impl MessageResult {
    /// Returns how often it ended.
    pub(crate) fn times_ended(self) -> u32 {
        self.delivered + self.dropped + self.expired
    }
}

impl Results {
    /// Adds the next event of the journal.
    pub(crate) fn add(&mut self, event: Event) {
        let job = self.jobs.entry(event.job.to_string()).or_default();
        if let Some(attempt) = event.attempt.filter(|attempt| *attempt > job.attempts) {
            job.attempts = attempt;
            job.late_ms.extend(event.late_ms);
        }
        let mut message = MessageResult::default();
        match event.kind {
            EventKind::JobScheduled => {
                let code = event.reply.unwrap_or_default().chars().take(3).collect();
                let status = event.status.map_or(code, |status| status.to_string());
                job.label = Label {
                    status,
                    policy: event.policy.unwrap_or_default(),
                };
                job.scheduled = true;
                message.waited = true;
            }
            EventKind::MessageJoined => message.waited = true,
            EventKind::MessageDelivered => {
                message.delivered = 1;
                job.delivered_at = job.delivered_at.or(event.attempt);
            }
            EventKind::MessageDropped => message.dropped = 1,
            EventKind::MessageExpired => message.expired = 1,
            EventKind::AddressRetired => {
                job.retired = event.standing;
                job.over = true;
            }
            EventKind::JobClosed => job.over = true,
            _ => {}
        }
        if let Some(id) = event.message {
            let known = job.messages.entry(id).or_default();
            if known.times_ended() == 0 && message.times_ended() > 0 {
                self.ended += 1;
            }
            known.delivered += message.delivered;
            known.dropped += message.dropped;
            known.expired += message.expired;
            known.waited |= message.waited;
        }
    }

    /// Whether all `messages` messages have ended, and all jobs too.
    pub(crate) fn all_ended(&self, messages: usize) -> bool {
        self.ended >= messages
            && self.open() == 0
            && self.jobs.values().all(|job| job.over || !job.scheduled)
    }

    /// Returns how many messages have ended.
    pub(crate) fn ended(&self) -> usize {
        self.ended
    }

    /// Returns how many messages have not ended.
    pub(crate) fn open(&self) -> usize {
        self.messages()
            .filter(|message| message.times_ended() == 0)
            .count()
    }

    /// Returns how many attempts there were.
    pub(crate) fn attempts(&self) -> u64 {
        self.jobs.values().map(|job| u64::from(job.attempts)).sum()
    }

    /// Returns the result of one job.
    pub(crate) fn job(&self, job: &str) -> Option<&JobResult> {
        self.jobs.get(job)
    }

    /// Returns the job with the most attempts; of several, the first in alphabetical order.
    pub(crate) fn longest(&self) -> Option<&str> {
        let jobs = self.jobs.iter();
        let longest = jobs.max_by(|(a, of_a), (b, of_b)| {
            of_a.attempts.cmp(&of_b.attempts).then_with(|| b.cmp(a))
        });
        longest.map(|(job, _)| job.as_str())
    }

    /// Returns the results of all messages.
    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageResult> {
        self.jobs
            .values()
            .flat_map(|job| job.messages.values().copied())
    }

    /// Returns the results of all jobs.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &JobResult> {
        self.jobs.values()
    }

    /// Returns the results of all scheduled jobs, grouped by the label of their first bounce.
    pub(crate) fn by_label(&self) -> BTreeMap<&Label, Vec<&JobResult>> {
        let mut groups: BTreeMap<&Label, Vec<&JobResult>> = BTreeMap::new();
        for job in self.jobs.values().filter(|job| job.scheduled) {
            groups.entry(&job.label).or_default().push(job);
        }
        groups
    }
}
