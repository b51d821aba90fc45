//! Even under constant random faults, every message ends exactly once and every attempt is counted
//! once.

use std::collections::{BTreeMap, BTreeSet};

use domain::job::JobId;
use harness::bounce::MAINTENANCE;
use harness::mail::outcome;
use harness::random::Random;
use harness::world::HOUR;

use super::*;

const SEEDS: u64 = 3;
const JOBS: usize = 120;

/// Every third job has two messages.
const JOINED: usize = 3;

/// How many of a hundred requests have a fault.
const FAULTS: usize = 9;

/// The faults, with their weights.
const KINDS: [(usize, Fault); 5] = [
    (3, Fault::RequestLost),
    (4, Fault::AnswerLost),
    (2, Fault::Torn),
    (1, Fault::Hung),
    (4, Fault::Late(Duration::from_millis(20))),
];

/// All connections are cut at once each time after this many checks.
const CUT_EVERY: usize = 100;

/// How far the clock moves with each check while jobs are leased. It is enough to end the leases of
/// lost claims, and so little that a settle call may be repeated once or twice before its lease
/// ends.
const STEP: Duration = Duration::from_millis(200);

#[tokio::test]
async fn under_constant_random_faults_every_message_ends_once_and_every_attempt_counts_once() {
    let storms = join_all((0..SEEDS).map(storm)).await;
    println!("faults and lapses: {storms:?}");
    assert!(
        storms.iter().all(|(faults, _)| *faults > 40),
        "there were too few faults: {storms:?}"
    );
    assert!(
        storms.iter().any(|(_, lapses)| *lapses > 0),
        "no lease lapsed: {storms:?}"
    );
}

/// Returns how many faults there were, and how many leases lapsed.
async fn storm(seed: u64) -> (usize, usize) {
    let faulty = Faulty::new().await;
    let (world, proxy) = (&faulty.world, &faulty.proxy);
    let mut random = Random::from_seed(seed);
    proxy.choose_faults(move |name| {
        let may = !matches!(name, "CLIENT" | "UNWATCH" | "PING" | "SCRIPT");
        (may && random.below(100) < FAULTS).then(|| random.weighted(&KINDS))
    });
    // All messages of a job get the same answer, so an attempt succeeds or fails as a whole.
    world.mail.set_script(move |attempt| {
        let recipient = attempt.recipient.as_str().bytes().map(u64::from);
        let seed = recipient.fold(seed + u64::from(attempt.number), |seed, byte| {
            seed.wrapping_mul(31) + byte
        });
        let mut random = Random::from_seed(seed);
        outcome(random.weighted(&[(3, OK), (5, MAINTENANCE), (1, UNKNOWN)]))
    });

    let accepted = post_all(&faulty).await;
    let workers = [0; 2].map(|_| {
        world.start_worker_on(&faulty.store, |settings| {
            (settings.concurrency, settings.batch, settings.share) = (10, 10, 5);
            settings.poll_max = 10 * MS;
        })
    });
    let mut checks = 0;
    eventually("the end of all jobs", async || {
        checks += 1;
        if checks % CUT_EVERY == 0 {
            proxy.cut();
        }
        advance_clock(&faulty).await.then_some(())
    })
    .await;
    for worker in workers {
        worker.stopped().await;
    }
    (
        proxy.happened().len(),
        check_events(&faulty, accepted).await,
    )
}

fn address(n: usize) -> String {
    format!("user{n}@host{}.example", n % 7)
}

/// Posts every bounce in small requests until it is accepted.
async fn post_all(faulty: &Faulty) -> BTreeSet<(String, String)> {
    let http = Http::serve_on(&faulty.store, &Config::embedded()).await;
    let firsts = (0..JOBS).map(|n| (address(n), format!("m{n}")));
    let seconds = (0..JOBS)
        .step_by(JOINED)
        .map(|n| (address(n), format!("n{n}")));
    let messages: Vec<(String, String)> = firsts.chain(seconds).collect();
    for some in messages.chunks(8) {
        let bounces: Vec<Value> = some
            .iter()
            .map(|(to, message)| bounce(to, message, MAINTENANCE))
            .collect();
        let answers = eventually("the bounces to be accepted", async || {
            let response = http.post_json(&Value::Array(bounces.clone())).await;
            (response.status() != 503).then_some(response)
        })
        .await;
        for answer in json(answers).await.as_array().unwrap() {
            assert!(
                ["scheduled", "joined", "duplicate"].contains(&answer["answer"].as_str().unwrap()),
                "{answer}"
            );
        }
    }
    messages.into_iter().collect()
}

