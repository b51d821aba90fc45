//! One connection to servers of any shape: how it is made, and what it carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::cluster_routing::{
    MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr,
};
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    PushKind, RedisFuture, RedisResult, TlsCertificates, Value,
};

use crate::connection::servers::{certificates, is_tls};
use crate::connection::settings::ConnectionSettings;
use crate::raw::Text;

/// A connection.
pub(super) struct Link {
    /// Calls on copies of this share the connection. They are sent one after the other, without
    /// waiting for answers.
    pub(super) wire: Wire,
    /// Set as soon as the server has closed the connection.
    pub(super) lost: Arc<AtomicBool>,
    /// The host and port of the master that sentinels named, if they did.
    pub(super) master: Option<Arc<(String, u16)>>,
}

/// The connection that carries calls.
#[derive(Clone)]
pub(super) enum Wire {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection for calls that all belong to the slot of one key.
pub(super) struct SlotLink<'l> {
    link: &'l mut Link,
    key: Vec<u8>,
}

/// Connects to one server.
pub(super) struct Connector {
    pub(super) certificates: TlsCertificates,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
}

impl Connector {
    /// Creates a connector with the timeouts and TLS files of these settings.
    pub(super) fn new(settings: &ConnectionSettings) -> Self {
        let certificates = certificates(&settings.tls);
        let response_timeout =
            settings.response_timeout + settings.durability.wait_max(settings.durability_timeout);
        Self {
            certificates,
            connect_timeout: settings.connect_timeout,
            response_timeout,
        }
    }

    /// Connects to one node.
    pub(super) async fn connect(
        &self,
        node: &ConnectionInfo,
        lost: &Arc<AtomicBool>,
    ) -> RedisResult<Link> {
        let config = self.config();
        let config = match node.redis_settings().protocol() {
            ProtocolVersion::RESP3 => {
                let lost = lost.clone();
                config.set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                    if push.kind == PushKind::Disconnection {
                        lost.store(true, Ordering::Relaxed);
                    }
                    Ok(())
                })
            }
            _ => config,
        };
        let client = self.client(node)?;
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(Link {
            wire: Wire::Node(connection),
            lost: lost.clone(),
            master: None,
        })
    }

    fn client(&self, node: &ConnectionInfo) -> RedisResult<Client> {
        if is_tls(node) {
            Client::build_with_tls(node.clone(), self.certificates.clone())
        } else {
            Client::open(node.clone())
        }
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout))
    }
}

impl Link {
    /// Returns this connection, for calls on the slot of `key`.
    pub(super) fn slot(&mut self, key: Vec<u8>) -> SlotLink<'_> {
        SlotLink { link: self, key }
    }

    /// Returns what every server that takes writes answers to one command.
    pub(super) async fn ask_masters(&mut self, command: Cmd) -> RedisResult<Vec<Value>> {
        Ok(self
            .ask_each_master(command)
            .await?
            .into_iter()
            .map(|(_, answer)| answer)
            .collect())
    }

    /// Like `ask_masters`, with the address of each server of a Cluster. The address is empty if
    /// there is one server.
    pub(super) async fn ask_each_master(
        &mut self,
        command: Cmd,
    ) -> RedisResult<Vec<(String, Value)>> {
        let answers = match &mut self.wire {
            Wire::Node(node) => vec![(Value::Nil, node.req_packed_command(&command).await?)],
            Wire::Cluster(cluster) => {
                let all_masters =
                    RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                match cluster.route_command(command, all_masters).await? {
                    Value::Map(answers) => answers,
                    other => vec![(Value::Nil, other)],
                }
            }
        };
        let read = |(address, answer): (Value, Value)| {
            Ok((Text::from(&address).0, answer.extract_error()?))
        };
        answers.into_iter().map(read).collect()
    }
}

impl SlotLink<'_> {
    /// Sends several commands at once. Each answer may be an error.
    pub(super) async fn send(&mut self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        self.req_packed_commands(commands, 0, commands.len()).await
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Node(node) => node.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Node(node) => node.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Node(node) => node.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// Sends every command to the node that holds the key. A Cluster client would send SCRIPT LOAD and
/// WAIT, among others, to all nodes or to any node.
impl ConnectionLike for SlotLink<'_> {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let route = self.route();
        match &mut self.link.wire {
            Wire::Node(node) => node.req_packed_command(cmd),
            Wire::Cluster(cluster) => {
                Box::pin(cluster.route_command(cmd.clone(), RoutingInfo::SingleNode(route)))
            }
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let route = self.route();
        match &mut self.link.wire {
            Wire::Node(node) => node.req_packed_commands(pipeline, offset, count),
            Wire::Cluster(cluster) => {
                Box::pin(cluster.route_pipeline(pipeline.clone(), offset, count, route))
            }
        }
    }

    fn get_db(&self) -> i64 {
        self.link.wire.get_db()
    }
}

impl SlotLink<'_> {
    fn route(&self) -> SingleNodeRoutingInfo {
        SingleNodeRoutingInfo::SpecificNode(Route::with_key(&self.key, SlotAddr::Master))
    }
}
