//! Makes the connections of the pool: to the single server, to a Cluster, or to the master that
//! sentinels name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_redis::redis::cluster::ClusterClient;
use deadpool_redis::redis::{ConnectionInfo, ProtocolVersion};

use crate::connection::fault::sort;
use crate::connection::link::{Connector, Link, Wire};
use crate::connection::sentinel;
use crate::connection::servers::{Sentinels, Servers, is_tls};
use crate::connection::settings::ConnectionSettings;
use crate::error::StoreError;

/// How many times a call follows a Cluster's redirection, or looks again for a node that went away.
const CLUSTER_RETRIES: u32 = 3;

/// How long such a retry waits at most, in ms.
const CLUSTER_RETRY_WAIT_MAX_MS: u64 = 200;

/// How long such a retry waits at least, in ms.
const CLUSTER_RETRY_WAIT_MIN_MS: u64 = 10;

/// Makes connections.
pub(super) struct Dialer {
    shape: Shape,
    connector: Connector,
}

enum Shape {
    Single(ConnectionInfo),
    Cluster(Box<ClusterClient>),
    Sentinel(Sentinels),
}

impl Dialer {
    /// Creates a dialer for `servers`.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if no connection can be made with these servers and these TLS
    /// files.
    pub(super) fn new(
        servers: &Servers,
        settings: &ConnectionSettings,
    ) -> Result<Self, StoreError> {
        system::tls::prepare();
        let connector = Connector::new(settings);
        let shape = match servers {
            Servers::Single(node) => Shape::Single(node.clone()),
            Servers::Sentinel(sentinels) => Shape::Sentinel(sentinels.clone()),
            Servers::Cluster(nodes) => {
                let mut builder = ClusterClient::builder(nodes.clone())
                    .use_protocol(ProtocolVersion::RESP3)
                    .retries(CLUSTER_RETRIES)
                    .min_retry_wait(CLUSTER_RETRY_WAIT_MIN_MS)
                    .max_retry_wait(CLUSTER_RETRY_WAIT_MAX_MS)
                    .connection_timeout(settings.connect_timeout)
                    .response_timeout(connector.response_timeout)
                    .overall_response_timeout(Some(connector.response_timeout));
                if nodes.iter().any(is_tls) {
                    builder = builder.certs(connector.certificates.clone());
                }
                let client = builder.build().map_err(|err| {
                    let why = err.detail().map_or_else(|| err.to_string(), str::to_owned);
                    StoreError::Mismatch(format!("redis.cluster: {why}"))
                })?;
                Shape::Cluster(Box::new(client))
            }
        };
        Ok(Self { shape, connector })
    }

    async fn dial(&self) -> Result<Link, StoreError> {
        let lost = Arc::default();
        match &self.shape {
            Shape::Single(node) => self
                .connector
                .connect(node, &lost)
                .await
                .map_err(|err| sort(&err)),
            Shape::Sentinel(sentinels) => sentinel::master(&self.connector, sentinels).await,
            Shape::Cluster(client) => {
                let connection = client
                    .get_async_connection()
                    .await
                    .map_err(|err| sort(&err))?;
                Ok(Link {
                    wire: Wire::Cluster(connection),
                    lost,
                    master: None,
                })
            }
        }
    }
}

impl Manager for Dialer {
    type Type = Link;
    type Error = StoreError;

    async fn create(&self) -> Result<Link, StoreError> {
        // Boxed, because the future is large and seldom runs, and is part of the future of every
        // call.
        Box::pin(self.dial()).await
    }

    /// Sends nothing to the server. A lost connection is already marked as lost, and a connection
    /// that failed is never returned to the pool.
    async fn recycle(&self, link: &mut Link, _: &Metrics) -> RecycleResult<StoreError> {
        if link.lost.load(Ordering::Relaxed) {
            Err(RecycleError::message("lost"))
        } else {
            Ok(())
        }
    }
}
