//! A client of `/v1/events`. It follows the stream through all faults, resumes after the last
//! position that it saw, and never starts again from the beginning.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use domain::clock::Timestamp;
use domain::event::EventKind;
use futures::StreamExt;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::record::{Event, Ms};
use crate::world::World;

/// How long a stream may be silent before the client asks another scheduler.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long the client waits before it connects again.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest message of a stream.
const MESSAGE_MAX: usize = 4 << 20;

/// Follows the stream until the run is closing.
pub(crate) async fn follow(world: Arc<World>) {
    let mut place = "start".to_owned();
    for turn in 0.. {
        let next = turn % world.schedulers.len();
        let seen = |id: String| world.recorder.followed.push(id);
        let reading = read_on(&world, next, &mut place, SILENCE_MAX, |event| {
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            seen(id);
        });
        if world.closing.run_until_cancelled(reading).await.is_none() {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Reads the journal from its start until it has `enough` events, or until `limit` has passed.
/// Connects anew whenever the stream ends or is silent.
pub(crate) async fn read_all(
    world: &World,
    enough: usize,
    limit: Duration,
) -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut place = "start".to_owned();
    let reading = async {
        for turn in 0.. {
            let scheduler = turn % world.schedulers.len();
            let read = |event: Value| events.push(event);
            let _ = read_on(world, scheduler, &mut place, Duration::from_secs(2), read).await;
            if events.len() >= enough {
                return;
            }
        }
    };
    // The verdict reports the events that have not come by then.
    let _ = timeout(limit, reading).await;
    events.iter().map(read_event).collect()
}

/// Reads the events after `place` until the stream ends or is silent. Updates `place` with each
/// event.
async fn read_on(
    world: &World,
    scheduler: usize,
    place: &mut String,
    silence_max: Duration,
    mut see: impl FnMut(Value),
) -> anyhow::Result<()> {
    let url = format!(
        "http://{}/v1/events?after={place}",
        world.schedulers[scheduler].http
    );
    let response = timeout(SILENCE_MAX, world.http.get(url).send())
        .await??
        .error_for_status()?;
    let mut stream = response.bytes_stream();
    let mut buffer = Vec::new();
    loop {
        let Some(bytes) = timeout(silence_max, stream.next()).await? else {
            return Ok(());
        };
        buffer.extend_from_slice(&bytes?);
        while let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
            let message: Vec<u8> = buffer.drain(..end + 2).collect();
            if let Some((id, event)) = read_message(&String::from_utf8_lossy(&message))? {
                see(event);
                *place = id;
            }
        }
        if buffer.len() > MESSAGE_MAX {
            bail!("a message of the stream does not end");
        }
    }
}

/// The position and the event of one message. `None` if the message only keeps the connection
/// alive.
fn read_message(message: &str) -> anyhow::Result<Option<(String, Value)>> {
    let field = |name: &str| {
        message
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let (Some(id), Some(data)) = (field("id:"), field("data:")) else {
        return Ok(None);
    };
    Ok(Some((
        id.to_owned(),
        serde_json::from_str(data).context("an event is not JSON")?,
    )))
}

/// The parts of an event that the verdict needs.
pub(crate) fn read_event(wire: &Value) -> anyhow::Result<Event> {
    let text = |key: &str| wire[key].as_str().map(str::to_owned);
    let instant =
        |key: &str| -> Option<Ms> { Timestamp::parse(wire[key].as_str()?).map(Timestamp::ms) };
    let kind = wire["type"].as_str().and_then(EventKind::parse);
    Ok(Event {
        id: text("id").context("an event has no id")?,
        kind: kind.with_context(|| format!("the type of an event is unknown: {}", wire["type"]))?,
        at: instant("time").context("an event has no time")?,
        job: text("job").unwrap_or_default(),
        message: text("message"),
        attempt: wire["attempt"]
            .as_u64()
            .and_then(|attempt| attempt.try_into().ok()),
        reason: text("reason"),
        policy: text("policy"),
        late_ms: wire["late_ms"].as_i64(),
        due: instant("due"),
        standing: serde_json::from_value(wire["standing"].clone()).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_the_stream_is_an_event_with_its_position() {
        let message = "id: 5-0,6-1\nevent: JobScheduled\ndata: {\"type\":\"JobScheduled\",\
                       \"id\":\"0:5-0:0\",\
                       \"time\":\"1970-01-01T00:00:01.000Z\",\
                       \"due\":\"1970-01-01T00:00:02.000Z\",\"job\":\"a/b@c\"}\n\n";
        let (place, wire) = read_message(message).unwrap().unwrap();
        assert_eq!(place, "5-0,6-1");
        let event = read_event(&wire).unwrap();
        assert_eq!(
            (event.at, event.due, event.entry()),
            (1_000, Some(2_000), "0:5-0")
        );
        assert_eq!(read_message(":\n\n").unwrap(), None);
    }
}
