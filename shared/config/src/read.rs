//! Reads one layer of configuration into the settings, and checks the bounds of every key.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use toml::{Table, Value};
use typed_toml::set::{DAY, SECOND, set, set_number};

pub(crate) mod pace;

use senders::settings::route::read_route;
use telemetry::log::{Format, Log, fault_of_filter};
use typed_toml::fault::SettingsFault;
use typed_toml::hosts::HostRule;
use typed_toml::names::nameserver;
use typed_toml::section::Section;

use crate::cron::read_cron;
use crate::model::{Config, Job, Journal, Placement, Policy, Scheduler, Upkeep, Worker};
use crate::telemetry::read_telemetry;

/// Reads the keys of one section.
type Reader = fn(&mut Config, &mut Section<'_, '_>);

/// Each section of the file with its reader, in the order of `default.toml`.
const SECTIONS: [(&str, Reader); 18] = [
    ("redis", |config, section| config.redis.read(section)),
    ("scheduler", |config, section| {
        config.scheduler.read(section);
    }),
    ("access", |config, section| config.access.read(section)),
    ("cli", |config, section| config.cli.read(section)),
    ("intake", |config, section| {
        set(
            &mut config.content_from_dsn,
            section.switch("content_from_dsn"),
        );
        section.within("hooks", |hooks| config.hooks.read(hooks));
        section.within("lmtp", |lmtp| config.lmtp.read(lmtp));
        section.within("stream", |stream| config.stream.read(stream));
    }),
    ("job", |config, section| config.job.read(section)),
    ("worker", |config, section| config.worker.read(section)),
    ("pace", |config, section| {
        pace::read_pace(&mut config.pace, section);
    }),
    ("breaker", |config, section| {
        pace::read_breaker(&mut config.pace.breaker, section);
    }),
    ("content", |config, section| config.content.read(section)),
    ("policy", |config, section| config.policy.read(section)),
    ("journal", |config, section| config.journal.read(section)),
    ("upkeep", |config, section| config.upkeep.read(section)),
    ("log", |config, section| read_log(&mut config.log, section)),
    ("telemetry", |config, section| {
        read_telemetry(&mut config.telemetry, section);
    }),
    ("privacy", |config, section| config.privacy.read(section)),
    ("placement", |config, section| {
        config.placement.read(section);
    }),
    ("verp", |config, section| config.verp.read(section)),
];

impl Config {
    /// Reads the keys that one layer sets.
    pub(crate) fn read(&mut self, file: &str, table: &Table, faults: &mut Vec<SettingsFault>) {
        let mut top = Section::new(file, "", table, faults);
        let sections = SECTIONS.map(|(name, read)| (name, read, top.table(name)));
        let routes = top.tables("route");
        let providers = top.tables("provider");
        let destinations = top.tables("destination");
        top.finish();
        for (name, read, table) in sections {
            let Some(table) = table else { continue };
            let mut section = Section::new(file, name, table, faults);
            read(self, &mut section);
            section.finish();
        }
        let mut named = Vec::new();
        for table in destinations {
            pace::read_destination(
                &mut self.destinations,
                &self.pace,
                file,
                table,
                faults,
                &mut named,
            );
        }
        self.providers.read(file, &providers, faults);
        let mut named = Vec::new();
        for (n, table) in routes.into_iter().enumerate() {
            let label = table
                .get("name")
                .and_then(Value::as_str)
                .map_or(format!("#{}", n + 1), str::to_owned);
            let mut section = Section::new(file, format!("route.{label}"), table, faults);
            if named.contains(&label) {
                section.fault(
                    "name",
                    "another [[route]] in this file has this name; keep one of them",
                );
            }
            named.push(label);
            let Some(route) = read_route(section) else {
                continue;
            };
            match self
                .routes
                .iter_mut()
                .find(|known| known.name == route.name)
            {
                Some(known) => *known = route,
                None => self.routes.push(route),
            }
        }
    }
}

/// Reads the key `listen`.
fn read_address(listen: &mut Option<SocketAddr>, section: &mut Section<'_, '_>, example: &str) {
    let Some(text) = section.text("listen") else {
        return;
    };
    match SocketAddr::from_str(text) {
        Ok(address) => *listen = Some(address),
        Err(_) => section.fault(
            "listen",
            format!("\"{text}\" is not an address like \"{example}\""),
        ),
    }
}

