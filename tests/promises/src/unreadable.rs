//! An unreadable value in Redis affects only itself, and not the batch, list or stream that
//! contains it.

use std::time::Duration;

use domain::account::Accounts;
use domain::destination::Destination;
use domain::event::EventKind;
use domain::standing::Standing;
use harness::bounce::{FULL, FULL_FOR_GOOD, OK, UNKNOWN, bounce};
use harness::proxy::{Fault, RedisProxy};
use harness::redis;
use harness::wait::eventually;
use harness::world::{DAY, SHARDS, World, id};
use scheduler::upkeep::Task;
use scheduler::upkeep::reinstate::Reinstate;
use scheduler::upkeep::repair::Repair;
use serde_json::json;
use store::entry_id::EntryId;
use store::keys::Keys;

use crate::stream::{add, length, reader, reader_on};

const JO: &str = "jo@example.com";
const DESTINATION: &str = "example.com";

/// Runs Lua in Redis, to write bytes that are not text.
async fn by_hand(script: &str) {
    redis::ask(&redis::url(), &["EVAL", script, "0"]).await;
}

fn key(world: &World, name: &str) -> String {
    let shards = world.store.shards();
    format!(
        "{}{name}",
        Keys::new(&world.prefix, shards)
            .shard(Destination::named(DESTINATION).shard(shards))
            .prefix
    )
}

/// Fields of entries that are not bounces, in the notation of Lua.
const ENTRIES: [&str; 7] = [
    r"'\255', 'x'",
    r"'recipient', '\255\254', 'reply', '452 4.3.1 full'",
    r"'bounce', '\255'",
    r"'', ''",
    r"'content', '\255', 'recipient', 'sam@example.com', 'reply', '452 4.3.1 full'",
    r"'message_id', 'c\255', 'recipient', 'sam@example.com', 'reply', '452 4.3.1 full'",
    r"'metadata', '{', 'recipient', 'sam@example.com', 'reply', '452 4.3.1 full'",
];

/// Adds more unreadable entries than a reader reads at once. Returns how many.
async fn add_unreadable_entries(world: &World) -> usize {
    const EACH: usize = 20;
    for fields in ENTRIES {
        by_hand(&format!(
            "for n = 1, {EACH} do redis.call('XADD', '{}:intake', '*', {fields}) end",
            world.prefix
        ))
        .await;
    }
    EACH * ENTRIES.len()
}

