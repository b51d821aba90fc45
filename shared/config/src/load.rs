//! Loads the configuration: every key, from the defaults, a file and the environment, in this
//! order. All faults are reported at once.

use std::env;
use std::mem;
use std::path::Path;

use placement::providers::Providers;
use policy::table::Table as PolicyTable;
use senders::settings::route::{Route, check_http_hosts};
use store::handle::{Limits, Store};
use typed_toml::fault::{SettingsFault, SettingsFaults};

use crate::model::Config;
use crate::read::{check_lists, from_variables, pace};

/// The text of the defaults, which is also their documentation.
pub const DEFAULT: &str = include_str!("default.toml");

const ENVIRONMENT: &str = "environment";

impl Config {
    /// Returns the defaults alone.
    pub fn embedded() -> Self {
        Self::from_layers(&[("default.toml", DEFAULT)], &[])
            .expect("the defaults are valid, which a test checks")
    }

    /// Reads the defaults, then the file if one is given, then the environment variables
    /// `REDELIVER_SECTION__KEY`.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsFaults> {
        let (config, faults) = Self::read_all(file)?;
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(SettingsFaults(faults))
        }
    }

    /// Returns all faults of the configuration, and those of the policy table in use.
    pub fn faults(file: Option<&Path>) -> Vec<SettingsFault> {
        let (config, mut faults) = match Self::read_all(file) {
            Ok(read) => read,
            Err(SettingsFaults(faults)) => return faults,
        };
        if let Err(SettingsFaults(of_policy)) = config.policy() {
            faults.extend(of_policy);
        }
        faults
    }

    /// Returns what could be read, and all faults of the rest.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn read_all(file: Option<&Path>) -> Result<(Self, Vec<SettingsFault>), SettingsFaults> {
        let mut files = vec![("default.toml".to_owned(), DEFAULT.to_owned())];
        files.extend(file.map(read_file).transpose()?);
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let (mut config, faults) = Self::read_layers(&files, &variables());
        // A relative path in a file is relative to the file's folder.
        if let Some(folder) = file.and_then(Path::parent) {
            for path in [
                &mut config.policy.file,
                &mut config.access.tokens_file,
                &mut config.cli.ca_file,
                &mut config.cli.cert_file,
                &mut config.cli.key_file,
            ]
            .into_iter()
            .flatten()
            {
                *path = folder.join(&*path);
            }
        }
        Ok((config, faults))
    }

    /// Returns the policy table in use: the default table, with the rows of `policy.file` added.
    pub fn policy(&self) -> Result<std::sync::Arc<PolicyTable>, SettingsFaults> {
        let Some(path) = &self.policy.file else {
            return Ok(PolicyTable::embedded());
        };
        let name = path.display().to_string();
        let text = typed_toml::files::read_text(path).map_err(|text| {
            SettingsFaults(vec![SettingsFault {
                file: name.clone(),
                key: "policy.file".to_owned(),
                text,
            }])
        })?;
        PolicyTable::with_file(&name, &text).map(Into::into)
    }

    /// Returns what is valid in the policy file but easily overlooked. If the file cannot be read,
    /// there is nothing to note.
    pub fn policy_notes(&self) -> Vec<String> {
        let Some(path) = &self.policy.file else {
            return Vec::new();
        };
        let text = typed_toml::files::read_text(path).unwrap_or_default();
        policy::load::left_out(&path.display().to_string(), &text)
    }

    /// Returns the store with the providers, rules and keys of this configuration.
    #[must_use]
    pub fn apply_to(&self, store: Store) -> Store {
        let store = store
            .with_places(self.providers.clone(), self.placement.bounds())
            .with_rules(&self.destinations);
        match self.privacy.address_key.reveal() {
            [] => store,
            key => store.with_address_key(key),
        }
    }

    /// Returns the limits that the store enforces, from this configuration and a policy table.
    pub fn limits(&self, table: &PolicyTable) -> Limits {
        Limits {
            max_messages: self.job.max_messages,
            record_max: self.job.record_max,
            unavailable_for: table.unavailable_for,
            unavailable_max: table.unavailable_max,
            strikes: table.strikes,
            max_lapses: self.job.max_lapses,
            pace: self.pace,
        }
    }

    pub(crate) fn from_layers(
        files: &[(&str, &str)],
        variables: &[(String, String)],
    ) -> Result<Self, SettingsFaults> {
        let (config, faults) = Self::read_layers(files, variables);
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(SettingsFaults(faults))
        }
    }

    fn read_layers(
        files: &[(&str, &str)],
        variables: &[(String, String)],
    ) -> (Self, Vec<SettingsFault>) {
        let mut faults = Vec::new();
        let mut config = Self {
            providers: Providers::embedded(),
            ..Self::default()
        };
        let mut built_in = Vec::new();
        for (n, (file, text)) in files.iter().enumerate() {
            match toml::from_str(text) {
                Ok(table) => config.read(file, &table, &mut faults),
                Err(err) => faults.push(SettingsFault::syntax(file, text, &err)),
            }
            if n == 0 {
                built_in = mem::take(&mut config.routes);
            }
        }
        check_lists(variables, &mut faults);
        config.read(ENVIRONMENT, &from_variables(variables), &mut faults);
        // The built-in route only logs mail. If another route is the default, messages must not
        // reach the built-in one by its name.
        let is_wanted = |route: &Route| {
            route.name == config.worker.route
                && !config.routes.iter().any(|known| known.name == route.name)
        };
        built_in.retain(is_wanted);
        config.routes.splice(0..0, built_in);
        config.worker.fit_concurrency(&config.routes);
        config.check(&mut faults);
        (config, faults)
    }

    /// Checks settings that depend on each other. If a value could not be read, most checks are
    /// left out, because it would only cause more faults.
    fn check(&self, faults: &mut Vec<SettingsFault>) {
        let are_routes_read = !faults.iter().any(|fault| fault.key.starts_with("route."));
        let is_route = |route: &Route| route.name == self.worker.route;
        if are_routes_read && !self.routes.iter().any(is_route) {
            faults.push(across_files("worker.route", self.unknown_route()));
        }
        if faults.iter().any(|fault| fault.key != "worker.route") {
            return;
        }
        self.redis.check(faults);
        self.hooks.check(faults);
        pace::check_windows(&self.pace, faults);
        check_http_hosts(&self.worker.http_hosts, &self.routes, faults);
        if let Some((key, text)) = self.verp.fault() {
            faults.push(across_files(key, text.to_owned()));
        }
        if self.content_from_dsn && self.verp.domain.is_none() {
            let text = "needs verp.domain and verp.key_file: only a report to a return path that \
                        was signed may bring content";
            faults.push(across_files("intake.content_from_dsn", text.to_owned()));
        }
        if self.job.inline_max > self.job.record_max {
            let text = "is larger than job.record_max, so no job could contain such a message";
            faults.push(across_files("job.inline_max", text.to_owned()));
        }
    }

    fn unknown_route(&self) -> String {
        let route = &self.worker.route;
        let names: Vec<_> = self
            .routes
            .iter()
            .map(|route| route.name.as_str())
            .collect();
        if names.is_empty() {
            return format!("there is no [[route]] called \"{route}\"; add one");
        }
        let names = names.join(", ");
        format!("\"{route}\" is not a route; the routes are: {names}")
    }
}

/// Returns the variables of the environment. Others may not be valid UTF-8 and are left out.
pub(crate) fn variables() -> Vec<(String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Returns the name and the text of a configuration file.
pub(crate) fn read_file(path: &Path) -> Result<(String, String), SettingsFaults> {
    let name = path.display().to_string();
    match typed_toml::files::read_text(path) {
        Ok(text) => Ok((name, text)),
        Err(why) => Err(SettingsFaults(vec![SettingsFault {
            file: name,
            key: "file".to_owned(),
            text: format!("{why}; name another file with --config or REDELIVER_CONFIG"),
        }])),
    }
}

/// Returns a fault of a value that may come from any of the files.
fn across_files(key: &str, text: String) -> SettingsFault {
    SettingsFault {
        file: "all files".to_owned(),
        key: key.to_owned(),
        text,
    }
}

#[cfg(test)]
mod tests;
