//! A job: the retrying of one address of one account, with the messages that wait in it, and the
//! record that Redis keeps of it. The record is JSON lines: the head first, then one line per
//! message, oldest first. A message that joins is one line more at the end, so the scripts never
//! have to understand a record to add to it, and what joined during a lease is simply what stands
//! behind the bytes that the worker saw.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::account::Account;
use crate::address::Address;
use crate::clock::{Timestamp, as_ms};
use crate::destination::Destination;
use crate::reply::Reply;
use crate::status::EnhancedStatus;

/// The version of the record's layout that this code writes.
const RECORD_VERSION: u8 = 1;

/// How many tries a record remembers; the oldest go first.
const HISTORY_MAX: usize = 12;

/// How much of a reply a record remembers, in characters.
const HISTORY_REPLY_CHARS: usize = 160;

/// A job's id, `account/recipient`. It names a person: it goes into Redis and answers, not into
/// logs and metrics.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The tenant.
    pub account: Account,
    /// The impaired address.
    pub recipient: Address,
}

/// Why a text is no job id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job id is account/recipient")]
pub struct NotAJobId;

impl JobId {
    /// Reads `account/recipient`.
    pub fn parse(text: &str) -> Result<Self, NotAJobId> {
        let (account, recipient) = text.split_once('/').ok_or(NotAJobId)?;
        Ok(Self {
            account: Account::parse(account).map_err(|_| NotAJobId)?,
            recipient: Address::parse(recipient).map_err(|_| NotAJobId)?,
        })
    }

    /// Reads an id as Redis has it: one that [`Self::key`] wrote.
    pub fn from_key(key: &str) -> Result<Self, NotAJobId> {
        let (account, recipient) = key.split_once('/').ok_or(NotAJobId)?;
        Ok(Self {
            account: Account::parse(account).map_err(|_| NotAJobId)?,
            recipient: Address::from_canonical(recipient).map_err(|_| NotAJobId)?,
        })
    }

    /// The id in full, as Redis has it.
    pub fn key(&self) -> String {
        [self.account.as_str(), "/", self.recipient.as_str()].concat()
    }
}

impl fmt::Debug for JobId {
    /// Shows the address redacted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.recipient)
    }
}

/// The retrying of one address: what its record says.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// `account/recipient`.
    pub id: JobId,
    /// What is true of the job as a whole.
    pub head: Head,
    /// What waits, oldest first.
    pub messages: Vec<Message>,
}

/// What is true of a job as a whole: the first line of its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The layout of the record.
    #[serde(rename = "v")]
    version: u8,
    /// Where its attempts go; the scripts read it of jobs whose lease lapsed.
    #[serde(rename = "d")]
    pub destination: Destination,
    /// How many attempts of ours have been settled. The platform's own was attempt 0.
    #[serde(rename = "a")]
    pub attempt: u32,
    /// The status of the last failure.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub status: Option<EnhancedStatus>,
    /// The policy row of the last failure.
    #[serde(rename = "p")]
    pub policy: String,
    /// When the job came to be.
    #[serde(rename = "c", with = "as_ms")]
    pub created: Timestamp,
    /// Whether the last try failed by trouble that is not the address's, and did not count.
    #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The last tries, oldest first.
    #[serde(rename = "h")]
    pub history: Vec<Try>,
}

/// One try that failed, as a job remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// Its number; the platform's own was 0.
    #[serde(rename = "a")]
    pub attempt: u32,
    /// When it was settled.
    #[serde(rename = "t", with = "as_ms")]
    pub at: Timestamp,
    /// What the mail system said, or what kept us from hearing it; shortened.
    #[serde(rename = "r")]
    pub reply: String,
}