/// Moves the clock: by a step while jobs are leased, and to the next due time when all workers are
/// idle. Returns whether no job is left.
async fn advance_clock(faulty: &Faulty) -> bool {
    let world = &faulty.world;
    if !world.store.leased(1).await.unwrap().is_empty() {
        world.clock.advance(STEP);
        return false;
    }
    let reports = join_all((0..JOBS).map(async |n| world.job_if_any(&address(n)).await)).await;
    let jobs: Vec<_> = reports.into_iter().flatten().collect();
    let waiting = jobs.iter().filter_map(|job| job.due).min();
    // If a job is due, a worker is about to claim it.
    if let Some(next) = waiting
        .filter(|due| *due > world.now() && jobs.iter().all(|job| job.leased_until.is_none()))
    {
        world.clock.set(next.plus(HOUR / 4));
    }
    jobs.is_empty()
}

/// Checks the events against the accepted messages. Returns how many leases lapsed.
async fn check_events(faulty: &Faulty, accepted: BTreeSet<(String, String)>) -> usize {
    let world = &faulty.world;
    let (mut ended, mut delivered): (BTreeMap<_, usize>, BTreeSet<_>) = Default::default();
    let (mut attempts, mut lapses): (BTreeMap<String, Vec<u32>>, BTreeMap<String, usize>) =
        Default::default();
    for event in world.events().await {
        // Events of a destination or a shard belong to no job.
        let Ok(job) = JobId::parse(&event.job) else {
            continue;
        };
        let recipient = job.recipient.as_str().to_owned();
        let message = (recipient.clone(), event.message.clone().unwrap_or_default());
        match event.kind {
            EventKind::AttemptDeferred => attempts
                .entry(recipient)
                .or_default()
                .push(event.attempt.unwrap()),
            EventKind::JobLapsed => *lapses.entry(recipient).or_default() += 1,
            kind if kind.is_final() => {
                if kind == EventKind::MessageDelivered {
                    delivered.insert(message.clone());
                }
                *ended.entry(message).or_default() += 1;
            }
            _ => {}
        }
    }
    assert!(
        ended.values().all(|count| *count == 1),
        "each message ends once: {ended:?}"
    );
    assert_eq!(ended.into_keys().collect::<BTreeSet<_>>(), accepted);
    for (recipient, attempts) in attempts {
        let counted: Vec<u32> = (1..).take(attempts.len()).collect();
        assert_eq!(attempts, counted, "the attempts of {recipient}");
    }

    // A message may be tried again in the same attempt only if the lease of its first try had
    // ended.
    let (mut tries, mut repeated): (BTreeSet<_>, BTreeMap<_, BTreeSet<_>>) = Default::default();
    for tried in world.mail.tried() {
        delivered.remove(&(tried.recipient.clone(), tried.message.clone()));
        if !tries.insert((
            tried.recipient.clone(),
            tried.message.clone(),
            tried.attempt,
        )) {
            repeated
                .entry(tried.recipient)
                .or_default()
                .insert(tried.attempt);
        }
    }
    assert!(
        delivered.is_empty(),
        "these count as delivered and were never sent: {delivered:?}"
    );
    for (recipient, attempts) in &repeated {
        assert!(
            attempts.len() <= lapses.get(recipient).copied().unwrap_or_default(),
            "{recipient}: {attempts:?}"
        );
    }
    assert!(
        repeated.len() <= JOBS / 4,
        "too many attempts were repeated: {repeated:?}"
    );
    lapses.values().sum()
}
