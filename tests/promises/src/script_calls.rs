//! What goes over the wire between Redeliver and its scripts is known: one call of each script, and
//! its answer, are kept as text.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use deadpool_redis::redis::{Script, Value, parse_redis_value};
use harness::proxy::{Exchange, RedisProxy};
use harness::redis;
use harness::servers::programs;
use regex::Regex;
use store::scripts;

use crate::every_script::{Prepared, Server};

/// If this variable is set, the texts are written and not compared.
const WRITE: &str = "REDELIVER_WRITE_PAGES";

/// What differs each time, and what is written in its place.
const VARIES: [(&str, &str); 7] = [
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<owner>"),
    (r"\b[0-9a-f]{32}:\d+:\d+", "<call>"),
    (r"\b[0-9a-f]{80}\b", "<run id and replication id>"),
    (r"\b[0-9a-f]{32}\b", "<hash>"),
    (r"\b\d{13}-\d+\b", "<entry>"),
    (r"-[0-9a-f]{16}\b", "-<nonce>"),
    (r"\b[0-9a-f]{16}\b", "<nonce>"),
];

/// The text of the call of each script, and of the settings that come first in all of them.
#[tokio::test]
async fn each_script_is_called_with_these_values_and_answers_this() {
    for program in programs() {
        let server = Server::start(&program).await;
        let mut settings = String::new();
        for (verb, _) in scripts::when_full() {
            let proxy = RedisProxy::before(&server.socket_url());
            let connections = redis::connections_with(&proxy.url(), Duration::from_secs(10));
            let prepared = Prepared::over(connections, &server).await;
            if verb == "claim" {
                // Then the destination has room for the jobs that are due.
                prepared.run("recount").await.unwrap();
            }
            proxy.record_exchanges();
            prepared.run(verb).await.unwrap();
            let exchanges = proxy.exchanges();
            let call = exchanges.iter().find_map(|exchange| read(verb, exchange));
            let call = call.unwrap_or_else(|| panic!("{verb} was not called"));
            let prefix = &prepared.world.prefix;
            compare(
                &format!("{verb}.txt"),
                &with_fixed_names(&call.text, prefix),
            );
            settings = with_fixed_names(&call.settings, prefix);
        }
        compare("settings.txt", &settings);
    }
}

struct Call {
    settings: String,
    text: String,
}

/// Reads an exchange as a call of this script. `None` if it is something else, or if Redis did not
/// know the script yet.
fn read(verb: &str, exchange: &Exchange) -> Option<Call> {
    let words = match parse_redis_value(&exchange.request).ok()? {
        Value::Array(words) => words.iter().map(text_of).collect::<Vec<_>>(),
        _ => return None,
    };
    let hash = match words.first()?.as_str() {
        "EVALSHA" => words.get(1)?.clone(),
        "EVAL" => Script::new(words.get(1)?).get_hash().to_owned(),
        _ => return None,
    };
    if scripts::verb_of(&hash) != Some(verb) || exchange.answer.starts_with(b"-NOSCRIPT") {
        return None;
    }
    let values = &words[3 + words.get(2)?.parse::<usize>().ok()?..];
    let names = scripts::names_of(&hash, values).expect("the call has the script's values");
    let (mut settings, mut own) = (String::new(), String::new());
    for (place, (name, value)) in names.iter().zip(values).enumerate() {
        let text = if place < SETTINGS {
            &mut settings
        } else {
            &mut own
        };
        let _ = writeln!(text, "{name}: {}", value.replace('\n', "\\n"));
    }
    own.push_str("answer:\n");
    let answer = parse_redis_value(&exchange.answer).expect("Redis answers in its protocol");
    write_value(&mut own, &answer, 1);
    Some(Call {
        settings,
        text: own,
    })
}

/// How many settings each call has.
const SETTINGS: usize = 21;

fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    }
}

/// Writes an answer, one value per line. The values of an array are indented.
fn write_value(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Array(values) => {
            let _ = writeln!(text, "{indent}array of {}", values.len());
            for value in values {
                write_value(text, value, depth + 1);
            }
        }
        Value::Int(number) => drop(writeln!(text, "{indent}{number}")),
        Value::Nil => drop(writeln!(text, "{indent}nil")),
        other => drop(writeln!(
            text,
            "{indent}'{}'",
            text_of(other).replace('\n', "\\n")
        )),
    }
}

fn with_fixed_names(text: &str, prefix: &str) -> String {
    let text = text.replace(prefix, "rd");
    VARIES.iter().fold(text, |text, (varies, name)| {
        Regex::new(varies)
            .unwrap()
            .replace_all(&text, *name)
            .into_owned()
    })
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/script_calls")
}

fn compare(file: &str, text: &str) {
    let path = folder().join(file);
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(folder()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, kept,
        "{file} differs; if that is intended, write it with: make pages"
    );
}
