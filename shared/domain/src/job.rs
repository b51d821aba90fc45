//! A job: all retries for one address of one account, with the messages that wait in it, and the
//! record that Redis stores for it.
//!
//! # The record
//!
//! ```text
//! record  = head *( LF message )
//! head    = {"v":1,"d":destination,"a":attempt,["s":status,]"p":row,"c":ms,["o":true,]
//!            ["w":route,]["t":traceparent,]"h":[failed,…]}
//! failed  = {"a":attempt,"t":ms,"r":reply[,"p":traceparent]}
//! message = {"i":id,"b":ms,[accepted,]…}          what follows is read by Rust only
//! accepted = "y":{"a":attempt,"t":ms,"u":ms,"k":serial[,"n":attempt]}
//! ```
//!
//! Head and messages are JSON objects (RFC 8259) on one line each, with their fields in this order
//! and no white space; the oldest message comes first. A message that joins is one more line at the
//! end. So the scripts can add a message without parsing the record. And the messages that joined
//! during a lease are the bytes after those that the worker read. The scripts rely on the order of
//! `i`, `b` and `y`, and read `d`, `a`, `c`, `o` and `w` of a head, and `a` and `n` of `y`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::account::Account;
use crate::address::Address;
use crate::clock::{Timestamp, as_ms};
use crate::destination::Destination;
use crate::evidence::{Evidence, shortened};
use crate::outcome::without_addresses;
use crate::reply::Reply;
use crate::standing::Standing;
use crate::status::EnhancedStatus;

/// The version of the record's layout that this code writes.
const RECORD_VERSION: u8 = 1;

/// How many failed attempts a record keeps. The oldest are removed first.
const HISTORY_MAX: usize = 12;

/// How much of each reply a record keeps, in characters.
const HISTORY_REPLY_CHARS: usize = 160;

/// The id of a job, `account/recipient`. It contains personal data: it may appear in Redis and in
/// API answers, but not in logs and metrics.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The tenant.
    pub account: Account,
    /// The impaired address.
    pub recipient: Address,
}

/// Why a text is not a job id.
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

    /// Reads an id from Redis, which [`Self::key`] wrote.
    pub fn from_key(key: &str) -> Result<Self, NotAJobId> {
        let (account, recipient) = key.split_once('/').ok_or(NotAJobId)?;
        Ok(Self {
            account: Account::parse(account).map_err(|_| NotAJobId)?,
            recipient: Address::from_canonical(recipient).map_err(|_| NotAJobId)?,
        })
    }

    /// Returns the whole id, as Redis stores it.
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

/// All retries for one address, as read from the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// `account/recipient`.
    pub id: JobId,
    /// The state of the job as a whole.
    pub head: Head,
    /// The messages that wait, oldest first.
    pub messages: Vec<Message>,
}

/// The state of the job as a whole: the first line of its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The layout of the record.
    #[serde(rename = "v")]
    version: u8,
    /// The destination of its attempts. The scripts read it too, for jobs whose lease lapsed.
    #[serde(rename = "d")]
    pub destination: Destination,
    /// How many of our attempts have been settled. The platform's own attempt was 0.
    #[serde(rename = "a")]
    pub attempt: u32,
    /// The status of the last failure.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub status: Option<EnhancedStatus>,
    /// The policy row of the last failure.
    #[serde(rename = "p")]
    pub policy: String,
    /// When the job was created.
    #[serde(rename = "c", with = "as_ms")]
    pub created: Timestamp,
    /// Whether the last attempt failed for a reason outside the address's control, so it did not
    /// count.
    #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The route whose peer could not be reached in the last attempt, if the job only waits for
    /// that peer.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub dead_route: Option<String>,
    /// The span of the last attempt (W3C Trace Context), if it was sent to a collector and the
    /// history does not have that attempt: it was interrupted, or a relay accepted its message.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub last_span: Option<String>,
    /// The last failed attempts, oldest first.
    #[serde(rename = "h")]
    pub history: Vec<FailedAttempt>,
}

