//! Compares the settings of the servers with what Redeliver's promises need. Each check gives
//! findings: the value found, which promise it affects and how, and what to do. Runs at every start
//! and in upkeep.
//!
//! INFO reports nearly everything, because managed servers often forbid CONFIG. A setting that only
//! CONFIG reports is listed as not checked if CONFIG is forbidden.

use std::collections::BTreeMap;
use std::fmt;

use crate::connection::server_facts::ServerFacts;
use crate::connection::settings::{Durability, Required};
use crate::error::StoreError;
use crate::handle::Store;
use crate::raw::Text;
use crate::scripts::NOTE_FINDINGS;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing. It is logged at the start.
    Note,
    /// A promise is weaker than it seems. It is logged as a warning, and upkeep writes an event.
    Warn,
    /// A promise is broken: Redeliver does not start on such a server.
    Refuse,
}

/// A fault that a check has found at one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check: the name of the server's setting.
    pub check: &'static str,
    /// The server's address.
    pub server: String,
    /// The value that was found.
    pub found: String,
    /// Which promise it affects, and how.
    pub means: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// How bad it is.
    pub severity: Severity,
}

/// The results of all checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// The findings, by server.
    pub findings: Vec<Finding>,
    /// Which checks could not be made, and why.
    pub not_checked: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            check,
            server,
            found,
            means,
            remedy,
            ..
        } = self;
        write!(f, "{check} is {found} at {server}: {means}; {remedy}")
    }
}

impl Finding {
    /// Returns what distinguishes it from other findings. The value that was found does not count.
    fn name(&self) -> String {
        format!("{}@{}", self.check, self.server)
    }
}

impl ServerReport {
    /// Returns the findings that have at least this severity.
    pub fn at_least(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.severity >= severity)
    }
}

/// Checks one server.
fn check_one(facts: &ServerFacts, required: Required, report: &mut ServerReport) {
    let mut find = |check, found: &str, severity, means, remedy| {
        let (server, found) = (facts.server.clone(), found.to_owned());
        report.findings.push(Finding {
            check,
            server,
            found,
            means,
            remedy,
            severity,
        });
    };
    if let Some(version) = facts.info("redis_version")
        && version
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok())
            .is_some_and(|major| major < 7)
    {
        let means = "its scripts cannot declare what they do when memory is full, \
                     so mail would be sent twice";
        find(
            "redis_version",
            version,
            Severity::Refuse,
            means,
            "use Redis 7 or newer, or Valkey",
        );
    }
    if let Some(why) = &facts.no_scripts {
        let means = "every step is a script, so nothing works without scripts";
        find(
            "scripts",
            why,
            Severity::Refuse,
            means,
            "use a server with a Lua engine, and load its module if it is one",
        );
    }
    if let Some(policy) = facts
        .info("maxmemory_policy")
        .filter(|policy| *policy != "noeviction")
    {
        let severity = if required.allow_eviction {
            Severity::Warn
        } else {
            Severity::Refuse
        };
        let means = "when memory is full the server silently removes accepted jobs";
        let remedy =
            "set maxmemory-policy noeviction, or accept this with redis.allow_eviction = true";
        find("maxmemory-policy", policy, severity, means, remedy);
    }
    if facts.info("maxmemory") == Some("0") {
        let means = "the server takes all memory of its machine, until the system kills it";
        find(
            "maxmemory",
            "0",
            Severity::Note,
            means,
            "set it to the memory that the machine can spare",
        );
    }
    let keeps_log = facts.info("aof_enabled");
    match required.durability {
        Durability::Aof if keeps_log == Some("0") => {
            let means = "redis.durability is \"aof\", but there is no append-only file";
            find(
                "appendonly",
                "no",
                Severity::Refuse,
                means,
                "set appendonly yes, or lower redis.durability",
            );
        }
        Durability::Aof if facts.config("appendfsync") == Some("no") => {
            let means = "redis.durability is \"aof\", but only the system decides when to sync \
                         the file: intake answers 503";
            find(
                "appendfsync",
                "no",
                Severity::Warn,
                means,
                "set appendfsync everysec or always",
            );
        }
        Durability::Memory if keeps_log == Some("0") && facts.config("save") == Some("") => {
            let means =
                "redis.durability is \"memory\", and a restart of the server loses all jobs";
            find(
                "save",
                "empty and appendonly no",
                Severity::Note,
                means,
                "set appendonly yes if jobs must survive a restart",
            );
        }
        Durability::Replicas(n) => {
            if let Some(wanted) = facts
                .config("min-replicas-to-write")
                .filter(|set| below(set, n))
            {
                let means = "redis.durability needs more replicas: a master that is cut off from \
                             them continues to hand out jobs, and what it did is lost";
                find(
                    "min-replicas-to-write",
                    wanted,
                    Severity::Warn,
                    means,
                    "set it to the n of redis.durability",
                );
            }
            if let Some(connected) = facts
                .info("connected_slaves")
                .filter(|connected| below(connected, n))
            {
                let means = "redis.durability needs more replicas: intake answers 503";
                find(
                    "connected_slaves",
                    connected,
                    Severity::Warn,
                    means,
                    "connect that many replicas, and one to spare",
                );
            }
        }
        _ => {}
    }
}

