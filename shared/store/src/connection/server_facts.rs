//! What servers report about themselves: INFO, a few values of CONFIG, and whether they have a Lua
//! engine.

use std::collections::HashMap;

use deadpool_redis::redis::{Cmd, RedisError, Value, cmd, from_redis_value};

use crate::connection::fault::sort;
use crate::connection::link::Link;
use crate::connection::pool::Connections;
use crate::connection::settings::Required;
use crate::error::StoreError;
use crate::raw::{Text, texts};

/// The lines of INFO that the checks need.
const INFO: [&str; 4] = [
    "redis_version",
    "maxmemory",
    "maxmemory_policy",
    "aof_enabled",
];

/// The settings that only CONFIG reports.
const CONFIG: [&str; 3] = ["appendfsync", "save", "min-replicas-to-write"];

/// What one server reports about itself.
#[derive(Clone, Debug, Default)]
pub struct ServerFacts {
    /// Its address.
    pub server: String,
    info: HashMap<String, String>,
    config: HashMap<String, String>,
    /// Why scripts do not run there, if they do not.
    pub no_scripts: Option<String>,
}

impl ServerFacts {
    /// Creates the facts of the server at this address, from its INFO and the settings that it
    /// reported.
    pub fn new(server: &str, info: &str, config: &[(&str, &str)]) -> Self {
        let info = info
            .lines()
            .filter_map(|line| line.trim_end().split_once(':'));
        let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Self {
            server: server.to_owned(),
            info: info.map(own).collect(),
            config: config.iter().copied().map(own).collect(),
            no_scripts: None,
        }
    }

    /// Returns a line of INFO.
    pub fn info(&self, name: &str) -> Option<&str> {
        self.info.get(name).map(String::as_str)
    }

    /// Returns a setting.
    pub fn config(&self, name: &str) -> Option<&str> {
        self.config.get(name).map(String::as_str)
    }

    /// Lists what the server did not report: the lines of INFO that the checks need, and these
    /// settings.
    pub fn unknown(&self, settings: &[&str]) -> Vec<String> {
        let server = &self.server;
        let info = INFO.iter().filter(|name| self.info(name).is_none());
        let info = info.map(|name| format!("{name} at {server} (INFO does not contain it)"));
        let config = settings.iter().filter(|name| self.config(name).is_none());
        info.chain(config.map(|name| format!("{name} at {server} (CONFIG GET may not be asked)")))
            .collect()
    }
}

/// Figures of all servers together that take writes. Each is none if a server does not report it,
/// or if our user may not ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerFigures {
    /// The memory that they use, in bytes.
    pub(crate) memory_used: Option<u64>,
    /// The memory that they may use, in bytes. Also none if one of them has no limit.
    pub(crate) memory_max: Option<u64>,
    /// How many keys they have evicted since they were started.
    pub(crate) evicted: Option<u64>,
}

impl Connections {
    /// Returns what every server that takes writes reports about itself, and what is required of
    /// it.
    pub(crate) async fn server_facts(&self) -> Result<(Vec<ServerFacts>, Required), StoreError> {
        let required = Required {
            durability: self.settings.durability,
            allow_eviction: self.settings.allow_eviction,
        };
        let mut link = self.get().await?;
        let facts = ask(&mut link, &self.place).await;
        Ok((self.finish(link, facts)?, required))
    }
}

impl Connections {
    /// Returns the figures of all servers together that take writes.
    pub(crate) async fn server_figures(&self) -> Result<ServerFigures, StoreError> {
        let mut link = self.get().await?;
        let answers = allowed(&mut link, cmd("INFO")).await;
        let answers = self.finish(link, answers)?;
        let servers: Vec<ServerFacts> = answers
            .iter()
            .map(|(server, answer)| ServerFacts::new(server, &Text::from(answer).0, &[]))
            .collect();
        let sum = |name: &str| {
            let of_server = |server: &ServerFacts| server.info(name)?.parse::<u64>().ok();
            let sum = servers.iter().map(of_server).sum::<Option<u64>>();
            sum.filter(|_| !servers.is_empty())
        };
        let is_limited = servers
            .iter()
            .all(|server| server.info("maxmemory").is_some_and(|max| max != "0"));
        Ok(ServerFigures {
            memory_used: sum("used_memory"),
            memory_max: sum("maxmemory").filter(|_| is_limited),
            evicted: sum("evicted_keys"),
        })
    }
}

async fn ask(link: &mut Link, place: &str) -> Result<Vec<ServerFacts>, StoreError> {
    let mut facts: HashMap<String, ServerFacts> = HashMap::new();
    for (server, text) in link
        .ask_each_master(cmd("INFO"))
        .await
        .map_err(|err| sort(&err))?
    {
        let server = if server.is_empty() {
            place.to_owned()
        } else {
            server
        };
        facts.insert(
            server.clone(),
            ServerFacts::new(&server, &Text::from(&text).0, &[]),
        );
    }
    let known = |server: String| {
        if server.is_empty() {
            place.to_owned()
        } else {
            server
        }
    };
    for name in CONFIG {
        let mut config = cmd("CONFIG");
        config.arg("GET").arg(name);
        for (server, answer) in allowed(link, config).await? {
            let values: HashMap<Text, Text> = from_redis_value(answer).unwrap_or_default();
            if let Some(server) = facts.get_mut(&known(server)) {
                server.config.extend(texts(values));
            }
        }
    }
    let mut load = cmd("SCRIPT");
    load.arg("LOAD").arg("return 1");
    if let Err(err) = link.ask_each_master(load).await {
        match sort(&err) {
            StoreError::Refused(why) => {
                facts
                    .values_mut()
                    .for_each(|server| server.no_scripts = Some(format!("not to be had ({why})")));
            }
            err => return Err(err),
        }
    }
    let mut facts: Vec<ServerFacts> = facts.into_values().collect();
    facts.sort_unstable_by(|a, b| a.server.cmp(&b.server));
    Ok(facts)
}

/// Returns the answers to a command that a server may forbid; none if it does.
async fn allowed(link: &mut Link, question: Cmd) -> Result<Vec<(String, Value)>, StoreError> {
    let forbidden = |err: &RedisError| !matches!(sort(err), StoreError::Unavailable(_));
    match link.ask_each_master(question).await {
        Err(err) if forbidden(&err) => Ok(Vec::new()),
        answers => answers.map_err(|err| sort(&err)),
    }
}
