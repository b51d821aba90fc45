//! `[redis]`: the servers' addresses, the login, and the guarantees that are required of them.

use std::time::Duration;

use deadpool_redis::redis::{ConnectionInfo, RedisConnectionInfo};
use store::connection::servers::{Login, Sentinels, Servers, is_tls, read_url};
use store::connection::settings::ConnectionSettings;
use store::connection::settings::Durability;
use system::tls::TlsFiles;
use system::tls_files::read_tls;
use typed_toml::fault::SettingsFault;
use typed_toml::names::{read_plain, read_prefix};
use typed_toml::secret::{Secret, read_file};
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set, set_number};

/// The keys for the address of Redis. A layer may set one of them.
const PLACES: [&str; 4] = ["url", "url_file", "cluster", "sentinel"];

/// `[redis]`
#[derive(Clone, Debug, Default)]
pub struct Redis {
    /// The servers' addresses.
    pub servers: Servers,
    /// The user and password of the servers, if they are not in the URLs.
    pub login: Login,
    /// The user and password of the sentinels, if they are not in the URLs.
    pub sentinel_login: Login,
    /// The certificates and the key for TLS.
    pub tls: TlsFiles,
    /// The prefix of all keys.
    pub prefix: String,
    /// The number of shards.
    pub shards: u16,
    /// How many connections a process has at most.
    pub pool_max: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// The time limit for one answer.
    pub response_timeout: Duration,
    /// Where a write must be stored before it counts.
    pub durability: Durability,
    /// How long a write may take to be stored there.
    pub durability_timeout: Duration,
    /// Whether servers that may evict keys are accepted.
    pub allow_eviction: bool,
}

impl Redis {
    /// Returns the servers' addresses without users and passwords.
    pub fn place(&self) -> String {
        self.servers.place()
    }

    /// Returns the servers, with their users and passwords.
    pub fn servers(&self) -> Servers {
        self.servers
            .clone()
            .with_login(&self.login)
            .with_sentinel_login(&self.sentinel_login)
    }

    /// Replaces the configured servers with a private server of this process. That server is not
    /// shared, and it cannot persist writes, so the durability becomes `memory`.
    ///
    /// # Panics
    /// If `url` is invalid.
    pub fn use_private(&mut self, url: &str) {
        self.servers = Servers::single(url).expect("a private server has a valid URL");
        (self.login, self.sentinel_login, self.tls) = Default::default();
        self.durability = Durability::Memory;
    }

