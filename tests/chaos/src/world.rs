//! The world of a run: servers, processes, peers and records.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use harness::proxy::RedisProxy;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::fleet::{Process, Role, Surroundings, policy_file};
use crate::net::{Isolation, Network};
use crate::options::Options;
use crate::peers::{Book, Peers, Report};
use crate::plan::ROUTES;
use crate::record::{Ms, Recorder};
use crate::resolver::Resolver;
use crate::store::{ServerClock, Store};

/// Everything that runs.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) seed: u64,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) store: Store,
    pub(crate) schedulers: Vec<Process>,
    pub(crate) workers: Vec<Process>,
    pub(crate) network: Network,
    pub(crate) resolver: Resolver,
    pub(crate) http: reqwest::Client,
    /// Cancelled when inputs that are still being repeated must be given up.
    pub(crate) closing: CancellationToken,
    /// The start time of the last completed snapshot.
    snapshot: AtomicI64,
    /// Faults that this run cannot have, and why.
    left_out: Mutex<BTreeMap<&'static str, String>>,
}

impl World {
    /// Starts everything. With `sets_clock`, the server gets a clock that can be set. Also returns
    /// a channel with the reports that relays will send.
    pub(crate) async fn start(
        options: &Options,
        seed: u64,
        isolation: Isolation,
        folder: &Path,
        program: &Path,
        sets_clock: bool,
    ) -> anyhow::Result<(Arc<Self>, UnboundedReceiver<Report>)> {
        let network = Network::prepare(isolation, ROUTES.len())?;
        let recorder = Arc::new(Recorder::default());
        let (to_reporter, reports) = mpsc::unbounded_channel();
        let book = Book::new(options, seed, recorder.clone(), to_reporter);
        let peers = Peers::start(&network, folder, &book).await?;
        let direct = ROUTES
            .iter()
            .position(|route| *route == "direct")
            .context("no route is called `direct`")?;
        let resolver = Resolver::start(network.peer(direct)).await?;
        let policy = policy_file(folder);
        std::fs::write(&policy, config::policy())
            .with_context(|| format!("cannot write {}", policy.display()))?;
        let clock = sets_clock.then(ServerClock::new);
        let no_clock = clock
            .as_ref()
            .and_then(|clock| clock.as_ref().err().copied());
        let store = Store::start(options.shape, clock.and_then(Result::ok)).await?;
        let surroundings = Arc::new(Surroundings {
            program: program.to_owned(),
            folder: folder.to_owned(),
            durability: options.shape.durability(),
            has_direct: peers.has_direct(),
            peers: peers.addresses,
            resolver: resolver.address,
            authority: peers.authority,
            isolated: network.is_own(),
        });
        let schedulers =
            start_all(Role::Scheduler, options.schedulers, &surroundings, &store).await?;
        let workers = start_all(Role::Worker, options.workers, &surroundings, &store).await?;
        let world = Self {
            options: options.clone(),
            seed,
            recorder,
            store,
            schedulers,
            workers,
            network,
            resolver,
            http: harness::http::client(),
            closing: CancellationToken::new(),
            snapshot: AtomicI64::new(0),
            left_out: Mutex::default(),
        };
        if let Some(why) = no_clock {
            world.leave_out("clock-ahead and clock-back", why);
        }
        if !surroundings.has_direct {
            world.leave_out(
                "the route direct",
                "no peer can listen on port 25; mail goes by SMTP to a relay instead",
            );
        }
        Ok((Arc::new(world), reports))
    }

    /// All processes: schedulers first.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.schedulers.iter().chain(&self.workers)
    }

    /// One of the processes. `target` decides which.
    pub(crate) fn process(&self, target: usize) -> &Process {
        let number = target % (self.schedulers.len() + self.workers.len());
        self.schedulers
            .get(number)
            .unwrap_or_else(|| &self.workers[number - self.schedulers.len()])
    }

    /// Records that a kind of fault is left out in this run.
    pub(crate) fn leave_out(&self, what: &'static str, why: &str) {
        let mut left_out = self
            .left_out
            .lock()
            .expect("no task panics while it holds the lock");
        left_out.entry(what).or_insert_with(|| why.to_owned());
    }

    /// The kinds of faults that were left out, and why.
    pub(crate) fn left_out(&self) -> BTreeMap<&'static str, String> {
        self.left_out
            .lock()
            .expect("no task panics while it holds the lock")
            .clone()
    }

    /// The start time of the last completed snapshot.
    pub(crate) fn last_snapshot(&self) -> Ms {
        self.snapshot.load(Ordering::Relaxed)
    }

    /// Records a completed snapshot.
    pub(crate) fn note_snapshot(&self, began: Ms) {
        self.snapshot.store(began, Ordering::Relaxed);
    }
}

async fn start_all(
    role: Role,
    count: usize,
    surroundings: &Arc<Surroundings>,
    store: &Store,
) -> anyhow::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for number in 0..count {
        let link = store
            .shape
            .has_links()
            .then(|| RedisProxy::before(&store.socket_url()));
        let section = store.section(link.as_ref().map(RedisProxy::url).as_deref());
        processes.push(Process::start(role, number, surroundings, section, link).await?);
    }
    Ok(processes)
}