async fn only_the_readable_entry_is_accepted(world: &World, bad: usize) {
    eventually("the job", async || world.job_if_any(JO).await).await;
    eventually("an empty stream", async || {
        (length(world, "intake").await == 0).then_some(())
    })
    .await;
    assert_eq!(length(world, "intake:aside").await, bad, "no entry is lost");
    assert_eq!(world.events_of(EventKind::IntakeRefused).await.len(), bad);
    let kept = format!("{}:intake:aside", world.prefix);
    let first = r"local fields = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][2]
        assert(fields[#fields - 1] == '\255', 'the bytes of the entry are unchanged')";
    redis::ask(&redis::url(), &["EVAL", first, "1", &kept]).await;
}

#[tokio::test]
async fn unreadable_entries_of_the_intake_stream_are_put_aside_and_delay_no_other() {
    let world = World::new().await;
    let bad = add_unreadable_entries(&world).await;
    add(&world, &["bounce", &bounce(JO, "m1", FULL).to_string()]).await;
    let _reader = reader(&world, Duration::from_secs(30));
    only_the_readable_entry_is_accepted(&world, bad).await;
}

#[tokio::test]
async fn unreadable_entries_of_a_dead_reader_are_put_aside_too() {
    let world = World::new().await;
    world.store.open_intake().await.unwrap();
    let bad = add_unreadable_entries(&world).await;
    let intake = format!("{}:intake", world.prefix);
    by_hand(&format!(
        r"redis.call('XREADGROUP', 'GROUP', 'schedulers', '\255', 'STREAMS', '{intake}', '>')"
    ))
    .await;
    add(&world, &["bounce", &bounce(JO, "m1", FULL).to_string()]).await;
    let _reader = reader(&world, Duration::from_millis(20));
    only_the_readable_entry_is_accepted(&world, bad).await;
}

#[tokio::test]
async fn failed_reads_of_new_entries_do_not_delay_takeovers_and_failed_takeovers_delay_no_reads() {
    for broken in ["XPENDING", "XREADGROUP"] {
        let world = World::new().await;
        world.store.open_intake().await.unwrap();
        add(&world, &["bounce", &bounce(JO, "old", FULL).to_string()]).await;
        world
            .store
            .read_intake("one that dies", 10, Duration::from_millis(1))
            .await
            .unwrap();
        add(
            &world,
            &[
                "bounce",
                &bounce("sam@example.com", "new", FULL).to_string(),
            ],
        )
        .await;
        let proxy = RedisProxy::before(&redis::url());
        proxy.choose_faults(move |request| (request == broken).then_some(Fault::RequestLost));
        let store = world.store_at(&proxy.url(), Duration::from_secs(30)).await;
        let stop = tokio_util::sync::CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        tokio::spawn(
            reader_on(&store, 10)
                .with_idle_limit(Duration::ZERO)
                .run(stop),
        );
        let other = if broken == "XPENDING" {
            "sam@example.com"
        } else {
            JO
        };
        eventually(
            &format!("the other entry while {broken} fails"),
            async || world.job_if_any(other).await,
        )
        .await;
    }
}

#[tokio::test]
async fn an_unreadable_entry_of_the_journal_does_not_end_any_event_stream() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    let journal = key(&world, "journal");
    for fields in [
        r"'\255', 'x'",
        r"'t', '\255', 'e', '[]'",
        r"'t', '1', 'e', '\255'",
        r"'t', '1', 'e', '['",
    ] {
        by_hand(&format!("redis.call('XADD', '{journal}', '*', {fields})")).await;
    }
    world.post_bounce(bounce(JO, "m2", FULL)).await;
    let kinds: Vec<EventKind> = world
        .events()
        .await
        .into_iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(kinds, [EventKind::JobScheduled, EventKind::MessageJoined]);
    let start = vec![EntryId::default(); usize::from(SHARDS)];
    let entries: usize = world
        .store
        .read_journal(&start, 100)
        .await
        .unwrap()
        .iter()
        .map(Vec::len)
        .sum();
    assert_eq!(entries, 6, "readers continue after the unreadable entries");
}

#[tokio::test]
async fn an_unreadable_standing_counts_as_suppressed_and_affects_no_other_address() {
    const BAD: &str = "bad@example.com";
    let world = World::new().await;
    world
        .post_bounce(bounce("gone@example.com", "m1", UNKNOWN))
        .await;
    for json in [r"\255", "{", "[]", r#"{"n":1}"#] {
        by_hand(&format!(
            "redis.call('HSET', '{}', '{}', '{json}')",
            key(&world, "standing"),
            id(BAD).key()
        ))
        .await;
        let ids = [id(BAD), id("gone@example.com"), id(JO)];
        let standings = world.store.standings(&ids).await.unwrap();
        let standings: Vec<_> = standings
            .into_iter()
            .map(|record| record.map(|record| record.standing))
            .collect();
        assert_eq!(
            standings,
            [Some(Standing::Suppressed), Some(Standing::Inactive), None],
            "{json}"
        );
        assert_eq!(world.standing(BAD).await, Standing::Suppressed);
        let answer = world.post_bounce(bounce(BAD, "m1", FULL)).await;
        assert!(
            matches!(answer, store::schedule::Answer::Retired(_)),
            "{json}: {answer:?}"
        );
        world
            .report_fact(json!({"type": "delivered", "recipient": BAD}))
            .await;
        world.store.reinstate().await.unwrap();
    }
    world.reinstate(BAD).await;
    assert_eq!(
        world.standing(BAD).await,
        Standing::Active,
        "an operator can reinstate the address"
    );
}

#[tokio::test]
async fn a_broken_shard_does_not_stop_upkeep_of_the_others() {
    let world = World::new().await;
    world.post_bounce(bounce(JO, "m1", FULL)).await;
    world
        .post_bounce(bounce("full@example.com", "m1", FULL_FOR_GOOD))
        .await;
    world.clock.advance(400 * DAY);
    let lost = format!(
        "redis.call('ZREM', '{}', '{}')",
        key(&world, "due:example.com"),
        id(JO).key()
    );
    by_hand(&lost).await;
    let keys = Keys::new(&world.prefix, SHARDS);
    for shard in (0..SHARDS).filter(|shard| *shard != Destination::named(DESTINATION).shard(SHARDS))
    {
        for broken in ["jobs", "unavailable", "agenda"] {
            by_hand(&format!(
                "redis.call('SET', '{}{broken}', 'x')",
                keys.shard(shard).prefix
            ))
            .await;
        }
    }
    assert!(
        Repair.run_once(&world.store).await.is_err()
            && Reinstate.run_once(&world.store).await.is_err()
    );
    assert_eq!(world.events_of(EventKind::JobRecovered).await.len(), 1);
    assert_eq!(world.events_of(EventKind::AddressReinstated).await.len(), 1);
}

#[tokio::test]
async fn unreadable_names_break_no_list_and_no_upkeep_task() {
    let world = World::new().await;
    world.post_and_wait_until_due(bounce(JO, "m1", FULL)).await;
    let bad = |name: &str, command: &str| {
        format!("redis.call({command})").replace("KEY", &key(&world, name))
    };
    for script in [
        bad("agenda", r"'ZADD', 'KEY', 1, '\255'"),
        bad("trouble", r"'ZADD', 'KEY', 1, '\254'"),
        bad("quarantine", r"'ZADD', 'KEY', 1, '\255'"),
        bad("lapses", r"'HSET', 'KEY', '\255', '\255'"),
        bad("jobs", r"'HSET', 'KEY', '\255', '\255'"),
        bad("leases", r"'ZADD', 'KEY', 9e15, '999-00000000000000ff'"),
        bad(
            "leased",
            r"'HSET', 'KEY', '999-00000000000000ff', '1', '999-00000000000000ff ids', '\n\255'",
        ),
        bad("due:example.com", r"'ZADD', 'KEY', 1, '\255'"),
        format!(
            r"redis.call('ZADD', '{}:workers', 9e15, '\255')",
            world.prefix
        ),
    ] {
        by_hand(&script).await;
    }
    let store = &world.store;
    store
        .quarantine(&Accounts::All, None, 10)
        .await
        .expect("quarantine is listed");
    store
        .destinations_after(None, 10)
        .await
        .expect("destinations are listed");
    store.workers().await.expect("workers are listed");
    store.leased(10).await.expect("leases are listed");
    store.limit().await.expect("limits are applied");
    for shard in 0..SHARDS {
        store.repair(shard).await.expect("a shard is repaired");
    }
    let claimed = world.claim_near(DESTINATION, 10).await;
    assert_eq!(claimed.jobs.len(), 1);
    assert!(
        !claimed.corrupt.is_empty(),
        "the unreadable jobs are reported"
    );
    world.attempt_and_settle(claimed.jobs, OK).await;
    assert_eq!(world.events_of(EventKind::MessageDelivered).await.len(), 1);
}