fn below(text: &str, n: u16) -> bool {
    text.parse::<u32>()
        .is_ok_and(|number| number < u32::from(n))
}

/// Checks all servers.
fn check_all(servers: &[ServerFacts], required: Required) -> ServerReport {
    let mut report = ServerReport::default();
    for facts in servers {
        check_one(facts, required, &mut report);
        let unknown = facts.unknown(match required.durability {
            Durability::Memory => &["save"],
            Durability::Aof => &["appendfsync"],
            Durability::Replicas(_) => &["min-replicas-to-write"],
        });
        report.not_checked.extend(unknown);
    }
    report
}

impl Store {
    /// Checks every server that takes writes: the single server, the master behind sentinels, or
    /// all masters of a Cluster.
    pub async fn check_servers(&self) -> Result<ServerReport, StoreError> {
        let (servers, required) = self.connections.server_facts().await?;
        Ok(check_all(&servers, required))
    }

    /// Checks the servers at the start, and logs the findings.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if a server breaks a promise.
    pub(crate) async fn check_servers_at_start(&self) -> Result<(), StoreError> {
        let report = match self.check_servers().await {
            Ok(report) => report,
            // One master of several may be down; the store is opened in any case.
            Err(err) => {
                tracing::warn!(
                    %err,
                    "the settings of the servers could not be checked; upkeep tries again"
                );
                return Ok(());
            }
        };
        let refused: Vec<String> = report
            .at_least(Severity::Refuse)
            .map(Finding::to_string)
            .collect();
        if !refused.is_empty() {
            return Err(StoreError::Mismatch(refused.join("\n")));
        }
        for finding in &report.findings {
            if finding.severity == Severity::Warn {
                tracing::warn!(%finding, "a setting of the server weakens a promise");
            } else {
                tracing::info!(%finding, "a setting of the server is worth knowing");
            }
        }
        if !report.not_checked.is_empty() {
            tracing::info!(
                not_checked = report.not_checked.join(", "),
                "not all settings of the servers could be checked"
            );
        }
        Ok(())
    }

    /// Stores the findings, and writes an event for each that is new and each that is gone. If
    /// several processes call it, only one writes the event. Returns the number of events.
    pub async fn note_findings(&self, report: &ServerReport) -> Result<u64, StoreError> {
        let findings: BTreeMap<String, String> = report
            .at_least(Severity::Warn)
            .map(|finding| (finding.name(), finding.to_string()))
            .collect();
        let mut call = self.call(&NOTE_FINDINGS, 0);
        for (name, text) in &findings {
            let json = serde_json::Value::from(text.as_str()).to_string();
            call.arg("name", name).arg("found", text).arg("json", json);
        }
        let (_, written): (i64, u64) = self.connections.script(&call).await?;
        Ok(written)
    }