/// One mail that waits in a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its id, unique within the job. It stands first in the record's line, where the scripts look
    /// for duplicates.
    #[serde(rename = "i")]
    pub id: String,
    /// When its bounce happened.
    #[serde(rename = "b", with = "as_ms")]
    pub bounced_at: Timestamp,
    /// That a relay has taken it and a bounce may still come. It stands behind the two before it,
    /// where the scripts look.
    #[serde(rename = "y", default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Acceptance>,
    /// The envelope sender; none is the null reverse-path.
    #[serde(
        rename = "f",
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::address::canonical"
    )]
    pub envelope_from: Option<Address>,
    /// The route that it leaves by; none is the default route.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The kind of mail: newsletter, receipts, …
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// From when on it must not be sent any more.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<ExpiresAt>,
    /// Where its content is; none where the platform holds it.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentRef>,
    /// The host that said no, where the platform knows it.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub remote_mta: Option<String>,
    /// The trace that it belongs to (W3C Trace Context).
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What the platform wants to find again in events.
    #[serde(rename = "m", default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// That a relay has taken a message and answers for it, as long as no bounce comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Which attempt that was, as policy counts them.
    #[serde(rename = "a")]
    pub attempt: u32,
    /// When that attempt's job was claimed. A bounce from before it is about another try.
    #[serde(rename = "t", with = "as_ms")]
    pub at: Timestamp,
    /// From when on it counts as delivered.
    #[serde(rename = "u", with = "as_ms")]
    pub until: Timestamp,
    /// The serial of that attempt's lease; 0 if it is not known.
    #[serde(rename = "k", default)]
    pub serial: u64,
}

/// The instant from which a message must not be sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiresAt(#[serde(with = "as_ms")] pub Timestamp);

/// Where a message's content is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentRef {
    /// In the record itself.
    #[serde(rename = "i")]
    Inline(String),
    /// In a file that the workers can read, under one of their content roots.
    #[serde(rename = "f")]
    File(String),
    /// At a URL that the workers can read, under one of their content stores.
    #[serde(rename = "u")]
    Url(String),
}

/// What the URL of content may begin with. Only workers that run for tests and in trusted networks
/// read `http`.
pub const CONTENT_SCHEMES: [&str; 5] = ["s3", "gs", "az", "https", "http"];

/// Whether a text is a URL that content can be at: of one of [`CONTENT_SCHEMES`], with a host or
/// bucket and a path, and with nothing secret in it.
pub fn is_content_url(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else {
        return false;
    };
    CONTENT_SCHEMES.contains(&url.scheme())
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.path().len() > 1
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// Whether content is empty: nothing, or only white space. Mail has a header section at least (RFC
/// 5322, section 3.6), so intake refuses such content, and an attempt drops its message.
pub fn is_empty_content(content: &[u8]) -> bool {
    content.trim_ascii().is_empty()
}

impl fmt::Debug for ContentRef {
    /// Shows the size of inline content and not the content, which is personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(content) => write!(f, "Inline({} bytes)", content.len()),
            Self::File(path) => write!(f, "File({path})"),
            Self::Url(url) => write!(f, "Url({url})"),
        }
    }
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CorruptRecord {
    /// It is filed under something that is no job id.
    #[error("it is filed under a wrong id: {0}")]
    Id(NotAJobId),
    /// Its id is no text, so it could not be settled under the id that was read.
    #[error("its id has bytes that are no UTF-8")]
    NotText,
    /// A line is not what this version writes.
    #[error("line {line} of the record is not understood: {source}")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// What serde_json says.
        source: serde_json::Error,
    },
    /// A newer version wrote it.
    #[error(
        "the record has layout {0}, this version reads up to {RECORD_VERSION}; run the newer version"
    )]
    Version(u8),
}

impl Head {
    /// The head of a new job, whose attempt 0 failed with `reply`.
    pub fn new(
        destination: Destination,
        policy: &str,
        reply: &Reply,
        bounced_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        let mut head = Self {
            version: RECORD_VERSION,
            destination,
            attempt: 0,
            status: reply.status,
            policy: policy.to_owned(),
            created: now,
            held: false,
            history: Vec::with_capacity(1),
        };
        head.remember(0, &reply.to_string(), bounced_at);
        head
    }

    /// The head under which messages go on that joined while the job ended: with all attempts
    /// before it.
    #[must_use]
    pub fn renewed(self, now: Timestamp) -> Self {
        Self {
            attempt: 0,
            created: now,
            held: false,
            ..self
        }
    }

    /// Adds a failed try to the history, within its bounds. A try that did not count has the number
    /// of the next one, which takes its place.
    pub fn remember(&mut self, attempt: u32, reply: &str, at: Timestamp) {
        self.history.pop_if(|last| last.attempt == attempt);
        if self.history.len() >= HISTORY_MAX {
            self.history.remove(0);
        }
        let end = reply
            .char_indices()
            .nth(HISTORY_REPLY_CHARS)
            .map_or(reply.len(), |(end, _)| end);
        self.history.push(Try {
            attempt,
            at,
            reply: reply[..end].to_owned(),
        });
    }

