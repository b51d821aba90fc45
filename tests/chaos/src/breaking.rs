//! Faults as they happen: each befalls its target in a task of its own, is undone in the end, and
//! is written down.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use harness::proxy::Fault as LinkFault;
use harness::random::Random;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::fault::Kind;
use crate::fleet::Process;
use crate::net::{cut_connections, limit_descriptors};
use crate::plan::{NextFault, ROUTES};
use crate::record::{Ended, Fault, Ms, now_ms};
use crate::resolver::{BROKEN, Mood};
use crate::world::World;

/// How late a slow answer comes. Less than what a process waits for, so that it is no excuse for
/// anything.
const SLOW: Duration = Duration::from_millis(400);

/// How long a replaced server's clients may need to find the new one, at most.
const REPLACED_MS: Ms = 8_000;

/// How long clients of one server need to find it again.
const RESTARTED_MS: Ms = 3_000;

/// How long servers may take to begin a failover that they have agreed on. It is carried out also
/// if the master goes on meanwhile.
const AGREED: Duration = Duration::from_secs(3);

/// How long before its loss a write may be missing at the replica.
const LAG_MS: Ms = 1_000;

/// What can have one fault at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Process(usize),
    Servers,
    Network,
    Resolver,
}

/// What has a fault now.
type Busy = Arc<Mutex<HashSet<Place>>>;

/// Lets all these faults happen, one after the other, and waits until the last one is over. Tells
/// how many did not happen because their target had one already.
pub(crate) async fn break_all(world: &Arc<World>, faults: &[NextFault]) -> usize {
    let busy = Busy::default();
    let (mut strikes, mut skipped) = (JoinSet::new(), 0);
    for fault in faults {
        sleep(fault.after).await;
        revive(world, &busy).await;
        let place = place_of(world, fault);
        if !busy.lock().expect("no strike panics with it").insert(place) {
            skipped += 1;
            continue;
        }
        let (world, busy, fault) = (world.clone(), busy.clone(), *fault);
        strikes.spawn(async move {
            if let Err(error) = strike(&world, &fault).await {
                // The target may have had enough already; what it did is judged by its own records.
                eprintln!(
                    "chaos: a fault ({}) did not come off: {error:#}",
                    fault.kind.name()
                );
            }
            busy.lock()
                .expect("no strike panics with it")
                .remove(&place);
        });
        while strikes.try_join_next().is_some() {}
    }
    while strikes.join_next().await.is_some() {}
    skipped
}

/// Starts processes again that have ended by themselves, and writes that down.
async fn revive(world: &World, busy: &Busy) {
    for (number, process) in world.processes().enumerate() {
        let is_busy = busy
            .lock()
            .expect("no strike panics with it")
            .contains(&Place::Process(number));
        if !is_busy {
            revive_one(world, process).await;
        }
    }
}

/// Starts a process again if it has ended by itself, and writes that down.
pub(crate) async fn revive_one(world: &World, process: &Process) {
    match process.revive().await {
        Ok(Some((life, status))) => {
            let (status, is_success) = (Some(status.to_string()), status.success());
            world.recorder.ended.push(Ended {
                at: now_ms(),
                life,
                was_asked: false,
                age_ms: 0,
                status,
                is_success,
            });
        }
        Ok(None) => {}
        Err(error) => world
            .recorder
            .wrong
            .push(format!("a process cannot be started again: {error:#}")),
    }
}

fn place_of(world: &World, fault: &NextFault) -> Place {
    match fault.kind {
        Kind::NoRoute => Place::Network,
        Kind::Resolver => Place::Resolver,
        Kind::DiskFull => Place::Process(fault.target % world.schedulers.len()),
        kind if kind.is_of_process() => Place::Process(fault.target % world.processes().count()),
        _ => Place::Servers,
    }
}

async fn strike(world: &World, fault: &NextFault) -> anyhow::Result<()> {
    match place_of(world, fault) {
        Place::Process(number) => strike_process(world, world.process(number), fault).await,
        Place::Servers => strike_servers(world, fault).await,
        Place::Network => strike_network(world, fault).await,
        Place::Resolver => {
            let at = now_ms();
            world.resolver.becomes(BROKEN[fault.target % BROKEN.len()]);
            sleep(fault.lasts).await;
            world.resolver.becomes(Mood::Helpful);
            note(world, fault.kind, at, None, None);
            Ok(())
        }
    }
}

fn note(world: &World, kind: Kind, at: Ms, life: Option<String>, lost_since: Option<Ms>) {
    world.recorder.faults.push(Fault {
        at,
        until: now_ms(),
        kind,
        life,
        lost_since,
    });
}

async fn strike_process(world: &World, process: &Process, fault: &NextFault) -> anyhow::Result<()> {
    let (at, life) = (now_ms(), process.life().await);
    match fault.kind {
        Kind::Kill => process.kill().await?,
        Kind::Terminate => {
            let (status, age_ms) = process.terminate().await?;
            world.recorder.ended.push(Ended {
                at,
                life: life.clone(),
                was_asked: true,
                age_ms,
                is_success: status.is_some_and(|status| status.success()),
                status: status.map(|status| status.to_string()),
            });
        }
        Kind::Freeze => {
            process.signal("-STOP").await?;
            sleep(fault.lasts).await;
            process.signal("-CONT").await?;
        }
        Kind::DiskFull => {
            if !world.network.is_own() {
                world.leave_out("disk-full", "there is no mount namespace of its own");
                return Ok(());
            }
            fill_disk(process)?;
            sleep(fault.lasts).await;
            fs::remove_file(process.temporary().join(FILLER))
                .context("the disk cannot be emptied")?;
        }
        Kind::NoDescriptors => {
            let id = process
                .process_id()
                .await
                .context("the process has ended")?;
            limit_descriptors(id, Some(fault.target % 3))?;
            sleep(fault.lasts).await;
            limit_descriptors(id, None)?;
        }
        _ => strike_link(world, process, fault).await?,
    }
    note(world, fault.kind, at, Some(life), None);
    Ok(())
}

