//! `redeliver classify`: prints what a reply means, one JSON object per reply.

use std::io::{self, BufRead, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use classify::fingerprint::fingerprint;
use classify::hint::hint;
use classify::reason::{self, Reason};
use domain::reply::Reply;
use domain::status::EnhancedStatus;
use policy::table::Table;
use serde::Serialize;

use crate::process;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The reply, exactly as the receiving server sent it
    #[arg(required_unless_present = "lines", conflicts_with = "lines", value_parser = reply)]
    reply: Option<String>,

    /// Read replies from standard input, one per line; the output has one line for each of them,
    /// even for an empty line
    #[arg(long)]
    lines: bool,
}

/// The output for one reply.
#[derive(Debug, Serialize)]
struct Classified<'t> {
    code: Option<u16>,
    status: Option<EnhancedStatus>,
    /// `soft`, `hard` or `message`; `none` if the reply is not a failure.
    class: &'static str,
    scope: Option<&'t str>,
    /// The reason, if the reply gives one.
    reason: Option<Reason>,
    /// The reply without the parts that differ from one mail to the next.
    fingerprint: String,
    /// The wait that the reply asks for, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint_s: Option<u64>,
    /// The name of the policy row that applies.
    row: Option<&'t str>,
    delays_s: Vec<u64>,
    r#final: Option<&'t str>,
}

/// Accepts a reply if it contains a code, a status or a word. Intake refuses the same replies.
fn reply(raw: &str) -> Result<String, &'static str> {
    if Reply::parse(raw).is_unreadable() {
        return Err(
            "it has neither a code, nor a status, nor a word; give the reply of the mail system, \
             like \"452 4.3.1 Mail system full\"",
        );
    }
    Ok(raw.to_owned())
}

pub(crate) fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    let (_, table) = process::configure(config)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match &arguments.reply {
        Some(reply) => write_line(&mut out, reply, &table),
        None => lines(&mut out, &table),
    };
    match done.and_then(|()| out.flush()) {
        // The reader of the output has closed it and needs no more.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(err) => bail!("cannot read the replies or print the result: {err}"),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn lines(out: &mut impl Write, table: &Table) -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        // Some servers use a character set other than UTF-8. The status can be read even then.
        write_line(
            out,
            String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']),
            table,
        )?;
        line.clear();
    }
    Ok(())
}

fn write_line(out: &mut impl Write, raw: &str, table: &Table) -> io::Result<()> {
    let json =
        serde_json::to_string(&classify(&Reply::parse(raw), table)).map_err(io::Error::other)?;
    writeln!(out, "{json}")
}

fn classify<'t>(reply: &Reply, table: &'t Table) -> Classified<'t> {
    let unclassified = Classified {
        code: reply.code,
        status: reply.status,
        class: "none",
        scope: None,
        reason: None,
        fingerprint: fingerprint(&reply.to_string()),
        hint_s: None,
        row: None,
        delays_s: Vec::new(),
        r#final: None,
    };
    if reply.is_success() {
        return unclassified;
    }
    let reason = reason::recognize(reply);
    let row = table.row_for(reply, reason, "", None, "");
    Classified {
        class: row.class().as_str(),
        scope: Some(row.scope.as_str()),
        reason,
        hint_s: hint(&reply.text).map(|hint| hint.as_secs()),
        row: Some(&row.name),
        delays_s: row
            .delays
            .iter()
            .map(std::time::Duration::as_secs)
            .collect(),
        r#final: Some(row.end.as_str()),
        ..unclassified
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(raw: &str) -> String {
        let mut out = Vec::new();
        write_line(&mut out, raw, &Table::embedded()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_empty_reply_is_an_error_as_an_argument_but_on_standard_input_it_has_its_line_of_output() {
        for raw in ["", " ", "\r\n", "12", "?!"] {
            assert!(reply(raw).is_err(), "{raw:?}");
            assert_eq!(line(raw).lines().count(), 1, "{raw:?}");
        }
        for raw in ["452", "4.3.1", "full", "voll, später", "邮箱已满"] {
            assert_eq!(reply(raw).as_deref(), Ok(raw));
        }
    }

    #[test]
    fn each_reply_is_printed_as_one_json_object_on_one_line() {
        for (raw, object) in [
            (
                "451 4.3.2 System not accepting network messages",
                r#"{"code":451,"status":"4.3.2","class":"soft","scope":"host","reason":"system_not_accepting","fingerprint":"451 4.3.2 System not accepting network messages","row":"system-not-accepting","delays_s":[3600,14400,43200,86400],"final":"unavailable"}"#,
            ),
            (
                "550 5.7.1 <jo@example.com>: No such user",
                r#"{"code":550,"status":"5.7.1","class":"hard","scope":"mailbox","reason":"user_unknown","fingerprint":"550 5.7.1 {email} No such user","row":"address-dead-by-text","delays_s":[],"final":"inactive"}"#,
            ),
            (
                "550 5.1.1 User unknown, 192.0.2.1 is blocked by us",
                r#"{"code":550,"status":"5.1.1","class":"message","scope":"route","reason":"blocked","fingerprint":"550 5.1.1 User unknown, {ipaddr} is blocked by us","row":"route-refused-by-text","delays_s":[],"final":"message"}"#,
            ),
            (
                "450 4.7.1 Greylisted for 300 seconds",
                r#"{"code":450,"status":"4.7.1","class":"soft","scope":"route","reason":"greylisted","fingerprint":"450 4.7.1 Greylisted for {duration}","hint_s":300,"row":"greylisted","delays_s":[1800,3600,14400,43200],"final":"message"}"#,
            ),
            (
                "554 5.6.0 Content refused",
                r#"{"code":554,"status":"5.6.0","class":"message","scope":"message","reason":"spam","fingerprint":"554 5.6.0 Content refused","row":"refused","delays_s":[],"final":"message"}"#,
            ),
            (
                "Es ging nicht",
                r#"{"code":null,"status":null,"class":"soft","scope":"unknown","reason":null,"fingerprint":"Es ging nicht","row":"unknown","delays_s":[1800,7200,28800,86400],"final":"unavailable"}"#,
            ),
            (
                "250 2.0.0 Ok",
                r#"{"code":250,"status":"2.0.0","class":"none","scope":null,"reason":null,"fingerprint":"250 2.0.0 Ok","row":null,"delays_s":[],"final":null}"#,
            ),
        ] {
            assert_eq!(line(raw).trim_end(), object, "{raw}");
        }
    }
}
