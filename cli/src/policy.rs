//! `redeliver policy`: prints the retry policy in force, either the whole table or one row.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use domain::reply::Reply;
use policy::row::Row;
use policy::table::Table;
use serde_json::{Value, json};

use crate::figures::spans;
use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,

    /// Print JSON, one row per line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show one row: the row that applies to a status (4.3.1), a reply code (421) or a whole reply,
    /// or the row with the given name
    Show {
        /// The status, code, reply or name to look up
        status: String,
    },
}

pub(crate) fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    let (config, table) = process::configure(config)?;
    for note in config.policy_notes() {
        eprintln!("note: {note}");
    }
    let text = match &arguments.action {
        Some(Action::Show { status }) => {
            let row = find(&table, status)?;
            if arguments.json {
                format!("{}\n", row_json(row))
            } else {
                row_text(row)
            }
        }
        None if arguments.json => table
            .rows()
            .iter()
            .map(|row| format!("{}\n", row_json(row)))
            .collect(),
        None => table_text(&table),
    };
    process::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the row with this name. If there is none, reads `text` as a status, a code or a reply,
/// and returns the row that applies to it.
fn find<'t>(table: &'t Table, text: &str) -> Result<&'t Row> {
    if let Some(row) = table.rows().iter().find(|row| row.name == text) {
        return Ok(row);
    }
    let reply = match text.parse() {
        Ok(status) => Reply {
            status: Some(status),
            ..Reply::default()
        },
        Err(_) => Reply::parse(text),
    };
    if reply.code.is_none() && reply.status.is_none() {
        let names: Vec<_> = table.rows().iter().map(|row| row.name.as_str()).collect();
        bail!(
            "\"{text}\" is neither a status (4.3.1), a reply code (421), a reply, \
             nor the name of a row: {}",
            names.join(", ")
        );
    }
    if reply.is_success() {
        bail!(
            "\"{text}\" means that the mail was delivered; the policy is for failures, 4xx and 5xx"
        );
    }
    Ok(table.row(&reply, "", None, ""))
}

fn patterns(row: &Row) -> Vec<String> {
    row.status.iter().map(ToString::to_string).collect()
}

fn reasons(row: &Row) -> String {
    row.reason
        .iter()
        .map(|reason| reason.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

fn row_json(row: &Row) -> Value {
    json!({
        "name": row.name,
        "status": patterns(row),
        "text": row.text.as_ref().map(regex::Regex::as_str),
        "reason": row.reason,
        "account": row.account,
        "stream": row.stream,
        "destination": row.destination,
        "class": row.class().as_str(),
        "scope": row.scope.as_str(),
        "delays_s": row.delays.iter().map(std::time::Duration::as_secs).collect::<Vec<_>>(),
        "jitter": row.jitter.to_string(),
        "hint": row.hint.as_str(),
        "hold": row.hold,
        "final": row.end.as_str(),
    })
}

fn row_text(row: &Row) -> String {
    let delays = if row.delays.is_empty() {
        "none: no retry".to_owned()
    } else {
        spans(&row.delays)
    };
    let mut lines = vec![
        ("name", row.name.clone()),
        ("status", patterns(row).join(" ")),
        ("class", row.class().as_str().to_owned()),
        ("scope", row.scope.as_str().to_owned()),
        ("delays", delays),
        ("jitter", row.jitter.to_string()),
        ("hint", row.hint.as_str().to_owned()),
        ("final", row.end.as_str().to_owned()),
    ];
    if row.hold {
        let text = "the job waits for the next delay without using up an attempt";
        lines.insert(lines.len() - 1, ("hold", text.to_owned()));
    }
    let conditions = [
        (
            "text",
            row.text.as_ref().map(|text| text.as_str().to_owned()),
        ),
        (
            "reason",
            Some(reasons(row)).filter(|reasons| !reasons.is_empty()),
        ),
        ("account", row.account.clone()),
        ("stream", row.stream.clone()),
        ("destination", row.destination.clone()),
    ];
    lines.extend(
        conditions
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    lines
        .iter()
        .map(|(key, value)| format!("{key:<12} {value}\n"))
        .collect()
}

fn table_text(table: &Table) -> String {
    let names = table.rows().iter().map(|row| row.name.chars().count());
    let width = names.max().unwrap_or_default();
    let mut text = format!(
        "{:<width$} {:<9} {:<22} {:<12} MATCHES\n",
        "ROW", "SCOPE", "DELAYS", "FINAL"
    );
    for row in table.rows() {
        let delays = match (row.delays.is_empty(), row.hold) {
            (true, _) => "-".to_owned(),
            (_, true) => format!("hold {}", spans(&row.delays)),
            _ => spans(&row.delays),
        };
        let mut matches = patterns(row).join(" ");
        if let Some(pattern) = &row.text {
            matches.push_str(&format!("  text ~ {}", pattern.as_str()));
        }
        if !row.reason.is_empty() {
            matches.push_str(&format!("  reason = {}", reasons(row)));
        }
        for (key, condition) in [
            ("account", &row.account),
            ("stream", &row.stream),
            ("destination", &row.destination),
        ] {
            if let Some(value) = condition {
                matches.push_str(&format!("  {key} = {value}"));
            }
        }
        let (scope, end) = (row.scope.as_str(), row.end.as_str());
        text.push_str(&format!(
            "{:<width$} {scope:<9} {delays:<22} {end:<12} {matches}\n",
            row.name
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_the_table_are_aligned_however_long_its_names_are() {
        let row = "[[row]]\nname = \"a-row-with-a-rather-long-name-of-its-own\"\n\
                   status = \"4.9.9\"\nscope = \"mailbox\"\nfinal = \"message\"\n";
        let text = table_text(&Table::with_file("mine.toml", row).unwrap());
        let lines: Vec<&str> = text.lines().collect();
        let column = lines[0].find("SCOPE").unwrap();
        for line in &lines[1..] {
            assert_eq!(line.as_bytes()[column - 1], b' ', "{line}");
            assert_ne!(line.as_bytes()[column], b' ', "{line}");
        }
    }
}