impl Scheduler {
    fn read(&mut self, section: &mut Section<'_, '_>) {
        read_address(&mut self.listen, section, "127.0.0.1:8025");
        set(
            &mut self.body_max,
            section.size("body_max", 1 << 10..=1 << 30),
        );
        set(
            &mut self.line_max,
            section.size("line_max", 1 << 10..=1 << 30),
        );
        set_number(&mut self.batch, section.number("batch", 1..=10_000));
        set_number(&mut self.batches, section.number("batches", 1..=1_000));
        set(
            &mut self.answers_in_memory,
            section.size("answers_in_memory", 1 << 10..=1 << 30),
        );
        set(
            &mut self.answers_max,
            section.size("answers_max", 1 << 10..=1 << 40),
        );
        set_number(
            &mut self.items_max,
            section.number("items_max", 1..=1_000_000),
        );
        set(
            &mut self.idle_max,
            section.duration("idle_max", SECOND..=DAY),
        );
        set(
            &mut self.suppress_timeout,
            section.duration("suppress_timeout", Duration::from_millis(1)..=DAY),
        );
        set(
            &mut self.drain,
            section.duration("drain", Duration::ZERO..=DAY),
        );
        set(
            &mut self.grace,
            section.duration("grace", Duration::ZERO..=DAY),
        );
        self.connections.read(section);
    }
}

impl Job {
    fn read(&mut self, section: &mut Section<'_, '_>) {
        set_number(
            &mut self.max_messages,
            section.number("max_messages", 1..=1_000),
        );
        set(
            &mut self.record_max,
            section.size("record_max", 16 << 10..=16 << 20),
        );
        set(
            &mut self.inline_max,
            section.size("inline_max", 1..=16 << 20),
        );
        set_number(
            &mut self.max_lapses,
            section.number("max_lapses", 1..=1_000),
        );
    }
}

impl Worker {
    fn read(&mut self, section: &mut Section<'_, '_>) {
        set_number(
            &mut self.concurrency,
            section.number("concurrency", 0..=100_000),
        );
        set_number(
            &mut self.connections_max,
            section.number("connections_max", 1..=1_000_000),
        );
        set_number(
            &mut self.batch,
            section.number("batch", 1..=store::batch::BATCH_MAX as u64),
        );
        set_number(
            &mut self.share,
            section.number("share", 1..=store::batch::BATCH_MAX as u64),
        );
        set(&mut self.lease, section.duration("lease", SECOND..=DAY));
        set(
            &mut self.poll_max,
            section.duration("poll_max", SECOND / 1_000..=60 * SECOND),
        );
        set(
            &mut self.heartbeat,
            section.duration("heartbeat", SECOND / 100..=60 * SECOND),
        );
        set(
            &mut self.settle_linger,
            section.duration("settle_linger", Duration::ZERO..=SECOND),
        );
        set(
            &mut self.unproven_share,
            section.fraction("unproven_share", 0.01..=1.0),
        );
        set(
            &mut self.patience,
            section.duration("patience", SECOND / 10..=600 * SECOND),
        );
        set(
            &mut self.attempt_max,
            section.duration("attempt_max", SECOND..=7 * DAY),
        );
        set(
            &mut self.grace,
            section.duration("grace", Duration::ZERO..=DAY),
        );
        set(&mut self.route, section.text("route").map(str::to_owned));
        read_address(&mut self.listen, section, "127.0.0.1:8027");
        if section.has("http_hosts") {
            self.http_hosts = HostRule::read_all(section, "http_hosts");
        }
    }
}

impl Upkeep {
    fn read(&mut self, section: &mut Section<'_, '_>) {
        set(
            &mut self.reinstate,
            read_cron(section, "reinstate").map(str::to_owned),
        );
        set(
            &mut self.trim_journal,
            read_cron(section, "trim_journal").map(str::to_owned),
        );
        set(
            &mut self.trim_delivered,
            read_cron(section, "trim_delivered").map(str::to_owned),
        );
        set(
            &mut self.check_servers,
            read_cron(section, "check_servers").map(str::to_owned),
        );
        set(
            &mut self.repair,
            read_cron(section, "repair").map(str::to_owned),
        );
    }
}

impl Policy {
    fn read(&mut self, section: &mut Section<'_, '_>) {
        let file = section.text("file");
        set(&mut self.file, file.map(|file| Some(file.into())));
    }
}

impl Journal {
    fn read(&mut self, section: &mut Section<'_, '_>) {
        let allowed = 60 * SECOND..=3_660 * DAY;
        set(&mut self.keep, section.duration("keep", allowed));
    }
}

