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
    /// Returns how much memory all servers use that take writes, and what they may use, in bytes.
    /// The limit is none if one of them has none.
    pub(crate) async fn memory(&self) -> Result<(Option<u64>, Option<u64>), StoreError> {
        let mut info = cmd("INFO");
        info.arg("memory");
        let mut link = self.get().await?;
        let answers = link.ask_masters(info).await.map_err(|err| sort(&err));
        let answers = self.finish(link, answers)?;
        let servers: Vec<ServerFacts> = answers
            .iter()
            .map(|answer| ServerFacts::new("", &Text::from(answer).0, &[]))
            .collect();
        let sum = |name: &str| {
            let of_server = |server: &ServerFacts| server.info(name)?.parse::<u64>().ok();
            servers.iter().map(of_server).sum::<Option<u64>>()
        };
        let is_limited = servers
            .iter()
            .all(|server| server.info("maxmemory").is_some_and(|max| max != "0"));
        Ok((sum("used_memory"), sum("maxmemory").filter(|_| is_limited)))
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
