//! Measures how fast replies are classified: each is parsed, and its reason and policy row are
//! found. It uses one core and no server. The replies are the examples of the table of reasons.
//! Each gets its own addresses, hosts and ids, so that no two are the same.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use classify::fingerprint::fingerprint;
use classify::reason;
use domain::reply::Reply;
use policy::table::Table;

use super::rig::Random;
use super::{Figures, figures};

/// The length of the longest reply that is read completely, in bytes.
const LONGEST: usize = 16 * 1024;

/// How many replies of that length are read per pattern.
const LONG_REPLIES: usize = 200;

/// Classifies `replies` ordinary replies, and then long ones that are built to be slow to read.
pub(crate) fn classify(replies: usize) -> Result<Figures> {
    let table = Table::embedded();
    let lines = lines(replies.max(1));
    let start = Instant::now();
    for line in &lines {
        let reply = Reply::parse(line);
        black_box(
            table
                .row_for(&reply, reason::recognize(&reply), "", None, "")
                .class(),
        );
    }
    let seconds = start.elapsed().as_secs_f64();

    let start = Instant::now();
    for line in &lines {
        black_box(fingerprint(line));
    }
    let fingerprints = start.elapsed().as_secs_f64();

    let mut slowest: f64 = 0.0;
    for part in [
        "550 5.1.1 ",
        "user mailbox recipient ",
        "4.2.1 ",
        "<<< 550 ",
        " said: 4",
        "too many ",
        "a.b.c.d@",
        "::",
    ] {
        let line = part.repeat(LONGEST / part.len());
        let start = Instant::now();
        for _ in 0..LONG_REPLIES {
            let reply = Reply::parse(&line);
            black_box(table.row(&reply, "", None, ""));
            black_box(fingerprint(&line));
        }
        slowest = slowest.max(start.elapsed().as_secs_f64() / LONG_REPLIES as f64);
    }
    let count = lines.len() as f64;
    let bytes: usize = lines.iter().map(String::len).sum();
    Ok(figures([
        ("replies per second", count / seconds),
        ("bytes per reply", bytes as f64 / count),
        ("fingerprints per second", count / fingerprints),
        ("ms for 16 KiB, at worst", slowest * 1e3),
    ]))
}

/// Returns `count` replies: examples from the table of reasons, with varying users, hosts and ids.
fn lines(count: usize) -> Vec<String> {
    let examples = reason::examples();
    let mut random = Random::new(11);
    let mut number = |below: f64| (random.next() * below) as u64;
    let line = |_| {
        let example = &examples[number(examples.len() as f64) as usize];
        let (user, host, ip, id) = (number(1e6), number(40.0), number(256.0), number(1e12));
        let text = example.replace("jo@example.com", &format!("user{user}@example.com"));
        format!("{text} (host mx{host}.example.com[192.0.2.{ip}], session {id:x}.{user})")
    };
    (0..count).map(line).collect()
}