    /// Returns how connections are opened and used.
    pub fn connections(&self) -> ConnectionSettings {
        ConnectionSettings {
            pool_max: self.pool_max,
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            durability: self.durability,
            durability_timeout: self.durability_timeout,
            allow_eviction: self.allow_eviction,
            tls: self.tls.clone(),
        }
    }

    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        self.read_place(section);
        read_login(
            &mut self.login,
            section,
            "username",
            ["password", "password_file"],
        );
        let sentinel = ["sentinel_password", "sentinel_password_file"];
        read_login(
            &mut self.sentinel_login,
            section,
            "sentinel_username",
            sentinel,
        );
        read_tls(&mut self.tls, section);
        set(
            &mut self.prefix,
            read_prefix(section, "prefix").map(str::to_owned),
        );
        set_number(&mut self.shards, section.number("shards", 1..=1_024));
        set_number(&mut self.pool_max, section.number("pool_max", 1..=1_024));
        set(
            &mut self.connect_timeout,
            section.duration("connect_timeout", SECOND / 100..=600 * SECOND),
        );
        set(
            &mut self.response_timeout,
            section.duration("response_timeout", SECOND / 100..=600 * SECOND),
        );
        set(
            &mut self.durability_timeout,
            section.duration("durability_timeout", SECOND / 100..=60 * SECOND),
        );
        set(&mut self.allow_eviction, section.switch("allow_eviction"));
        if let Some(text) = section.text("durability") {
            match text.parse() {
                Ok(durability) => self.durability = durability,
                Err(why) => section.fault("durability", format!("\"{text}\" {why}")),
            }
        }
    }

    /// Reports faults that can be found only after all layers are read.
    pub(crate) fn check(&self, faults: &mut Vec<SettingsFault>) {
        let mut fault = |key: &str, text: &str| {
            let (file, key) = ("all files".to_owned(), format!("redis.{key}"));
            faults.push(SettingsFault {
                file,
                key,
                text: text.to_owned(),
            });
        };
        let has_login = |node: &ConnectionInfo| {
            node.redis_settings()
                .username()
                .or(node.redis_settings().password())
                .is_some()
        };
        let in_urls = self.servers.nodes().iter().any(has_login);
        let sentinel = matches!(self.servers, Servers::Sentinel(_));
        if !self.login.is_empty() && in_urls && !sentinel {
            fault(
                "password",
                "is set, but a URL also contains a user or password; keep one of them",
            );
        }
        if !self.sentinel_login.is_empty() {
            if !sentinel {
                fault(
                    "sentinel_password",
                    "is set, but there is no redis.sentinel",
                );
            } else if in_urls {
                fault(
                    "sentinel_password",
                    "is set, but a URL also contains a user or password; keep one of them",
                );
            }
        }
        if !self.tls.is_empty() && !self.servers.has_tls() {
            fault(
                "tls_ca_file",
                "has no effect, because no URL starts with rediss://",
            );
        }
        if let Servers::Cluster(nodes) = &self.servers {
            let same = |a: &ConnectionInfo, b: &ConnectionInfo| {
                let (x, y) = (a.redis_settings(), b.redis_settings());
                is_tls(a) == is_tls(b)
                    && (x.username(), x.password()) == (y.username(), y.password())
            };
            if !nodes.windows(2).all(|pair| same(&pair[0], &pair[1])) {
                fault(
                    "cluster",
                    "the nodes differ in user, password or TLS; all nodes must have the same",
                );
            }
            if nodes.iter().any(|node| node.redis_settings().db() != 0) {
                fault(
                    "cluster",
                    "a Cluster has only database 0; remove the number from the URLs",
                );
            }
        }
    }

    fn read_place(&mut self, section: &mut Section<'_, '_>) {
        let named: Vec<&str> = PLACES.into_iter().filter(|key| section.has(key)).collect();
        if let [_, .., second] = named.as_slice() {
            let text = format!(
                "only one of {} may be set; keep one of them",
                named.join(", ")
            );
            section.fault(second, text);
        }
        if let Some(url) = section.text("url") {
            self.set_url(section, "url", url);
        }
        if let Some(url) = read_file(section, "url_file") {
            self.set_url(section, "url_file", String::from_utf8_lossy(&url).trim());
        }
        // Reading the key marks it as known, even if it is empty.
        if !section.texts("cluster").is_empty() || section.has("cluster") {
            let nodes = read_nodes(section, "cluster");
            if nodes
                .iter()
                .any(|node| matches!(node.addr(), deadpool_redis::redis::ConnectionAddr::Unix(_)))
            {
                section.fault(
                    "cluster",
                    "the nodes of a Cluster cannot be reached through a Unix socket",
                );
            }
            self.servers = Servers::Cluster(nodes);
        }
        if let Some(sentinels) = section.within("sentinel", read_sentinels).flatten() {
            self.servers = Servers::Sentinel(sentinels);
        }
    }

    fn set_url(&mut self, section: &mut Section<'_, '_>, key: &str, url: &str) {
        match read_url(url) {
            Ok(node) => self.servers = Servers::Single(node),
            Err(why) => section.fault(key, why.to_string()),
        }
    }
}

fn read_sentinels(section: &mut Section<'_, '_>) -> Option<Sentinels> {
    let master = read_plain(section, "master").unwrap_or_default();
    if !section.has("master") {
        section.fault(
            "master",
            "is missing: set it to the name by which the sentinels know the master",
        );
    }
    let nodes: Vec<ConnectionInfo> = read_nodes(section, "nodes");
    let tls = section
        .switch("tls")
        .unwrap_or_else(|| nodes.iter().any(is_tls));
    let database = section.number("database", 0..=1_023).unwrap_or(0);
    let login = nodes.first()?.redis_settings().clone();
    // Of the sentinels' own settings, only the protocol also applies to the master.
    let login = RedisConnectionInfo::default()
        .set_protocol(login.protocol())
        .set_db(i64::try_from(database).unwrap_or_default());
    Some(Sentinels {
        master: master.to_owned(),
        nodes,
        tls,
        login,
    })
}

fn read_nodes(section: &mut Section<'_, '_>, key: &'static str) -> Vec<ConnectionInfo> {
    let urls = section.texts(key);
    if urls.is_empty() {
        section.fault(key, "needs at least one URL like redis://host:6379");
    }
    let mut nodes = Vec::new();
    for url in urls {
        match read_url(url) {
            Ok(node) => nodes.push(node),
            Err(why) => section.fault(key, format!("number {} {why}", nodes.len() + 1)),
        }
    }
    nodes
}

