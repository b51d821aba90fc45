//! A real worker in the background, on the store of a world.

use std::sync::Arc;
use std::time::Duration;

use config::model::Config;
use policy::table::Table;
use senders::sender::Sender;
use store::handle::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::content::Contents;
use worker::routes::Routes;
use worker::run::Worker;

use super::{LEASE, MS, World};

/// A worker that runs in the background.
pub struct RunningWorker {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl World {
    /// Starts a worker in the background, after `change` was applied to its settings. It polls for
    /// jobs all the time.
    pub fn start_worker(&self, change: impl FnOnce(&mut config::model::Worker)) -> RunningWorker {
        self.start_worker_on(&self.store, change)
    }

    /// Like [`Self::start_worker`], but with this connection to the store.
    pub fn start_worker_on(
        &self,
        store: &Store,
        change: impl FnOnce(&mut config::model::Worker),
    ) -> RunningWorker {
        let mut settings = Config::embedded().worker;
        settings.lease = LEASE;
        settings.poll_max = 2 * MS;
        // In most tests all destinations are new.
        settings.unproven_share = 1.0;
        change(&mut settings);
        let worker = Worker::new(
            store.clone(),
            routes(self.mail.clone(), self.settings.confirm),
            contents(),
            Table::embedded(),
            settings,
        );
        let stop = CancellationToken::new();
        RunningWorker {
            running: tokio::spawn(worker.run(stop.clone())),
            stop,
        }
    }
}

impl RunningWorker {
    /// Asks it to stop, like SIGTERM.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends its loop and its heartbeat at once, like SIGKILL.
    pub fn kill(&self) {
        self.running.abort();
    }

    /// Asks it to stop, and waits until it has stopped.
    pub async fn stopped(self) {
        self.stop();
        self.running.await.expect("a worker does not panic");
    }
}

pub(super) fn routes(sender: Arc<dyn Sender>, confirm: Duration) -> Routes {
    Routes::new("default").with_confirm("default", sender, confirm)
}

pub(super) fn contents() -> Contents {
    Contents::new(Vec::new())
}
