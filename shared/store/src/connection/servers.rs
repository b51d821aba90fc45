//! The addresses of Redis, in each of its three shapes, and how to connect. Opens nothing, and
//! prints no secret.

use std::fmt;

use deadpool_redis::redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    TlsCertificates,
};
use system::tls::TlsFiles;

/// The servers that hold the data.
#[derive(Clone)]
pub enum Servers {
    /// One server.
    Single(ConnectionInfo),
    /// Some nodes of a Cluster; the other nodes are found through them.
    Cluster(Vec<ConnectionInfo>),
    /// The server that the sentinels name as master.
    Sentinel(Sentinels),
}

/// The sentinels, and the master that they watch.
#[derive(Clone)]
pub struct Sentinels {
    /// The name of the master.
    pub master: String,
    /// Each sentinel, with the user and password that it requires.
    pub nodes: Vec<ConnectionInfo>,
    /// Whether the master uses TLS.
    pub tls: bool,
    /// User, password and database of the master.
    pub login: RedisConnectionInfo,
}

/// A user and a password.
#[derive(Clone, Default)]
pub struct Login {
    /// The user; none means `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// The error for a text that is not the URL of a Redis server. It does not quote the text, which
/// may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a URL like redis://host:6379/0, rediss://user:password@host:6379 or redis+unix:///path"
)]
pub struct BadUrl;

impl Servers {
    /// One server, at `url`: `redis://…`, `rediss://…` or `redis+unix://…`.
    ///
    /// # Errors
    /// [`BadUrl`] if it cannot be read.
    pub fn single(url: &str) -> Result<Self, BadUrl> {
        read_url(url).map(Self::Single)
    }

    /// Returns the addresses, without users and passwords.
    pub fn place(&self) -> String {
        match self {
            Self::Single(node) => node.addr().to_string(),
            Self::Cluster(nodes) => format!("the cluster of {}", addresses(nodes)),
            Self::Sentinel(sentinels) => {
                format!(
                    "{} of the sentinels {}",
                    sentinels.master,
                    addresses(&sentinels.nodes)
                )
            }
        }
    }

    /// Returns the nodes of the configuration: servers or sentinels.
    pub fn nodes(&self) -> &[ConnectionInfo] {
        match self {
            Self::Single(node) => std::slice::from_ref(node),
            Self::Cluster(nodes) | Self::Sentinel(Sentinels { nodes, .. }) => nodes,
        }
    }

    /// Whether any of them uses TLS.
    pub fn has_tls(&self) -> bool {
        self.nodes().iter().any(is_tls)
            || matches!(self, Self::Sentinel(Sentinels { tls: true, .. }))
    }

    /// Returns the servers with this user and password on every server that holds data.
    #[must_use]
    pub fn with_login(self, login: &Login) -> Self {
        match self {
            Self::Single(node) => Self::Single(login.on(node)),
            Self::Cluster(nodes) => {
                Self::Cluster(nodes.into_iter().map(|node| login.on(node)).collect())
            }
            Self::Sentinel(sentinels) => Self::Sentinel(Sentinels {
                login: login.over(sentinels.login.clone()),
                ..sentinels
            }),
        }
    }

    /// Returns the servers with this user and password on every sentinel.
    #[must_use]
    pub fn with_sentinel_login(self, login: &Login) -> Self {
        match self {
            Self::Sentinel(sentinels) => {
                let nodes = sentinels
                    .nodes
                    .into_iter()
                    .map(|node| login.on(node))
                    .collect();
                Self::Sentinel(Sentinels { nodes, ..sentinels })
            }
            other => other,
        }
    }
}

impl Default for Servers {
    /// The address that Redis listens on by default.
    fn default() -> Self {
        Self::single("redis://127.0.0.1:6379/0").expect("it is a URL")
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Servers({})", self.place())
    }
}

impl Login {
    /// Whether neither a user nor a password is set.
    pub fn is_empty(&self) -> bool {
        self.username.is_none() && self.password.is_none()
    }

    fn on(&self, node: ConnectionInfo) -> ConnectionInfo {
        let settings = self.over(node.redis_settings().clone());
        node.set_redis_settings(settings)
    }

    fn over(&self, mut settings: RedisConnectionInfo) -> RedisConnectionInfo {
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        settings
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Returns the TLS files in the form that connections to Redis take.
pub(super) fn certificates(tls: &TlsFiles) -> TlsCertificates {
    let own = tls.certificate.as_ref();
    TlsCertificates {
        client_tls: own.map(|(client_cert, client_key)| ClientTlsConfig {
            client_cert: client_cert.clone(),
            client_key: client_key.clone(),
        }),
        root_cert: tls.authority.clone(),
    }
}

/// Reads the URL of one node.
///
/// # Errors
/// [`BadUrl`] if it cannot be read, or asks for TLS without verification.
pub fn read_url(url: &str) -> Result<ConnectionInfo, BadUrl> {
    let node: ConnectionInfo = url.parse().map_err(|_| BadUrl)?;
    // The parser would drop control characters silently.
    if url.chars().any(char::is_control) {
        return Err(BadUrl);
    }
    if matches!(node.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(BadUrl);
    }
    // A RESP3 connection reports when it is lost, so it need not be tried before each use.
    let settings = node
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    Ok(node.set_redis_settings(settings))
}

/// Whether a node uses TLS.
pub fn is_tls(node: &ConnectionInfo) -> bool {
    matches!(node.addr(), ConnectionAddr::TcpTls { .. })
}

/// Returns the addresses of nodes, separated by commas.
pub(super) fn addresses(nodes: &[ConnectionInfo]) -> String {
    nodes
        .iter()
        .map(|node| node.addr().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed_for_any_shape() {
        let node = || read_url("rediss://ann:secret@h1:6380/2").unwrap();
        let sentinels = Sentinels {
            master: "mail".to_owned(),
            nodes: vec![node(), node()],
            tls: true,
            login: RedisConnectionInfo::default()
                .set_username("bob")
                .set_password("secret"),
        };
        let shapes = [
            (Servers::Single(node()), "h1:6380"),
            (
                Servers::Cluster(vec![node(), node()]),
                "the cluster of h1:6380, h1:6380",
            ),
            (
                Servers::Sentinel(sentinels),
                "mail of the sentinels h1:6380, h1:6380",
            ),
        ];
        for (servers, place) in shapes {
            assert_eq!(servers.place(), place);
            assert!(!format!("{servers:?}").contains("secret"), "{servers:?}");
        }
        let login = Login {
            username: None,
            password: Some("secret".to_owned()),
        };
        assert!(!format!("{login:?}").contains("secret"));
        let tls = TlsFiles {
            authority: None,
            certificate: Some((b"secret".to_vec(), b"secret".to_vec())),
        };
        assert!(!format!("{tls:?}").contains("secret"));
    }

    #[test]
    fn tls_without_verification_is_refused() {
        assert!(read_url("rediss://h1:6380/#insecure").is_err());
    }
}
