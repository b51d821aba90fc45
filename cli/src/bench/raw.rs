//! What Redis could do at best: pairs of the two operations that no queue of due jobs can be
//! without, one ZADD and one ZREM, in pipelines and with nothing around them. Other modes are put
//! into proportion to it. It speaks RESP itself, so that no client library is measured along with
//! Redis.

use std::io;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::rig::{BATCH, Cost, Random, Rig};
use super::{Figures, figures};

/// Pairs that other modes measure beside their own figures.
pub(crate) const PAIRS: usize = 100_000;

/// How many members stay in the set all the time, as jobs that wait do.
const STANDING: usize = 100_000;

/// ZADD and ZREM of `pairs` random members, in pipelines of 500 each.
pub(crate) async fn raw(pairs: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let cost = pairs_on(&rig, pairs).await?;
    rig.end().await;
    Ok(figures([
        ("pairs per second", cost.rate(pairs)),
        ("redis us per pair", Cost::each(cost.redis_cpu, pairs)),
    ]))
}

/// The same on the server of another mode, which is left as it was.
pub(crate) async fn pairs_on(rig: &Rig, pairs: usize) -> Result<Cost> {
    let mut stream = UnixStream::connect(rig.socket())
        .await
        .context("cannot reach the bench's own redis")?;
    let mut random = Random::new(7);
    for _ in (0..STANDING).step_by(BATCH) {
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

/// Scores are instants in ms, at no order.
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

/// Sends commands, each of which is answered by one line, and reads the lines.
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
