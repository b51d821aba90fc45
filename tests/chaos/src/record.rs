//! The records of a run, from which the verdict is made. Each list is a file of JSON lines in the
//! folder of the run, so that a run can be judged again.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use domain::event::EventKind;
use domain::standing::Standing;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fault::Kind;
use crate::options::Shape;

/// Milliseconds since 1970 by the clock of this machine. All times in records are of this kind,
/// unless noted otherwise.
pub(crate) type Ms = i64;

/// The current time.
pub(crate) fn now_ms() -> Ms {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis().try_into().unwrap_or(Ms::MAX))
}

/// The way in which a bounce was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Way {
    /// One JSON object.
    Object,
    /// A JSON array.
    Array,
    /// NDJSON.
    Lines,
    /// A signed webhook.
    Hook,
    /// A delivery report by LMTP.
    Report,
    /// The stream `rd:intake`.
    Stream,
}

/// A bounce that was accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bounced {
    pub(crate) message: String,
    pub(crate) job: String,
    pub(crate) way: Way,
    /// Whether its reply retires the address at once.
    pub(crate) permanent: bool,
    pub(crate) answer: String,
    /// How often it was sent until it was answered.
    pub(crate) tries: u32,
    pub(crate) first_at: Ms,
    pub(crate) answered_at: Ms,
}

/// A fact that was reported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReportedFact {
    /// `delivered`, `engaged`, `complaint` or `unsubscribe`.
    pub(crate) fact: String,
    pub(crate) job: String,
    pub(crate) message: Option<String>,
    pub(crate) first_at: Ms,
    pub(crate) answered_at: Ms,
    pub(crate) answer: String,
}

/// A destination that an operator held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) destination: String,
    /// When the hold was answered.
    pub(crate) from: Ms,
    /// When its release was requested.
    pub(crate) until: Ms,
}

/// A recipient that a client has named to a peer (RCPT).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) at: Ms,
    pub(crate) job: String,
    /// The life of the worker, from its HELO name.
    pub(crate) life: String,
    /// False if the previous transaction of the connection had the same recipient: this message
    /// follows a probe.
    pub(crate) begins: bool,
}

/// A message that a peer accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) at: Ms,
    /// When its transaction began.
    pub(crate) began: Ms,
    pub(crate) message: String,
    pub(crate) job: String,
    pub(crate) life: String,
    /// False if the peer closed the connection instead of answering.
    pub(crate) answered: bool,
}

/// Transactions that were open at the same time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pub(crate) at: Ms,
    /// The destination or the job.
    pub(crate) of: String,
    /// The lives that have the transactions, with the start of each, the oldest first.
    pub(crate) lives: Vec<(String, Ms)>,
}

/// A relay's report that it could not deliver a message that it had accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refuted {
    /// When it was sent first.
    pub(crate) from: Ms,
    /// When it was answered.
    pub(crate) at: Ms,
    pub(crate) message: String,
    pub(crate) reply: String,
}

/// A fault, and how long it lasted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) at: Ms,
    pub(crate) until: Ms,
    pub(crate) kind: Kind,
    /// The life of the affected process. `None` if a server or all processes are affected.
    pub(crate) life: Option<String>,
    /// Writes of servers since this time may be lost.
    pub(crate) lost_since: Option<Ms>,
}

/// The end of a life of a process, unless chaos killed it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) at: Ms,
    pub(crate) life: String,
    /// Whether it was asked to end by SIGTERM.
    pub(crate) was_asked: bool,
    /// How long it had run when it was asked.
    pub(crate) age_ms: Ms,
    /// How it ended. `None` if it did not end and was killed.
    pub(crate) status: Option<String>,
    pub(crate) is_success: bool,
}

/// An event of the journal, as `/v1/events` returns it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// `shard:entry:number`.
    pub(crate) id: String,
    pub(crate) kind: EventKind,
    /// By the server's clock.
    pub(crate) at: Ms,
    pub(crate) job: String,
    pub(crate) message: Option<String>,
    pub(crate) attempt: Option<u32>,
    pub(crate) reason: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) late_ms: Option<i64>,
    /// By the server's clock.
    pub(crate) due: Option<Ms>,
    pub(crate) standing: Option<Standing>,
}

impl Event {
    /// The journal entry that contains it.
    pub(crate) fn entry(&self) -> &str {
        self.id.rsplit_once(':').map_or("", |(entry, _)| entry)
    }
}

/// Since when the server's clock is ahead of the machine's clock, and by how much.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Skew {
    pub(crate) at: Ms,
    pub(crate) ahead: Ms,
}

