//! Creates a worker from its configuration alone, for programs with senders of their own.

use std::sync::Arc;

use config::model::Config;
use store::connection::pool::Connections;
use store::error::StoreError;
use store::handle::Store;
use system::clock::SystemClock;
use system::open_files;
use typed_toml::fault::SettingsFaults;

use crate::content::Contents;
use crate::routes::Routes;
use crate::run::Worker;

/// Why a worker cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The policy table has faults.
    #[error("{0}")]
    Settings(#[from] SettingsFaults),
    /// Redis cannot be used.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// A sender or a content store cannot be created with its settings.
    #[error("{0}")]
    NotCreated(String),
}

impl Worker {
    /// Returns a worker with the routes of `config`. `add` may add or replace routes.
    ///
    /// # Errors
    /// If Redis does not answer, or a setting is wrong.
    pub async fn connect(
        config: &Config,
        add: impl FnOnce(Routes) -> Routes,
    ) -> Result<Self, ConnectError> {
        let mut config = config.clone();
        config.fit_open_files(open_files::limit());
        let table = config.policy()?;
        let connections = Connections::new(&config.redis.servers(), config.redis.connections())?;
        let (redis, clock) = (&config.redis, Arc::new(SystemClock));
        let store = Store::open(
            connections,
            &redis.prefix,
            redis.shards,
            config.limits(&table),
            clock,
        )
        .await?;
        let store = config.apply_to(store);
        let routes =
            Routes::from_config(&config, store.clock()).map_err(ConnectError::NotCreated)?;
        let contents = Contents::from_config(&config.content).map_err(ConnectError::NotCreated)?;
        Ok(Self::new(
            store,
            add(routes),
            contents,
            table,
            config.worker.clone(),
        ))
    }
}