const FILLER: &str = "filler";

fn fill_disk(process: &Process) -> anyhow::Result<()> {
    let mut file =
        File::create(process.temporary().join(FILLER)).context("the disk cannot be filled")?;
    // The write that fails is the one that fills it.
    while file.write_all(&[0; 4_096]).is_ok() {}
    Ok(())
}

async fn strike_link(world: &World, process: &Process, fault: &NextFault) -> anyhow::Result<()> {
    let Some(link) = &process.link else {
        if !world.network.is_own() {
            world.leave_out("cut", "there is no network namespace of its own");
            return Ok(());
        }
        let id = process
            .process_id()
            .await
            .context("the process has ended")?;
        return cut_connections(id, &world.store.ports());
    };
    match fault.kind {
        Kind::Cut => {
            link.cut();
            return Ok(());
        }
        Kind::Slow => link.chance(|_| Some(LinkFault::Late(SLOW))),
        Kind::Silent => link.fall_silent(),
        _ => {
            let mut random = Random::from_seed(world.seed ^ fault.target as u64);
            let torn = [
                LinkFault::Unheard,
                LinkFault::Unanswered,
                LinkFault::Torn,
                LinkFault::Hung,
            ];
            link.chance(move |_| (random.below(8) == 0).then(|| random.of(&torn)));
        }
    }
    sleep(fault.lasts).await;
    link.chance(|_| None);
    link.let_through();
    // What hung or was late would hang for good.
    link.cut();
    Ok(())
}

async fn strike_network(world: &World, fault: &NextFault) -> anyhow::Result<()> {
    if !world.network.is_own() {
        world.leave_out("no-route", "there is no network namespace of its own");
        return Ok(());
    }
    let (at, peer) = (now_ms(), fault.target % ROUTES.len());
    world.network.take_away(peer)?;
    sleep(fault.lasts).await;
    world.network.restore(peer)?;
    note(world, fault.kind, at, None, None);
    Ok(())
}

async fn strike_servers(world: &World, fault: &NextFault) -> anyhow::Result<()> {
    let (store, shape) = (&world.store, world.options.shape);
    if !store.until_covered().await {
        anyhow::bail!("the servers are not whole: a fault more could lose what was confirmed");
    }
    let (at, port) = (now_ms(), store.some_master(fault.target).await?);
    let mut lost_since = fault.kind.may_lose_writes(shape).then_some(at - LAG_MS);
    let mut thawed = None;
    match fault.kind {
        Kind::ServerKill => {
            if shape.can_lose_acknowledged() {
                lost_since = Some(world.last_snapshot());
            }
            store.kill(port);
            sleep(fault.lasts).await;
            store.restart(port).await?;
        }
        Kind::ServerFreeze => {
            store.signal(port, "-STOP");
            sleep(fault.lasts).await;
            store.signal(port, "-CONT");
            thawed = Some(now_ms());
            if !shape.has_links() {
                sleep(AGREED).await;
            }
        }
        Kind::Failover => store.fail_over(fault.target).await?,
        Kind::Full => {
            store.set_full(port, true).await?;
            sleep(fault.lasts).await;
            // Also if another one is the master by now.
            store.set_full(port, false).await?;
        }
        Kind::Flush => store.flush_scripts(port).await?,
        Kind::ClockAhead | Kind::ClockBack => {
            let Some(clock) = store.clock() else {
                return Ok(());
            };
            let is_ahead = fault.kind == Kind::ClockAhead;
            world.recorder.skews.push(clock.step(is_ahead));
            if !is_ahead {
                sleep(fault.lasts).await;
                world.recorder.skews.push(clock.step(true));
            }
        }
        Kind::SlotMove => {
            if let Err(error) = store.move_slot(fault.target).await {
                store.finish_moves().await;
                return Err(error);
            }
        }
        _ => return Ok(()),
    }
    let is_whole = store.until_covered().await;
    if !is_whole {
        world.recorder.wrong.push(format!(
            "chaos: the servers are not whole after {}",
            fault.kind.name()
        ));
    }
    let mut until = now_ms();
    if let Some(thawed) = thawed
        && is_whole
        && store.masters().await.contains(&port)
    {
        // There was no failover, so nothing was lost.
        (until, lost_since) = (thawed, None);
    }
    world.recorder.faults.push(Fault {
        at,
        until,
        kind: fault.kind,
        life: None,
        lost_since,
    });
    Ok(())
}

/// For how long after a fault of servers its consequences may be met.
pub(crate) fn aftermath_ms(is_replicated: bool) -> Ms {
    if is_replicated {
        REPLACED_MS
    } else {
        RESTARTED_MS
    }
}
