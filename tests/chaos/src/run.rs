//! One run: starts everything, sends the inputs and carries out the faults, waits until all jobs
//! have ended, collects the records, and judges them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep, timeout};

use crate::fault::LEASE_MS;
use crate::judge::judge;
use crate::net::Isolation;
use crate::options::Options;
use crate::plan::Plan;
use crate::record::{Run, now_ms};
use crate::world::World;
use crate::{breaking, collect, follow, input, report, upkeep};

/// How long the fleet may take to be ready.
const READY_MAX: Duration = Duration::from_secs(60);

/// For how long no work may wait before the run counts as drained. It is longer than a lease, so
/// that jobs of leases that are never settled come back within it.
const QUIET: Duration = Duration::from_millis(LEASE_MS.unsigned_abs() + 2_000);

/// How long the client of the stream may take to see the remaining events.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(15);

/// Runs everything. Returns whether nothing was wrong.
pub(crate) async fn run(
    options: &Options,
    isolation: Isolation,
    program: &Path,
) -> anyhow::Result<bool> {
    let seed = options
        .seed
        .unwrap_or_else(|| now_ms().unsigned_abs() % 1_000_000);
    let plan = Plan::draw(seed, options);
    let shape = options.shape.name();
    println!(
        "chaos: seed {seed}, shape {shape}: {} bounces and {} faults in {} minutes",
        plan.bounces(),
        plan.faults.len(),
        options.minutes
    );
    if let Isolation::None(why) = &isolation {
        println!("chaos: no separate namespaces ({why}): some faults are left out");
    }
    let folder = make_folder(options, seed)?;
    let sets_clock = plan.faults.iter().any(|fault| fault.kind.sets_clock());
    let (world, reports) =
        World::start(options, seed, isolation, &folder, program, sets_clock).await?;
    until_ready(&world).await?;
    let background = [
        tokio::spawn(follow::follow(world.clone())),
        tokio::spawn(upkeep::check_repeatedly(world.clone())),
        tokio::spawn(input::report_all(world.clone(), reports)),
    ];
    let inputs = {
        let world = world.clone();
        tokio::spawn(async move { input::send_all(&world, plan.inputs).await })
    };
    let skipped = breaking::break_all(&world, &plan.faults).await;
    let calm = Instant::now();
    let deadline = calm + Duration::from_secs(options.drain);
    // An input that is not answered by the deadline is given up when the run is closing.
    let _ = tokio::time::timeout_at(deadline, inputs).await;
    // If servers have lost the release of a hold, the hold is there again.
    let _ = tokio::time::timeout_at(deadline, input::release_all(&world)).await;
    drain(&world, deadline).await;
    let drained_ms = calm.elapsed().as_millis().try_into().unwrap_or_default();
    let run = Run {
        seed,
        shape: options.shape,
        minutes: options.minutes,
    };
    caught_up(&world).await;
    world.closing.cancel();
    for task in background {
        task.await.context("a task of the run has panicked")?;
    }
    let evidence = collect::collect(&world, run, drained_ms).await?;
    evidence.write(&folder)?;
    world.store.keep_logs(&folder)?;
    let verdict = judge(&evidence);
    report::print(&evidence, &verdict, options.table);
    if skipped > 0 {
        println!("chaos: {skipped} faults were skipped, because their targets already had one");
    }
    for (what, why) in world.left_out() {
        println!("chaos: left out: {what}, because {why}");
    }
    let is_clean = verdict.violations.is_empty();
    if is_clean && !options.keep {
        if let Err(error) = remove_folder(&world, &folder).await {
            eprintln!(
                "chaos: {error:#}; remove the folder yourself, it contains private keys of the run"
            );
        }
        println!("chaos: seed {seed}, shape {shape}: nothing was wrong");
    } else {
        println!(
            "chaos: seed {seed}, shape {shape}: the records are in {}",
            folder.display()
        );
    }
    Ok(is_clean)
}

fn make_folder(options: &Options, seed: u64) -> anyhow::Result<PathBuf> {
    let name = format!(
        "redeliver-chaos-{}-{seed}-{}",
        options.shape.name(),
        now_ms()
    );
    let folder = options
        .folder
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(name));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(fs::canonicalize(&folder)?)
}

/// Removes the folder of a run whose processes have ended.
async fn remove_folder(world: &World, folder: &Path) -> anyhow::Result<()> {
    for process in world.processes() {
        process.unmount().await?;
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

async fn until_ready(world: &World) -> anyhow::Result<()> {
    let ready = async {
        for scheduler in &world.schedulers {
            let url = format!("http://{}/readyz", scheduler.http);
            while !world
                .http
                .get(&url)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    timeout(READY_MAX, ready)
        .await
        .context("the schedulers are not ready after a minute; their logs are in the folder")
}

/// Waits until no work is left and none has come back for [`QUIET`].
async fn drain(world: &Arc<World>, deadline: Instant) {
    let mut quiet_since = None;
    while Instant::now() < deadline {
        for process in world.processes() {
            breaking::restart_if_ended(world, process).await;
        }
        let is_quiet = world.store.waiting().await == Some(0);
        let since = *quiet_since.get_or_insert_with(Instant::now);
        if !is_quiet {
            quiet_since = None;
        } else if since.elapsed() >= QUIET {
            return;
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Waits until the client that follows the stream has seen all events.
async fn caught_up(world: &World) {
    let deadline = Instant::now() + CAUGHT_UP_MAX;
    while Instant::now() < deadline {
        let Some(stored) = collect::stored_ids(world).await else {
            continue;
        };
        let followed: std::collections::HashSet<String> =
            world.recorder.followed.all().into_iter().collect();
        if stored.iter().all(|id| followed.contains(id)) {
            return;
        }
        sleep(Duration::from_millis(250)).await;
    }
}