fn read_login(
    login: &mut Login,
    section: &mut Section<'_, '_>,
    user: &'static str,
    password: [&'static str; 2],
) {
    set(
        &mut login.username,
        read_plain(section, user).map(|name| Some(name.to_owned())),
    );
    if let Some((_, secret)) = Secret::read(section, password) {
        login.password = Some(secret.reveal_text().into_owned());
    }
}

#[cfg(test)]
mod tests {
    use crate::load::DEFAULT;
    use crate::model::Config;
    use typed_toml::fault::SettingsFaults;

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Config, SettingsFaults> {
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        Config::from_layers(
            &[("default.toml", DEFAULT), ("mine.toml", file)],
            &variables,
        )
    }

    #[test]
    fn each_shape_replaces_the_default_url() {
        let cluster = "[redis]\ncluster = [\"redis://h1\", \"redis://h2:7000\"]";
        assert_eq!(
            read(cluster, &[]).unwrap().redis.place(),
            "the cluster of h1:6379, h2:7000"
        );
        let sentinel = "[redis]\nsentinel = { master = \"mail\", nodes = [\"redis://s1:26379\"] }";
        assert_eq!(
            read(sentinel, &[]).unwrap().redis.place(),
            "mail of the sentinels s1:26379"
        );
        let url = ("REDELIVER_REDIS__URL", "rediss://h3:1");
        assert_eq!(read(cluster, &[url]).unwrap().redis.place(), "h3:1");
    }

    #[test]
    fn users_and_passwords_are_sent_only_to_their_servers_and_never_printed() {
        let file = "[redis]\nusername = \"ann\"\nsentinel_username = \"sue\"\n\
                    sentinel = { master = \"mail\", nodes = [\"redis://s1:26379\"] }";
        let passwords = [
            ("REDELIVER_REDIS__PASSWORD", "geheim"),
            ("REDELIVER_REDIS__SENTINEL_PASSWORD", "wachsam"),
        ];
        let config = read(file, &passwords).unwrap();
        assert!(
            !format!("{config:?}").contains("geheim") && !format!("{config:?}").contains("wachsam")
        );
        let store::connection::servers::Servers::Sentinel(sentinels) = config.redis.servers()
        else {
            panic!()
        };
        assert_eq!(
            (sentinels.login.username(), sentinels.login.password()),
            (Some("ann"), Some("geheim"))
        );
        let node = sentinels.nodes[0].redis_settings();
        assert_eq!(
            (node.username(), node.password()),
            (Some("sue"), Some("wachsam"))
        );
    }

    #[test]
    fn a_password_is_used_exactly_as_written_without_the_last_line_end_of_its_file() {
        assert_eq!(
            read("[redis]\npassword = \" open sesame \"", &[])
                .unwrap()
                .redis
                .login
                .password
                .unwrap(),
            " open sesame "
        );
        let file = std::env::temp_dir().join(format!("redeliver-password-{}", std::process::id()));
        for (text, password) in [
            (" open sesame \n", " open sesame "),
            ("sesame\r\n", "sesame"),
            ("sesame\n\n", "sesame\n"),
        ] {
            std::fs::write(&file, text).unwrap();
            let named = format!("[redis]\npassword_file = \"{}\"", file.display());
            assert_eq!(
                read(&named, &[]).unwrap().redis.login.password.unwrap(),
                password
            );
        }
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn contradicting_keys_are_faults_that_show_no_secret() {
        let cases = [
            (
                "url = \"redis://h\"\ncluster = [\"redis://h\"]",
                "redis.cluster",
                "only one of url, cluster",
            ),
            ("url = \"http://:secret@h\"", "redis.url", "is not a URL"),
            (
                "url = \"rediss://h/#insecure\"",
                "redis.url",
                "is not a URL",
            ),
            ("cluster = []", "redis.cluster", "at least one"),
            (
                "urll = \"redis://h\"",
                "redis.urll",
                "allowed here: allow_eviction, cluster, ",
            ),
            (
                "cluster = [\"redis://h1\", \"redis://:secret@h2\"]",
                "redis.cluster",
                "differ",
            ),
            (
                "cluster = [\"redis://h1/3\"]",
                "redis.cluster",
                "database 0",
            ),
            (
                "sentinel = { nodes = [\"redis://h\"] }",
                "redis.sentinel.master",
                "the name by which",
            ),
            (
                "sentinel = { master = \"m\", nodes = [\"h\"] }",
                "redis.sentinel.nodes",
                "number 1 is not a URL",
            ),
            (
                "sentinel = { master = \"m\", nodes = [\"redis://h\"], secret = 1 }",
                "redis.sentinel.secret",
                "no such key",
            ),
            (
                "password = \"secret\"\npassword_file = \"/dev/null\"",
                "redis.password_file",
                "keep one",
            ),
            (
                "url = \"redis://:secret@h\"\npassword = \"secret\"",
                "redis.password",
                "keep one",
            ),
            (
                "sentinel_password = \"secret\"",
                "redis.sentinel_password",
                "no redis.sentinel",
            ),
            (
                "durability = \"replicas\"",
                "redis.durability",
                "replicas:n",
            ),
            (
                "tls_ca_file = \"/dev/null\"",
                "redis.tls_ca_file",
                "a device",
            ),
            ("tls_ca_file = \"Cargo.toml\"", "redis.tls_ca_file", "PEM"),
            (
                "tls_cert_file = \"/dev/null\"",
                "redis.tls_cert_file",
                "belong together",
            ),
        ];
        for (text, key, why) in cases {
            let faults = read(&format!("[redis]\n{text}"), &[]).unwrap_err();
            assert!(
                faults
                    .0
                    .iter()
                    .any(|fault| fault.key == key && fault.text.contains(why)),
                "{text}: {faults}"
            );
            assert!(
                !faults.0.iter().any(|fault| fault.text.contains("secret")),
                "{faults}"
            );
        }
    }
}
