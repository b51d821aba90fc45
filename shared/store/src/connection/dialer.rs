//! Makes the connections of the pool: to the one server, to a Cluster, or to the master that
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

/// How often a Cluster's answer that a slot is elsewhere is followed, and a node that went away is
/// looked for again.
const CLUSTER_RETRIES: u32 = 3;

/// How long such a retry waits at most, in ms.
const CLUSTER_RETRY_WAIT_MAX_MS: u64 = 200;

/// How long it waits at least, in ms.
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
    /// One for `servers`.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] where they and the files of TLS do not make a connection.
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
        // Boxed, because it is large and seldom run, and is a part of the future of every call.
        Box::pin(self.dial()).await
    }

    /// Asks nothing of the server: a connection that is lost is known to be, and one that failed
    /// never comes here.
    async fn recycle(&self, link: &mut Link, _: &Metrics) -> RecycleResult<StoreError> {
        if link.lost.load(Ordering::Relaxed) {
            Err(RecycleError::message("lost"))
        } else {
            Ok(())
        }
    }
}