/// Other findings at the end of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rest {
    /// Ids of the events in the order in which they came to the client that follows the stream
    /// through all faults.
    pub(crate) followed: Vec<String>,
    /// Ids of the events that the servers have.
    pub(crate) stored: Vec<String>,
    /// The standings that the servers have, as job and standing.
    pub(crate) standings: Vec<(String, Standing)>,
    /// Keys that should not exist any more.
    pub(crate) left: Vec<String>,
    /// Errors of the program itself: a wrong answer, an unexplained end, a panic, an address in a
    /// log.
    pub(crate) wrong: Vec<String>,
    /// Destinations that had more attempts in flight than allowed, according to the servers.
    pub(crate) crowded: Vec<String>,
    /// Jobs that were in two leases at once, according to the servers.
    #[serde(default)]
    pub(crate) leased_twice: Vec<String>,
    /// How long draining took.
    pub(crate) drained_ms: Ms,
}

/// The settings of a run on which its verdict depends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) minutes: f64,
}

/// Everything that a run is judged by.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    pub(crate) run: Run,
    pub(crate) bounced: Vec<Bounced>,
    pub(crate) facts: Vec<ReportedFact>,
    pub(crate) held: Vec<Held>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) taken: Vec<Taken>,
    pub(crate) crowds: Vec<Crowd>,
    pub(crate) refuted: Vec<Refuted>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) events: Vec<Event>,
    pub(crate) skews: Vec<Skew>,
    pub(crate) rest: Rest,
}

impl Evidence {
    /// Writes all records into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write_lines(folder, "run", std::slice::from_ref(&self.run))?;
        write_lines(folder, "bounced", &self.bounced)?;
        write_lines(folder, "told", &self.facts)?;
        write_lines(folder, "held", &self.held)?;
        write_lines(folder, "asked", &self.asked)?;
        write_lines(folder, "taken", &self.taken)?;
        write_lines(folder, "crowds", &self.crowds)?;
        write_lines(folder, "refuted", &self.refuted)?;
        write_lines(folder, "faults", &self.faults)?;
        write_lines(folder, "ended", &self.ended)?;
        write_lines(folder, "events", &self.events)?;
        write_lines(folder, "skews", &self.skews)?;
        write_lines(folder, "rest", std::slice::from_ref(&self.rest))
    }

    /// Reads the records that [`write`](Self::write) wrote.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            run: read_one(folder, "run")?,
            bounced: read_lines(folder, "bounced")?,
            facts: read_lines(folder, "told")?,
            held: read_lines(folder, "held")?,
            asked: read_lines(folder, "asked")?,
            taken: read_lines(folder, "taken")?,
            crowds: read_lines(folder, "crowds")?,
            refuted: read_lines(folder, "refuted")?,
            faults: read_lines(folder, "faults")?,
            ended: read_lines(folder, "ended")?,
            events: read_lines(folder, "events")?,
            skews: read_lines(folder, "skews")?,
            rest: read_one(folder, "rest")?,
        })
    }
}

fn write_lines<T: Serialize>(folder: &Path, name: &str, items: &[T]) -> anyhow::Result<()> {
    let lines: Result<Vec<String>, _> = items.iter().map(serde_json::to_string).collect();
    let file = folder.join(format!("{name}.jsonl"));
    fs::write(&file, lines?.join("\n")).with_context(|| format!("cannot write {}", file.display()))
}

fn read_lines<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<Vec<T>> {
    let file = folder.join(format!("{name}.jsonl"));
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let read = |line| {
        serde_json::from_str(line).with_context(|| format!("{} has a broken line", file.display()))
    };
    text.lines().map(read).collect()
}

fn read_one<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<T> {
    read_lines(folder, name)?
        .into_iter()
        .next()
        .with_context(|| format!("{name}.jsonl is empty"))
}

/// A list to which several tasks add.
#[derive(Debug)]
pub(crate) struct List<T>(Mutex<Vec<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> List<T> {
    /// Adds an item.
    pub(crate) fn push(&self, item: T) {
        self.0
            .lock()
            .expect("no task panics while it adds to a list")
            .push(item);
    }

    /// All items so far.
    pub(crate) fn all(&self) -> Vec<T> {
        self.0
            .lock()
            .expect("no task panics while it adds to a list")
            .clone()
    }

    /// How many items there are.
    pub(crate) fn len(&self) -> usize {
        self.0
            .lock()
            .expect("no task panics while it adds to a list")
            .len()
    }
}

/// The records of all tasks of a run.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) bounced: List<Bounced>,
    pub(crate) facts: List<ReportedFact>,
    pub(crate) held: List<Held>,
    pub(crate) asked: List<Asked>,
    pub(crate) taken: List<Taken>,
    pub(crate) crowds: List<Crowd>,
    pub(crate) refuted: List<Refuted>,
    pub(crate) faults: List<Fault>,
    pub(crate) ended: List<Ended>,
    pub(crate) skews: List<Skew>,
    pub(crate) followed: List<String>,
    pub(crate) wrong: List<String>,
    pub(crate) crowded: List<String>,
    pub(crate) leased_twice: List<String>,
}