/// What becomes of a job after an attempt.
#[derive(Clone, Debug)]
pub enum End {
    /// It waits this long from now, with this record.
    Retry {
        /// The job with the messages that still wait in it.
        job: Job,
        /// The wait.
        delay: Duration,
    },
    /// It ends. But if messages joined meanwhile, it starts again at once with those, and has all
    /// its attempts again.
    Close,
    /// It ends, and the address leaves the active list.
    Retire {
        /// The address's new standing.
        standing: Standing,
        /// The policy row that decides it.
        policy: String,
        /// Whether the host is down.
        host_down: bool,
        /// What shows that the address is dead.
        evidence: Box<Evidence>,
    },
}

/// One failed attempt in the history of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttempt {
    /// The number of the attempt. The platform's own was 0.
    #[serde(rename = "a")]
    pub attempt: u32,
    /// When it was settled.
    #[serde(rename = "t", with = "as_ms")]
    pub at: Timestamp,
    /// The mail system's reply, or the reason why there was none; shortened.
    #[serde(rename = "r")]
    pub reply: String,
    /// The span of the attempt (W3C Trace Context), if it was sent to a collector.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// One message that waits in a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its id, unique within the job. It must be the first field of the line: the scripts look for
    /// duplicates there.
    #[serde(rename = "i")]
    pub id: String,
    /// When its bounce happened.
    #[serde(rename = "b", with = "as_ms")]
    pub bounced_at: Timestamp,
    /// Set if a relay has accepted the message and a bounce may still come. It must follow the two
    /// fields above: the scripts look for it there.
    #[serde(rename = "y", default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Acceptance>,
    /// The envelope sender. `None` is the null reverse-path.
    #[serde(
        rename = "f",
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::address::canonical"
    )]
    pub envelope_from: Option<Address>,
    /// The route that the message is sent by. `None` is the default route.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The kind of mail: newsletter, receipts, …
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// From this instant the message must not be sent.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<ExpiresAt>,
    /// Where its content is. `None` if the platform holds it.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentRef>,
    /// The host that refused the message, if the platform knows it.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub remote_mta: Option<String>,
    /// The trace that the message belongs to (W3C Trace Context).
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Data of the platform, returned in the message's events.
    #[serde(rename = "m", default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// A relay has accepted a message and is responsible for it. The message counts as delivered if no
/// bounce comes in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The number of the attempt, as policy counts attempts. It is 0 if the attempt had delivered
    /// another message before: what fails after that is a new outage.
    #[serde(rename = "a")]
    pub attempt: u32,
    /// When the job was claimed for that attempt. A bounce from before this instant is about an
    /// earlier attempt.
    #[serde(rename = "t", with = "as_ms")]
    pub at: Timestamp,
    /// From this instant the message counts as delivered.
    #[serde(rename = "u", with = "as_ms")]
    pub until: Timestamp,
    /// The serial of the lease of that attempt; 0 if it is not known.
    #[serde(rename = "k", default)]
    pub serial: u64,
    /// The number of the attempt, as events count attempts, if it is another one.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
}

impl Acceptance {
    /// Returns the number of the attempt, as events count attempts.
    pub fn number(&self) -> u32 {
        self.number.unwrap_or(self.attempt)
    }
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

/// The schemes that the URL of content may have. Only workers for tests and in trusted networks
/// read `http`.
pub const CONTENT_SCHEMES: [&str; 5] = ["s3", "gs", "az", "https", "http"];

/// Whether a text is a URL that content may be at: with one of [`CONTENT_SCHEMES`], with a host or
/// bucket and a path, and without user, password, query and fragment, which could be secret.
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

/// Whether content is empty: no bytes, or only white space. A mail has at least a header section
/// (RFC 5322, section 3.6). So intake refuses empty content, and an attempt drops its message.
pub fn is_empty_content(content: &[u8]) -> bool {
    content.trim_ascii().is_empty()
}

impl fmt::Debug for ContentRef {
    /// Shows the size of inline content, but not the content, which is personal data.
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
    /// It is stored under a name that is not a job id.
    #[error("it is stored under a name that is not a job id: {0}")]
    Id(NotAJobId),
    /// Its id is not UTF-8. Read as text, it is a different id, under which the job could not be
    /// settled.
    #[error("its id has bytes that are not UTF-8")]
    NotText,
    /// A line cannot be parsed by this version.
    #[error("line {line} of the record cannot be read: {}", without_addresses(&source.to_string()))]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// The error of serde_json.
        source: serde_json::Error,
    },
    /// A newer version wrote it.
    #[error(
        "the record has layout {0}, but this version reads up to {RECORD_VERSION}; run the newer \
         version"
    )]
    Version(u8),
}

