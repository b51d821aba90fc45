//! Which keys have a value, and where each value is from. Values are not checked here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use toml::{Table, Value};
use typed_toml::fault::{SettingsFault, SettingsFaults};

use crate::load::{DEFAULT, read_file, variables};
use crate::read::{LISTS as VARIABLES, from_variables};

/// The lists of sections, each of which has a name (`[[route]]`).
const LISTS: [&str; 3] = ["route", "provider", "destination"];

/// Keys whose value is a table that a later source replaces as a whole.
const WHOLE: [&str; 1] = ["redis.sentinel"];

/// Keys of which one replaces the others.
const PLACES: [&str; 4] = [
    "redis.url",
    "redis.url_file",
    "redis.cluster",
    "redis.sentinel",
];

/// The last parts of keys whose values are secrets.
const SECRETS: [&str; 8] = [
    "password",
    "sentinel_password",
    "key",
    "address_key",
    "signing_key",
    "token",
    "tokens",
    "secret",
];

/// What is shown in place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The defaults.
    Default,
    /// A file, by its path.
    File(String),
    /// A variable of the environment, by its name.
    Environment(String),
}

/// One key that has a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key with its section, such as `redis.url` or `route.relay.host`.
    pub key: String,
    /// The value. [`HIDDEN`] replaces it, or the part of a URL, if it is a secret.
    pub value: Value,
    /// Where it is from.
    pub source: Source,
}

impl Source {
    /// Returns the kind of source: `default`, `file` or `environment`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File(_) => "file",
            Self::Environment(_) => "environment",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name) | Self::Environment(name) => f.write_str(name),
        }
    }
}

/// Returns all keys that have a value, in alphabetical order. The sources are the same as those of
/// a start.
///
/// # Errors
/// If the file cannot be read, or is not TOML.
pub fn settings(file: Option<&Path>) -> Result<Vec<Setting>, SettingsFaults> {
    let file = file.map(read_file).transpose()?;
    of_layers(
        file.as_ref()
            .map(|(name, text)| (name.as_str(), text.as_str())),
        &variables(),
    )
}

fn of_layers(
    file: Option<(&str, &str)>,
    variables: &[(String, String)],
) -> Result<Vec<Setting>, SettingsFaults> {
    let parse = |name: &str, text: &str| {
        toml::from_str::<Table>(text)
            .map_err(|err| SettingsFaults(vec![SettingsFault::syntax(name, text, &err)]))
    };
    let mut merged = Merged::default();
    merged.add(&parse("default.toml", DEFAULT)?, |_| Source::Default);
    if let Some((name, text)) = file {
        merged.add(&parse(name, text)?, |_| Source::File(name.to_owned()));
    }
    merged.add(&from_variables(variables), |key| {
        Source::Environment(variable(key))
    });
    Ok(merged.into_settings())
}

/// Returns the name of the variable that sets a key.
fn variable(key: &str) -> String {
    let section = key.split('.').next().unwrap_or_default();
    if let Some((_, list, _)) = VARIABLES.iter().find(|(name, ..)| *name == section) {
        return (*list).to_owned();
    }
    format!("REDELIVER_{}", key.to_uppercase().replace('.', "__"))
}

/// The values of all sources so far, by key.
#[derive(Default)]
struct Merged(BTreeMap<String, (Value, Source)>);

impl Merged {
    /// Adds the values of a source, which replace those of earlier sources.
    fn add(&mut self, table: &Table, source: impl Fn(&str) -> Source) {
        let mut found = Vec::new();
        for (key, value) in table {
            match value {
                Value::Array(items) if LISTS.contains(&key.as_str()) => {
                    for (n, item) in items.iter().enumerate() {
                        let name = item.get("name").and_then(Value::as_str);
                        let name = name.map_or(format!("#{}", n + 1), str::to_owned);
                        let section = format!("{key}.{name}");
                        // A section of a list replaces the one of the same name as a whole.
                        let prefix = format!("{section}.");
                        self.0.retain(|known, _| !known.starts_with(&prefix));
                        flatten(&section, item, &mut found);
                    }
                }
                _ => flatten(key, value, &mut found),
            }
        }
        for (key, _) in &found {
            for other in alternatives(key) {
                self.0.remove(&other);
            }
        }
        for (key, value) in found {
            let source = source(&key);
            self.0.insert(key, (value, source));
        }
    }

    fn into_settings(mut self) -> Vec<Setting> {
        self.leave_out_unused_route();
        self.0
            .into_iter()
            .map(|(key, (value, source))| Setting {
                value: without_secrets(&key, value),
                key,
                source,
            })
            .collect()
    }

    /// The built-in route exists only while `worker.route` names it.
    fn leave_out_unused_route(&mut self) {
        let named = self.0.get("worker.route");
        let named = named.and_then(|(value, _)| value.as_str());
        let wanted = format!("route.{}.", named.unwrap_or_default());
        self.0.retain(|key, (_, source)| {
            let is_built_in = key.starts_with("route.") && *source == Source::Default;
            !is_built_in || key.starts_with(&wanted)
        });
    }
}

/// Adds the values below a table, with their whole keys.
fn flatten(key: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Table(table) if !WHOLE.contains(&key) => {
            for (name, value) in table {
                flatten(&format!("{key}.{name}"), value, found);
            }
        }
        value => found.push((key.to_owned(), value.clone())),
    }
}

