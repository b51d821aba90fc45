//! The scheduler as a whole: the API and upkeep, until it is stopped.

use std::io;
use std::sync::Arc;

use shared::config::Config;
use shared::policy::Table;
use shared::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, Limits};
use crate::intake::accept::Accept;
use crate::upkeep::Upkeep;

/// One scheduler. Any number of replicas work on one store.
#[derive(Debug)]
pub struct Scheduler {
    store: Store,
    table: Arc<Table>,
    limits: Limits,
    upkeep: Upkeep,
}

impl Scheduler {
    /// A scheduler on this store.
    ///
    /// # Errors
    /// Where an upkeep task's cron expression cannot be read; the text names the key.
    pub fn new(store: Store, table: Arc<Table>, config: &Config) -> Result<Self, String> {
        let upkeep = Upkeep::from_config(store.clone(), config)?;
        Ok(Self { store, table, limits: Limits::from_config(config), upkeep })
    }

    /// Serves on `listener` until `stop` is cancelled, then lets requests under way end.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let accept = Accept::new(self.store.clone(), self.table);
        let api = Api { store: self.store, accept, limits: self.limits, stop: stop.clone() };
        let upkeep = tokio::spawn(self.upkeep.run(stop.clone()));
        axum::serve(listener, api::router(api)).with_graceful_shutdown(stop.cancelled_owned()).await?;
        upkeep.await.map_err(io::Error::other)
    }
}