impl Head {
    /// Returns the head of a new job, whose attempt 0 failed with `reply`.
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
            dead_route: None,
            last_span: None,
            history: Vec::with_capacity(1),
        };
        head.record_failed_attempt(0, &reply.to_string(), bounced_at);
        head
    }

    /// Returns the head of a job that starts again with the messages that joined while it ended. It
    /// has all its attempts again.
    #[must_use]
    pub fn renewed(self, now: Timestamp) -> Self {
        Self {
            attempt: 0,
            created: now,
            held: false,
            dead_route: None,
            ..self
        }
    }

    /// Adds a failed attempt to the history, within its limits. An attempt that did not count has
    /// the same number as the next attempt, which then replaces it.
    pub fn record_failed_attempt(&mut self, attempt: u32, reply: &str, at: Timestamp) {
        self.history.pop_if(|last| last.attempt == attempt);
        if self.history.len() >= HISTORY_MAX {
            self.history.remove(0);
        }
        self.history.push(FailedAttempt {
            attempt,
            at,
            reply: shortened(reply, HISTORY_REPLY_CHARS).to_owned(),
            traceparent: None,
        });
    }

    /// Returns the span of the last attempt (W3C Trace Context), if it was sent to a collector.
    pub fn previous_span(&self) -> Option<&str> {
        let in_history = || self.history.last()?.traceparent.as_deref();
        self.last_span.as_deref().or_else(in_history)
    }

    /// Returns the head's line of the record, without a line end.
    pub fn line(&self) -> String {
        to_line(self)
    }
}

impl Message {
    /// Returns the message's line of the record, without a line end.
    pub fn line(&self) -> String {
        to_line(self)
    }

    /// Returns the approximate length of the message's line in bytes: that of the inline content
    /// and the metadata, plus 512.
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

    /// Whether the message has expired at `now` and must not be sent any more.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|ExpiresAt(at)| at <= now)
    }
}

impl Job {
    /// Returns the record: the head's line, then one line per message.
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

/// Returns the record of a job with one message.
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

    /// Scripts and other versions read this form, so a change of it is a change of the layout.
    #[test]
    fn a_record_has_the_form_that_the_scripts_rely_on() {
        let mut job = job();
        let at = Timestamp::from_ms(1_763_716_200_000);
        job.head.created = at;
        job.head.history.truncate(1);
        job.head.history[0].at = at;
        job.messages.truncate(1);
        let message = &mut job.messages[0];
        message.id = "<a\"1@example.org>".to_owned();
        message.bounced_at = at;
        message.accepted = Some(Acceptance {
            attempt: 2,
            at,
            until: at,
            serial: 7,
            number: None,
        });
        let record = job.record();
        let (head, line) = record.split_once('\n').unwrap();
        assert!(
            line.starts_with(
                "{\"i\":\"<a\\\"1@example.org>\",\"b\":1763716200000,\
                 \"y\":{\"a\":2,\"t\":1763716200000,\"u\":1763716200000,\"k\":7}"
            ),
            "{line}"
        );
        let end = ",\"h\":[{\"a\":0,\"t\":1763716200000,\"r\":\"";
        assert!(
            head.starts_with("{\"v\":1,\"d\":\"example.com\",\"a\":"),
            "{head}"
        );
        assert!(
            head.contains("\"c\":1763716200000") && head.contains(end),
            "{head}"
        );
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let job = job();
        let record = job.record();
        assert_eq!(
            record.lines().count(),
            3,
            "one line each, even if the texts contain line ends"
        );
        assert_eq!(Job::from_record(job.id.clone(), &record).unwrap(), job);
    }

    #[test]
    fn a_record_that_is_broken_or_of_a_newer_layout_is_rejected() {
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
            head.record_failed_attempt(attempt, &"é".repeat(1_000), head.created);
        }
        assert_eq!(head.history.len(), HISTORY_MAX);
        assert_eq!(head.history.last().unwrap().attempt, 99);
        assert_eq!(
            head.history.last().unwrap().reply.chars().count(),
            HISTORY_REPLY_CHARS
        );
    }
}