    /// The head's line of the record, without a line end.
    pub fn line(&self) -> String {
        to_line(self)
    }
}

impl Message {
    /// The message's line of the record, without a line end.
    pub fn line(&self) -> String {
        to_line(self)
    }

    /// About how many bytes its line has: those of its inline content and metadata, and some.
    pub fn content_len(&self) -> usize {
        let content = match &self.content {
            Some(ContentRef::Inline(content)) => content.len(),
            _ => 0,
        };
        let metadata = if self.metadata.is_empty() {
            0
        } else {
            to_line(&self.metadata).len()
        };
        512 + content + metadata
    }

    /// Whether it must not be sent any more at `now`.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|ExpiresAt(at)| at <= now)
    }
}

impl Job {
    /// The record: the head's line, then one per message.
    pub fn record(&self) -> String {
        let mut record = self.head.line();
        for message in &self.messages {
            record.push('\n');
            record.push_str(&message.line());
        }
        record
    }

    /// Reads a record.
    pub fn from_record(id: JobId, record: &str) -> Result<Self, CorruptRecord> {
        let mut lines = record.lines();
        let head: Head = from_line(1, lines.next().unwrap_or_default())?;
        if head.version > RECORD_VERSION {
            return Err(CorruptRecord::Version(head.version));
        }
        let messages = lines
            .enumerate()
            .map(|(n, line)| from_line(n + 2, line))
            .collect::<Result<_, _>>()?;
        Ok(Self { id, head, messages })
    }
}

/// The record of a job with one message.
pub fn first_record(head: &Head, message: &Message) -> String {
    let mut record =
        Vec::with_capacity(head.history.len() * HISTORY_REPLY_CHARS + message.content_len());
    write_line(&mut record, head);
    record.push(b'\n');
    write_line(&mut record, message);
    String::from_utf8(record).expect("JSON is text")
}

fn write_line<T: Serialize>(line: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(line, value)
        .expect("text, numbers and maps with text keys always serialize");
}

fn to_line<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("text, numbers and maps with text keys always serialize")
}

fn from_line<'a, T: Deserialize<'a>>(line: usize, text: &'a str) -> Result<T, CorruptRecord> {
    serde_json::from_str(text).map_err(|source| CorruptRecord::Line { line, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        let id = JobId::parse("acme/a/b+c@example.com").unwrap();
        let reply = Reply::parse("452 4.3.1 Insufficient system storage");
        let then = Timestamp::from_ms(1_763_716_200_000);
        let message = |id: &str| Message {
            id: id.to_owned(),
            bounced_at: then,
            accepted: None,
            envelope_from: None,
            route: None,
            stream: None,
            expires_at: Some(ExpiresAt(then)),
            content: Some(ContentRef::Inline("Subject: x\r\n\r\ny\r\n".to_owned())),
            remote_mta: None,
            traceparent: None,
            metadata: Map::new(),
        };
        let head = Head::new(
            Destination::own(&id.recipient),
            "system-full",
            &reply,
            then,
            then,
        );
        Job {
            id,
            head,
            messages: vec![message("<c1@example.org>"), message("quote \" and \n line")],
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let job = job();
        let record = job.record();
        assert_eq!(
            record.lines().count(),
            3,
            "one line each, whatever the texts hold"
        );
        assert_eq!(Job::from_record(job.id.clone(), &record).unwrap(), job);
    }

    #[test]
    fn a_record_of_a_newer_layout_or_a_broken_one_is_refused() {
        let job = job();
        let newer = job.record().replacen("\"v\":1", "\"v\":2", 1);
        assert!(matches!(
            Job::from_record(job.id.clone(), &newer),
            Err(CorruptRecord::Version(2))
        ));
        let broken = format!("{}\nnot json", job.head.line());
        assert!(matches!(
            Job::from_record(job.id, &broken),
            Err(CorruptRecord::Line { line: 2, .. })
        ));
    }

    #[test]
    fn history_is_bounded() {
        let mut head = job().head;
        for attempt in 1..100 {
            head.remember(attempt, &"é".repeat(1_000), head.created);
        }
        assert_eq!(head.history.len(), HISTORY_MAX);
        assert_eq!(head.history.last().unwrap().attempt, 99);
        assert_eq!(
            head.history.last().unwrap().reply.chars().count(),
            HISTORY_REPLY_CHARS
        );
    }
}