/// Returns the other keys that set the same thing. The value of a later source replaces theirs.
fn alternatives(key: &str) -> Vec<String> {
    if PLACES.contains(&key) {
        let others = PLACES.iter().filter(|place| **place != key);
        return others.map(|place| (*place).to_owned()).collect();
    }
    match key.strip_suffix("_file") {
        // Tokens may be in both places.
        _ if key.starts_with("access.tokens") => Vec::new(),
        Some(in_place) => vec![in_place.to_owned()],
        None => vec![format!("{key}_file")],
    }
}

/// Hides a value that is a secret, and the users and passwords of URLs.
fn without_secrets(key: &str, value: Value) -> Value {
    let name = key.rsplit('.').next().unwrap_or_default();
    match value {
        Value::Table(table) => Value::Table(
            table
                .into_iter()
                .map(|(name, value)| {
                    let value = without_secrets(&name, value);
                    (name, value)
                })
                .collect(),
        ),
        _ if SECRETS.contains(&name) => Value::String(HIDDEN.to_owned()),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| without_secrets(key, item));
            Value::Array(items.collect())
        }
        Value::String(text) => Value::String(without_user(&text)),
        other => other,
    }
}

/// Returns a URL without its user and password. Other text is returned as it is.
fn without_user(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{HIDDEN}@{host}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of a file and variables, as `key value source`.
    fn shown(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let settings = of_layers(Some(("mine.toml", file)), &variables).unwrap();
        settings
            .into_iter()
            .map(|Setting { key, value, source }| format!("{key} {value} {source}"))
            .collect()
    }

    fn has(list: &[String], line: &str) {
        assert!(list.iter().any(|shown| shown == line), "{line}: {list:#?}");
    }

    fn lacks(list: &[String], part: &str) {
        assert!(
            !list.iter().any(|shown| shown.contains(part)),
            "{part}: {list:#?}"
        );
    }

    #[test]
    fn each_value_has_its_source() {
        let list = shown(
            "[redis]\nprefix = \"q\"\nshards = 16\n[[route]]\nname = \"relay\"\n\
             sender = \"smtp\"\nhost = \"r\"\n[worker]\nroute = \"relay\"\n",
            &[
                ("REDELIVER_REDIS__SHARDS", "4"),
                ("REDELIVER_INTAKE__HOOKS__POSTMARK__USER", "postmark"),
                ("REDELIVER_HOST", "not one of ours"),
            ],
        );
        has(&list, "redis.prefix \"q\" mine.toml");
        has(&list, "redis.shards 4 REDELIVER_REDIS__SHARDS");
        has(&list, "redis.pool_max 16 default");
        has(&list, "route.relay.host \"r\" mine.toml");
        has(
            &list,
            "intake.hooks.postmark.user \"postmark\" REDELIVER_INTAKE__HOOKS__POSTMARK__USER",
        );
        lacks(&list, "route.default");
        has(&list, "redis.url \"redis://127.0.0.1:6379/0\" default");
        assert!(list.is_sorted(), "{list:#?}");
        has(&shown("", &[]), "route.default.sender \"log\" default");
    }

    #[test]
    fn a_key_replaces_the_other_keys_for_the_same_thing() {
        let cluster = shown("[redis]\ncluster = [\"redis://a:1\"]", &[]);
        has(&cluster, "redis.cluster [\"redis://a:1\"] mine.toml");
        lacks(&cluster, "redis.url ");
        let file = shown(
            "[verp]\nkey = \"0123456789abcdef\"",
            &[("REDELIVER_VERP__KEY_FILE", "/run/key")],
        );
        has(&file, "verp.key_file \"/run/key\" REDELIVER_VERP__KEY_FILE");
        lacks(&file, "verp.key ");
    }

    #[test]
    fn secrets_are_hidden() {
        let list = shown(
            "[redis]\nsentinel_password = \"geheim1\"\n\
             sentinel = { master = \"m\", nodes = [\"redis://ann:geheim2@s1:1\"] }\n\
             [access]\ntokens = [\"ops read sha256:geheim3\"]\n\
             [intake.hooks.kumomta]\ntoken = \"geheim4\"\n\
             [[route]]\nname = \"r\"\nsender = \"smtp\"\npassword = \"geheim5\"\n",
            &[
                ("REDELIVER_REDIS__PASSWORD", "geheim6"),
                ("REDELIVER_PRIVACY__ADDRESS_KEY", "geheim7"),
                ("REDELIVER_INTAKE__HOOKS__MAILGUN__SIGNING_KEY", "geheim8"),
                ("REDELIVER_VERP__KEY", "geheim9"),
            ],
        );
        lacks(&list, "geheim");
        has(
            &list,
            "redis.password \"(hidden)\" REDELIVER_REDIS__PASSWORD",
        );
        let url = shown("[redis]\nurl = \"redis://:a/b@c@h:1/0\"", &[]);
        has(&url, "redis.url \"redis://(hidden)@h:1/0\" mine.toml");
    }

    #[test]
    fn every_secret_key_of_the_defaults_is_known() {
        // Each key for the file of a secret has a key for the secret itself, except for public
        // files.
        let public = [
            "url",
            "policy",
            "tls_ca",
            "tls_cert",
            "ca",
            "cert",
            "public_key",
        ];
        for line in DEFAULT.lines() {
            let Some((name, _)) = line.trim_start_matches(['#', ' ']).split_once("_file = ") else {
                continue;
            };
            let is_path = public.contains(&name) || name == "tls_key";
            assert!(
                is_path || SECRETS.contains(&name),
                "{name} is not in the list of secrets"
            );
        }
    }
}