/// Reads `[log]`.
fn read_log(log: &mut Log, section: &mut Section<'_, '_>) {
    set(
        &mut log.format,
        section.choice(
            "format",
            &[
                ("auto", Format::Auto),
                ("text", Format::Text),
                ("json", Format::Json),
            ],
        ),
    );
    if let Some(filter) = section.text("filter") {
        match fault_of_filter(filter) {
            None => log.filter = filter.to_owned(),
            Some(fault) => section.fault("filter", fault),
        }
    }
}

impl Placement {
    fn read(&mut self, section: &mut Section<'_, '_>) {
        set(&mut self.mx, section.switch("mx"));
        let servers = section.texts("nameservers");
        if section.has("nameservers") {
            self.nameservers.clear();
        }
        for text in servers {
            match nameserver(text) {
                Some(address) => self.nameservers.push(address),
                None => {
                    section.fault(
                        "nameservers",
                        format!(
                            "\"{text}\" is not an address like \"192.0.2.53\" or \"127.0.0.1:5353\""
                        ),
                    );
                }
            }
        }
        set(
            &mut self.timeout,
            section.duration("timeout", SECOND / 100..=60 * SECOND),
        );
        set_number(
            &mut self.lookups_max,
            section.number("lookups_max", 1..=10_000),
        );
        set_number(
            &mut self.kept_max,
            section.number("kept_max", 0..=1_000_000_000),
        );
        set_number(
            &mut self.cached_max,
            section.number("cached_max", 1..=10_000_000),
        );
    }
}

/// The lists of sections, each with its variable and an example of its value.
pub(crate) const LISTS: [(&str, &str, &str); 3] = [
    (
        "route",
        "REDELIVER_ROUTE",
        r#"[{name = "relay", sender = "smtp", host = "relay.internal"}]"#,
    ),
    (
        "provider",
        "REDELIVER_PROVIDER",
        r#"[{name = "example", domains = ["example.com"]}]"#,
    ),
    (
        "destination",
        "REDELIVER_DESTINATION",
        r#"[{name = "example.com", rate = 0.5}]"#,
    ),
];

/// Reads the environment: `REDELIVER_REDIS__URL=…` is `[redis] url = …`, and more double
/// underscores mean deeper sections. A value that is valid TOML is read as TOML, and any other
/// value as text. A list of sections is one value, for example in `REDELIVER_ROUTE`; see
/// [`check_lists`]. Other variables without a double underscore are ignored: Kubernetes sets some
/// with our prefix.
pub(crate) fn from_variables(variables: &[(String, String)]) -> Table {
    let mut table = Table::new();
    for (name, value) in variables {
        if let Some((key, ..)) = LISTS.iter().find(|(_, list, _)| name == list) {
            let list = read_value(value);
            if list.is_array() {
                table.insert((*key).to_owned(), list);
            }
            continue;
        }
        let Some((sections, key)) = name
            .strip_prefix("REDELIVER_")
            .and_then(|rest| rest.rsplit_once("__"))
        else {
            continue;
        };
        if list_of(name).is_some() {
            continue;
        }
        let value = read_value(value);
        let section = sections.split("__").try_fold(&mut table, |table, section| {
            let inner = table
                .entry(section.to_lowercase())
                .or_insert_with(|| Value::Table(Table::new()));
            inner.as_table_mut()
        });
        if let Some(section) = section {
            section.insert(key.to_lowercase(), value);
        }
    }
    table
}

/// Reports each variable that cannot set a section of a list, with one that can: each that is for a
/// single key of a `[[route]]`, and each list that is not a list of sections in TOML. The value is
/// not shown, because it may contain a secret.
pub(crate) fn check_lists(variables: &[(String, String)], faults: &mut Vec<SettingsFault>) {
    for (name, value) in variables {
        let is_wrong_list = |list: &str| name == list && !read_value(value).is_array();
        let found = LISTS
            .iter()
            .find(|(_, list, _)| is_wrong_list(list))
            .or_else(|| list_of(name));
        let Some((key, list, example)) = found else {
            continue;
        };
        faults.push(SettingsFault {
            file: name.clone(),
            key: (*key).to_owned(),
            text: format!(
                "[[{key}]] is a list of sections: write it in redeliver.toml, or all of it as one \
                 value in TOML: {list}='{example}'"
            ),
        });
    }
}

/// Returns the list whose section this variable is for, such as `REDELIVER_ROUTE__HOST`.
fn list_of(name: &str) -> Option<&'static (&'static str, &'static str, &'static str)> {
    LISTS.iter().find(|(_, list, _)| {
        name.strip_prefix(list)
            .is_some_and(|rest| rest.starts_with("__"))
    })
}

/// Reads a value as TOML if it is valid TOML, and otherwise as text.
fn read_value(value: &str) -> Value {
    toml::from_str::<Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(value.to_owned()))
}
