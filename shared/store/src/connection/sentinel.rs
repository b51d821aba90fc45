//! Asks the sentinels for the master. All of them are asked at once. The server that they name must
//! itself report that it is the master: right after a failover some sentinels may still name the
//! old one.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use deadpool_redis::redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, RedisResult, Value, cmd,
};
use futures::stream::{FuturesUnordered, StreamExt};

use crate::connection::fault::sort;
use crate::connection::link::{Connector, Link};
use crate::connection::servers::{Sentinels, addresses};
use crate::error::StoreError;

/// Connects to the master.
///
/// # Errors
/// [`StoreError::Unavailable`] if there is no master now, with the reason.
pub(super) async fn master(
    connector: &Connector,
    sentinels: &Sentinels,
) -> Result<Link, StoreError> {
    let mut answers: FuturesUnordered<_> = sentinels
        .nodes
        .iter()
        .map(|node| named_by(connector, node, &sentinels.master))
        .collect();
    let mut tried: Vec<(String, u16)> = Vec::new();
    let (mut silent, mut failed) = (None, None);
    let mut answered = false;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Some(named)) if !tried.contains(&named) => {
                match connect(connector, sentinels, &named).await {
                    Ok(Some(link)) => return Ok(link),
                    Ok(None) => {
                        failed = Some(format!(
                            "{}:{} is named as master, but is not the master",
                            named.0, named.1
                        ));
                    }
                    Err(err) => {
                        failed = Some(format!(
                            "the master {}:{}: {}",
                            named.0,
                            named.1,
                            reason(&err)
                        ));
                    }
                }
                tried.push(named);
            }
            Ok(Some(_)) => {}
            Ok(None) => answered = true,
            Err(err) => silent = Some(reason(&err)),
        }
    }
    let name = &sentinels.master;
    let places = addresses(&sentinels.nodes);
    Err(StoreError::Unavailable(match (failed, answered, silent) {
        (Some(why), ..) => why,
        (None, true, _) => {
            format!(
                "the sentinels {places} know no master called {name}; \
                 redis.sentinel.master has to be its name there"
            )
        }
        (None, false, why) => {
            format!(
                "no sentinel of {places} answered: {}; look at redis.sentinel.nodes",
                why.unwrap_or_default()
            )
        }
    }))
}

/// Returns the master that one sentinel names.
async fn named_by(
    connector: &Connector,
    node: &ConnectionInfo,
    master: &str,
) -> RedisResult<Option<(String, u16)>> {
    let mut sentinel = connector.connect(node, &Arc::default()).await?;
    cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(master)
        .query_async(&mut sentinel.wire)
        .await
}

/// Connects to the server that the sentinels named. Returns none if it does not report itself as
/// the master.
async fn connect(
    connector: &Connector,
    sentinels: &Sentinels,
    named: &(String, u16),
) -> Result<Option<Link>, RedisError> {
    let (host, port) = named.clone();
    let address = if sentinels.tls {
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let node = address
        .into_connection_info()?
        .set_redis_settings(sentinels.login.clone());
    let lost: Arc<AtomicBool> = Arc::default();
    let mut link = connector.connect(&node, &lost).await?;
    let role: Vec<Value> = cmd("ROLE").query_async(&mut link.wire).await?;
    let is_master = role
        .first()
        .is_some_and(|role| matches!(role, Value::BulkString(word) if word == b"master"));
    link.master = Some(Arc::new(named.clone()));
    Ok(is_master.then_some(link))
}

fn reason(err: &RedisError) -> String {
    match sort(err) {
        StoreError::Unavailable(why)
        | StoreError::Forbidden(why)
        | StoreError::Refused(why)
        | StoreError::Mismatch(why) => why,
        err @ StoreError::UnderWay => err.to_string(),
    }
}
