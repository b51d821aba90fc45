//! Generates the bounces that are posted. Each bounce has a different address, a reply like those
//! of real mail systems, and the fields that platforms usually send.

use std::fmt::Write;
use std::ops::Range;

use domain::clock::{Clock, Timestamp};
use system::clock::SystemClock;

use crate::bench::rig::{Random, Zipf};

/// Replies of mail systems. Half of them have a part that is different in each bounce: `{n}`.
const REPLIES: [&str; 8] = [
    "452 4.3.1 Insufficient system storage",
    "452 4.2.2 The recipient's mailbox is over quota",
    "451 4.3.2 System not accepting network messages",
    "450 4.2.1 The account is disabled for now",
    "451 4.3.0 <user{n}@mail.example>: Temporary lookup failure, session {n}",
    "450-4.2.1 The user you are trying to contact is receiving mail too quickly.\\r\\n\
     450 4.2.1 {n} - gsmtp",
    "421 4.7.0 [192.0.2.14] Our system has detected an unusual rate of mail, {n}",
    "451 4.7.1 Greylisting in action, please come back in 00:05:00 (queue id {n})",
];

/// Generates bounces of many addresses. Except for their time, they are the same in every run.
pub(super) struct Bodies {
    domains: Zipf,
    occurred_at: Timestamp,
}

impl Bodies {
    /// Returns a generator of bounces at `domains` domains. The bounces report the present time as
    /// the time at which they happened.
    pub(super) fn new(domains: usize) -> Self {
        Self {
            domains: Zipf::new(domains),
            occurred_at: SystemClock.now(),
        }
    }

    /// Returns the bounces with these numbers as NDJSON. Each number has a different address.
    pub(super) fn body(&self, numbers: Range<usize>) -> Vec<u8> {
        let occurred_at = self.occurred_at;
        let mut random = Random::new(0x1234_5678 + numbers.start as u64);
        let mut body = String::with_capacity(numbers.len() * 420);
        for n in numbers {
            let domain = self.domains.pick(random.next());
            let reply = REPLIES[(random.next() * REPLIES.len() as f64) as usize]
                .replace("{n}", &format!("{n:09x}"));
            let _ = writeln!(
                body,
                concat!(
                    r#"{{"recipient":"firstname.lastname{n}@d{domain}.example","#,
                    r#""reply":"{reply}","message_id":"<c42.{n}@news.example.org>","#,
                    r#""occurred_at":"{occurred_at}","account":"acme","stream":"newsletter","#,
                    r#""envelope_from":"bounce@news.example.org","#,
                    r#""remote_mta":"mx1.d{domain}.example","metadata":{{"campaign":"c42"}}}}"#
                ),
                n = n,
                domain = domain,
                reply = reply,
                occurred_at = occurred_at,
            );
        }
        body.into_bytes()
    }
}
