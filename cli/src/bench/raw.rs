//! Measures the upper limit of what Redis can do. Every queue of due jobs in Redis needs two
//! operations per job, a ZADD and a ZREM. Here Redis runs only these, in pipelines. Other modes are
//! compared with this limit. The requests are written here in Redis's protocol (RESP), so that the
//! cost of a client library is not measured too.

use std::io;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::rig::{BATCH, Cost, Random, Rig};
use super::{Figures, figures};

/// How many pairs other modes run on their own Redis, for comparison.
pub(crate) const PAIRS: usize = 100_000;

/// How many members stay in the set all the time, like waiting jobs.
const WAITING: usize = 100_000;

/// Measures `pairs` pairs of ZADD and ZREM with random members, in pipelines of 500 pairs.
pub(crate) async fn raw(pairs: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let cost = pairs_on(&rig, pairs).await?;
    rig.end().await;
    Ok(figures([
        ("pairs per second", cost.rate(pairs)),
        ("redis us per pair", Cost::each(cost.redis_cpu, pairs)),
    ]))
}

/// Like [`raw`], but on the Redis of another mode. Afterwards it contains the same data as before.
pub(crate) async fn pairs_on(rig: &Rig, pairs: usize) -> Result<Cost> {
    let mut stream = UnixStream::connect(rig.socket())
        .await
        .context("cannot reach the bench's own redis")?;
    let mut random = Random::new(7);
    for _ in (0..WAITING).step_by(BATCH) {
        let members = members(&mut random);
        call(&mut stream, &zadd(&members), members.len()).await?;
    }
    let start = rig.start().await?;
    for _ in (0..pairs).step_by(BATCH) {
        let members = members(&mut random);
        let mut commands = zadd(&members);
        for member in &members {
            command(&mut commands, &["ZREM", "bench:raw", &member.to_string()]);
        }
        call(&mut stream, &commands, 2 * members.len()).await?;
    }
    let cost = rig.cost(&start).await?;
    let mut clean = Vec::new();
    command(&mut clean, &["DEL", "bench:raw"]);
    call(&mut stream, &clean, 1).await?;
    Ok(cost)
}

fn members(random: &mut Random) -> Vec<u64> {
    (0..BATCH).map(|_| (random.next() * 1e15) as u64).collect()
}

/// Returns the ZADD commands for these members. The scores are instants in ms, in random order.
fn zadd(members: &[u64]) -> Vec<u8> {
    let mut commands = Vec::new();
    for member in members {
        let score = 1_763_716_200_000 + member % 86_400_000;
        command(
            &mut commands,
            &["ZADD", "bench:raw", &score.to_string(), &member.to_string()],
        );
    }
    commands
}

fn command(wire: &mut Vec<u8>, words: &[&str]) {
    wire.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        wire.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// Sends commands, and reads the answers. Each answer is one line.
async fn call(stream: &mut UnixStream, commands: &[u8], mut answers: usize) -> Result<()> {
    let (mut input, mut output) = stream.split();
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while answers > 0 {
            let length = input.read(&mut buffer).await?;
            if length == 0 || buffer[..length].contains(&b'-') {
                bail!("the bench's own redis refused a command");
            }
            answers = answers.saturating_sub(
                buffer[..length]
                    .iter()
                    .filter(|byte| **byte == b'\n')
                    .count(),
            );
        }
        Ok(())
    };
    let write = async {
        output
            .write_all(commands)
            .await
            .map_err(|err: io::Error| err.into())
    };
    tokio::try_join!(write, read).map(|_| ())
}