    /// Returns the last findings, by check and server.
    pub async fn findings(&self) -> Result<Vec<String>, StoreError> {
        let key = format!("{}findings", self.keys.shard(0).prefix);
        let mut ask = deadpool_redis::redis::pipe();
        ask.cmd("HVALS").arg(key);
        let (texts,): (Vec<Text>,) = self.connections.pipeline(&ask).await?;
        Ok(texts.into_iter().map(|Text(text)| text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_INFO: &str = "redis_version:7.0.15\r\nmaxmemory:1000\r\n\
                             maxmemory_policy:noeviction\r\n\
                             aof_enabled:1\r\nconnected_slaves:2\r\n";
    const CONFIG: [(&str, &str); 3] = [
        ("appendfsync", "everysec"),
        ("save", ""),
        ("min-replicas-to-write", "1"),
    ];

    fn found(
        info: &str,
        config: &[(&str, &str)],
        durability: Durability,
        allow_eviction: bool,
    ) -> Vec<(String, Severity)> {
        let facts = ServerFacts::new("here:6379", info, config);
        let report = check_all(
            &[facts],
            Required {
                durability,
                allow_eviction,
            },
        );
        assert!(
            report
                .findings
                .iter()
                .all(|finding| finding.to_string().contains("here:6379"))
        );
        report
            .findings
            .into_iter()
            .map(|finding| (finding.check.to_owned(), finding.severity))
            .collect()
    }

    #[test]
    fn each_setting_that_breaks_or_weakens_a_promise_is_found() {
        use Severity::{Note, Refuse, Warn};
        let (memory, aof, two) = (Durability::Memory, Durability::Aof, Durability::Replicas(2));
        for durability in [memory, aof, Durability::Replicas(1)] {
            assert_eq!(
                found(GOOD_INFO, &CONFIG, durability, false),
                [],
                "{durability}"
            );
        }
        let cases = [
            (
                "maxmemory_policy:noeviction",
                "maxmemory_policy:allkeys-lru",
                memory,
                ("maxmemory-policy", Refuse),
            ),
            (
                "maxmemory_policy:noeviction",
                "maxmemory_policy:volatile-ttl",
                memory,
                ("maxmemory-policy", Refuse),
            ),
            ("maxmemory:1000", "maxmemory:0", memory, ("maxmemory", Note)),
            (
                "redis_version:7.0.15",
                "redis_version:6.2.14",
                memory,
                ("redis_version", Refuse),
            ),
            ("aof_enabled:1", "aof_enabled:0", memory, ("save", Note)),
            (
                "aof_enabled:1",
                "aof_enabled:0",
                aof,
                ("appendonly", Refuse),
            ),
            (
                "connected_slaves:2",
                "connected_slaves:0",
                Durability::Replicas(1),
                ("connected_slaves", Warn),
            ),
            ("", "", two, ("min-replicas-to-write", Warn)),
        ];
        for (good, bad, durability, (check, severity)) in cases {
            let info = GOOD_INFO.replacen(good, bad, 1);
            assert_eq!(
                found(&info, &CONFIG, durability, false),
                [(check.to_owned(), severity)],
                "{bad}"
            );
        }
        let evicts = GOOD_INFO.replace("noeviction", "allkeys-lfu");
        assert_eq!(
            found(&evicts, &CONFIG, memory, true),
            [("maxmemory-policy".to_owned(), Warn)],
            "an operator accepts eviction"
        );
        let no_sync = [("appendfsync", "no"), CONFIG[1], CONFIG[2]];
        assert_eq!(
            found(GOOD_INFO, &no_sync, aof, false),
            [("appendfsync".to_owned(), Warn)]
        );
    }

    #[test]
    fn forbidden_settings_are_listed_as_not_checked_and_give_no_findings() {
        let facts = ServerFacts::new("here:6379", GOOD_INFO, &[]);
        for (durability, check) in [
            (Durability::Memory, "save"),
            (Durability::Aof, "appendfsync"),
            (Durability::Replicas(1), "min-replicas-to-write"),
        ] {
            let report = check_all(
                std::slice::from_ref(&facts),
                Required {
                    durability,
                    allow_eviction: false,
                },
            );
            assert_eq!(report.findings, []);
            assert!(
                report.not_checked.len() == 1 && report.not_checked[0].starts_with(check),
                "{report:?}"
            );
        }
        let nothing = ServerFacts::new("here:6379", "", &[]);
        let report = check_all(
            &[nothing],
            Required {
                durability: Durability::Aof,
                allow_eviction: false,
            },
        );
        assert_eq!(
            (report.findings.len(), report.not_checked.len()),
            (0, 5),
            "{report:?}"
        );
    }
}
