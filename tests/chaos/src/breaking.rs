//! Carries out the faults, each in a separate task, and records them. At the end of a fault, what
//! it has broken works again. Only a clock that was set ahead stays ahead.

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
use crate::resolver::{BROKEN, Behavior};
use crate::world::World;

/// How late a slow answer comes. It is less than the time limits of the processes, so a slow answer
/// is no excuse for a repeated attempt.
const SLOW: Duration = Duration::from_millis(400);

/// The longest time that the clients of a replaced server may need to find the new one.
const REPLACED_MS: Ms = 8_000;

/// The longest time that the clients of a single server may need to connect again after its
/// restart.
const RESTARTED_MS: Ms = 3_000;

/// The longest time from when servers agree on a failover until they begin it. They carry it out
/// even if the suspended master continues meanwhile.
const FAILOVER_BEGINS_MAX: Duration = Duration::from_secs(3);

/// How far a replica may be behind its master. If the master is lost, the writes of this time may
/// be lost too.
const LAG_MS: Ms = 1_000;

/// A target that can have one fault at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Target {
    Process(usize),
    Servers,
    Network,
    Resolver,
}

/// The targets that have a fault now.
type Busy = Arc<Mutex<HashSet<Target>>>;

/// Carries out all these faults, one after the other, and waits until the last one is over. Returns
/// how many were skipped because their target already had a fault.
pub(crate) async fn break_all(world: &Arc<World>, faults: &[NextFault]) -> usize {
    let busy = Busy::default();
    let (mut tasks, mut skipped) = (JoinSet::new(), 0);
    for fault in faults {
        sleep(fault.after).await;
        restart_ended(world, &busy).await;
        let target = target_of(world, fault);
        if !busy
            .lock()
            .expect("no task panics while it holds the lock")
            .insert(target)
        {
            skipped += 1;
            continue;
        }
        let (world, busy, fault) = (world.clone(), busy.clone(), *fault);
        tasks.spawn(async move {
            if let Err(error) = carry_out(&world, &fault).await {
                // This is no error of the program: a process may have ended in the meantime, or a
                // replica may be missing.
                eprintln!(
                    "chaos: a fault ({}) could not be carried out: {error:#}",
                    fault.kind.name()
                );
            }
            busy.lock()
                .expect("no task panics while it holds the lock")
                .remove(&target);
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    skipped
}

/// Restarts the processes that have ended by themselves, and records it. Leaves out processes that
/// have a fault now, because a fault may end its process on purpose.
async fn restart_ended(world: &World, busy: &Busy) {
    for (number, process) in world.processes().enumerate() {
        let is_busy = busy
            .lock()
            .expect("no task panics while it holds the lock")
            .contains(&Target::Process(number));
        if !is_busy {
            restart_if_ended(world, process).await;
        }
    }
}

/// Restarts a process if it has ended by itself, and records it.
pub(crate) async fn restart_if_ended(world: &World, process: &Process) {
    match process.restart_if_ended().await {
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

fn target_of(world: &World, fault: &NextFault) -> Target {
    match fault.kind {
        Kind::NoRoute => Target::Network,
        Kind::Resolver => Target::Resolver,
        // The processes are numbered, the schedulers first.
        Kind::DiskFull => Target::Process(fault.target % world.schedulers.len()),
        kind if kind.is_of_process() => Target::Process(fault.target % world.processes().count()),
        _ => Target::Servers,
    }
}

async fn carry_out(world: &World, fault: &NextFault) -> anyhow::Result<()> {
    match target_of(world, fault) {
        Target::Process(number) => break_process(world, world.process(number), fault).await,
        Target::Servers => break_servers(world, fault).await,
        Target::Network => break_network(world, fault).await,
        Target::Resolver => {
            let at = now_ms();
            world
                .resolver
                .set_behavior(BROKEN[fault.target % BROKEN.len()]);
            sleep(fault.lasts).await;
            world.resolver.set_behavior(Behavior::Helpful);
            record_fault(world, fault.kind, at, None, None);
            Ok(())
        }
    }
}

fn record_fault(world: &World, kind: Kind, at: Ms, life: Option<String>, lost_since: Option<Ms>) {
    world.recorder.faults.push(Fault {
        at,
        until: now_ms(),
        kind,
        life,
        lost_since,
    });
}

async fn break_process(world: &World, process: &Process, fault: &NextFault) -> anyhow::Result<()> {
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
                world.leave_out("disk-full", "the run has no separate namespaces");
                return Ok(());
            }
            fill_disk(process)?;
            sleep(fault.lasts).await;
            fs::remove_file(process.temporary().join(FILLER)).context("cannot empty the disk")?;
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
        _ => break_link(world, process, fault).await?,
    }
    record_fault(world, fault.kind, at, Some(life), None);
    Ok(())
}

/// The file that fills the disk.
const FILLER: &str = "filler";

fn fill_disk(process: &Process) -> anyhow::Result<()> {
    let mut file =
        File::create(process.temporary().join(FILLER)).context("cannot fill the disk")?;
    // When a write fails, the disk is full.
    while file.write_all(&[0; 4_096]).is_ok() {}
    Ok(())
}

async fn break_link(world: &World, process: &Process, fault: &NextFault) -> anyhow::Result<()> {
    let Some(link) = &process.link else {
        if !world.network.is_own() {
            world.leave_out("cut", "the run has no separate namespaces");
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
        Kind::Slow => link.choose_faults(|_| Some(LinkFault::Late(SLOW))),
        Kind::Silent => link.fall_silent(),
        _ => {
            let mut random = Random::from_seed(world.seed ^ fault.target as u64);
            let link_faults = [
                LinkFault::RequestLost,
                LinkFault::AnswerLost,
                LinkFault::Torn,
                LinkFault::Hung,
            ];
            link.choose_faults(move |_| (random.below(8) == 0).then(|| random.of(&link_faults)));
        }
    }
    sleep(fault.lasts).await;
    link.choose_faults(|_| None);
    link.let_through();
    // Requests that hang are never answered. Their clients notice it when the connections are cut.
    link.cut();
    Ok(())
}

async fn break_network(world: &World, fault: &NextFault) -> anyhow::Result<()> {
    if !world.network.is_own() {
        world.leave_out("no-route", "the run has no separate namespaces");
        return Ok(());
    }
    let (at, peer) = (now_ms(), fault.target % ROUTES.len());
    world.network.remove_route(peer)?;
    sleep(fault.lasts).await;
    world.network.restore(peer)?;
    record_fault(world, fault.kind, at, None, None);
    Ok(())
}

async fn break_servers(world: &World, fault: &NextFault) -> anyhow::Result<()> {
    let (store, shape) = (&world.store, world.options.shape);
    if !store.until_covered().await {
        anyhow::bail!("a replica is missing: another fault could lose confirmed writes");
    }
    let (at, port) = (now_ms(), store.some_master(fault.target).await?);
    let mut lost_since = fault.kind.may_lose_writes(shape).then_some(at - LAG_MS);
    let mut resumed = None;
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
            resumed = Some(now_ms());
            if !shape.has_links() {
                sleep(FAILOVER_BEGINS_MAX).await;
            }
        }
        Kind::Failover => store.fail_over(fault.target).await?,
        Kind::Full => {
            store.set_full(port, true).await?;
            sleep(fault.lasts).await;
            // This server must accept writes again even if another one is the master by now.
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
    let is_covered = store.until_covered().await;
    if !is_covered {
        world.recorder.wrong.push(format!(
            "chaos: a replica is still missing after {}",
            fault.kind.name()
        ));
    }
    let mut until = now_ms();
    if let Some(resumed) = resumed
        && is_covered
        && store.masters().await.contains(&port)
    {
        // The server is still a master: there was no failover, so no write was lost.
        (until, lost_since) = (resumed, None);
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

/// Returns how long after the end of a fault of a server its consequences may occur.
pub(crate) fn aftermath_ms(is_replicated: bool) -> Ms {
    if is_replicated {
        REPLACED_MS
    } else {
        RESTARTED_MS
    }
}
