//! `redeliver config`: checks the configuration, and prints it with the source of each value. It
//! connects to nothing.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use config::model::Config;
use config::sources::{Setting, Source, settings};
use domain::clock::Clock;
use scheduler::access::Access;
use serde_json::{Value, json};
use system::clock::SystemClock;
use typed_toml::fault::SettingsFault;
use worker::routes::Routes;

use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Report all faults of the configuration, of the policy file, and of the files that they name
    ///
    /// Exits with 0 if there is none, else with 1.
    Check {
        /// Print the faults as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print each key with its value and the source of the value; secrets are hidden
    Print {
        /// Print one JSON object per key
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    let file = process::config_file(config);
    match arguments.action {
        Action::Check { json } => check(file, json),
        Action::Print { json } => print(file, json),
    }
}

fn check(file: Option<&Path>, as_json: bool) -> Result<ExitCode> {
    let faults = faults(file);
    if as_json {
        let list: Vec<Value> = faults
            .iter()
            .map(
                |SettingsFault { file, key, text }| json!({"file": file, "key": key, "text": text}),
            )
            .collect();
        process::print(&format!("{}\n", json!({"faults": list})))?;
    } else {
        let lines: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
        process::print(&lines)?;
        if faults.is_empty() {
            for note in Config::load(file)?.policy_notes() {
                eprintln!("note: {note}");
            }
        }
        eprintln!("{}", summary(file, faults.len()));
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns all faults. What can be checked only with a valid configuration is checked last.
fn faults(file: Option<&Path>) -> Vec<SettingsFault> {
    let mut faults = Config::faults(file);
    if !faults.is_empty() {
        return faults;
    }
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(found) => return found.0,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let name = file.map_or("all sources".to_owned(), |file| file.display().to_string());
    let mut add = |key: &str, text: String| {
        faults.push(SettingsFault {
            file: name.clone(),
            key: key.to_owned(),
            text,
        });
    };
    if let Err(why) = Access::from_config(&config.access, clock.clone()) {
        add("access", why);
    }
    if let Some(Err(why)) = config
        .scheduler
        .listen
        .map(|listen| Access::may_listen(&config.access, listen))
    {
        add("scheduler.listen", why);
    }
    if let Err(why) = Routes::from_config(&config, &clock) {
        add("route", why);
    }
    faults
}

/// Returns what was checked, and the number of faults, in words.
fn summary(file: Option<&Path>, faults: usize) -> String {
    let what = match file {
        Some(file) => format!("{} and the environment", file.display()),
        None => "the defaults and the environment (there is no file)".to_owned(),
    };
    match faults {
        0 => format!("no fault in {what}"),
        1 => format!("1 fault in {what}"),
        n => format!("{n} faults in {what}"),
    }
}

fn print(file: Option<&Path>, as_json: bool) -> Result<ExitCode> {
    // A misspelt key of a secret would not be known as one, so nothing is printed.
    Config::load(file).map_err(|faults| anyhow!("the configuration has faults:\n{faults}"))?;
    let settings = settings(file)?;
    let width = settings.iter().map(|setting| line(setting).chars().count());
    // The comments of a few long lines are not aligned with the others.
    let width = width.filter(|width| *width <= 60).max().unwrap_or_default();
    let text: String = settings
        .iter()
        .map(|setting| match as_json {
            true => format!("{}\n", as_object(setting)),
            false => format!("{:<width$}  # {}\n", line(setting), setting.source),
        })
        .collect();
    process::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns a setting as a line of TOML.
fn line(Setting { key, value, .. }: &Setting) -> String {
    format!("{key} = {value}")
}

fn as_object(Setting { key, value, source }: &Setting) -> Value {
    let mut object = json!({"key": key, "value": value, "source": source.kind()});
    match source {
        Source::Default => {}
        Source::File(file) => object["file"] = json!(file),
        Source::Environment(variable) => object["variable"] = json!(variable),
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_line_of_toml_or_an_object_with_its_source() {
        let setting = Setting {
            key: "redis.shards".to_owned(),
            value: 4.into(),
            source: Source::Environment("REDELIVER_REDIS__SHARDS".to_owned()),
        };
        assert_eq!(line(&setting), "redis.shards = 4");
        assert_eq!(
            as_object(&setting),
            json!({
                "key": "redis.shards", "value": 4, "source": "environment",
                "variable": "REDELIVER_REDIS__SHARDS",
            })
        );
    }
}
