//! `redeliver dsn`: reads delivery reports, and prints one JSON object per recipient.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use classify::reason::{self, Reason};
use domain::status::EnhancedStatus;
use policy::table::Table;
use reports::mailbox;
use reports::report::{Action, Recipient, Report};
use serde::Serialize;

use crate::process;

mod submit;

/// How many bytes of a file are read at most.
const FILE_MAX: u64 = 256 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Messages, or mailbox files with several; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,

    #[command(flatten)]
    submission: submit::Submission,
}

/// The output for one recipient. A message without recipients has one line too, with no recipient.
#[derive(Debug, Serialize)]
struct Line<'r> {
    file: &'r str,
    /// The number of the recipient in the file, counted from 1.
    index: Option<usize>,
    /// The kind of report.
    kind: &'static str,
    recipient: Option<&'r str>,
    /// The address to which mail was forwarded, if it differs from `recipient`.
    final_recipient: Option<&'r str>,
    action: Option<&'static str>,
    status: Option<EnhancedStatus>,
    code: Option<u16>,
    reply: Option<&'r str>,
    /// `soft`, `hard` or `message`; `none` if the report starts no job and retires no address.
    class: &'static str,
    scope: Option<&'r str>,
    /// The reason, if the reply gives one.
    reason: Option<Reason>,
    remote_mta: Option<&'r str>,
    envelope_id: Option<&'r str>,
    message_id: Option<&'r str>,
}

pub(crate) async fn run(config: Option<&Path>, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.submission.submit {
        let files: Vec<Vec<u8>> = arguments
            .files
            .iter()
            .map(|file| read(file))
            .collect::<Result<_>>()?;
        let messages: Vec<&[u8]> = files
            .iter()
            .flat_map(|file| mailbox::messages(file))
            .collect();
        return submit::run(&arguments.submission, &messages).await;
    }
    let (_, table) = process::configure(config)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for file in &arguments.files {
        let messages = read(file)?;
        let reports: Vec<Report> = mailbox::messages(&messages)
            .into_iter()
            .map(Report::read)
            .collect();
        match write_lines(&mut out, file, &reports, &table) {
            // The reader of the output has closed it, and needs no more.
            Err(err) if err.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(err) => bail!("cannot write to standard output: {err}"),
            Ok(()) => {}
        }
    }
    match out.flush() {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            bail!("cannot write to standard output: {err}")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn read(file: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let done = if file == "-" {
        io::stdin().lock().take(FILE_MAX).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes))
    };
    done.with_context(|| format!("cannot read {file}"))?;
    Ok(bytes)
}

/// Prints the lines of one file. Its recipients are numbered across all its messages.
fn write_lines(
    out: &mut impl Write,
    file: &str,
    reports: &[Report],
    table: &Table,
) -> io::Result<()> {
    let mut numbers = 1..;
    for report in reports {
        for recipient in &report.recipients {
            write_line(
                out,
                &line(file, numbers.next(), report, Some(recipient), table),
            )?;
        }
        if report.recipients.is_empty() {
            write_line(out, &line(file, None, report, None, table))?;
        }
    }
    Ok(())
}

fn write_line(out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

fn line<'r>(
    file: &'r str,
    index: Option<usize>,
    report: &'r Report,
    recipient: Option<&'r Recipient>,
    table: &'r Table,
) -> Line<'r> {
    let failed = recipient.filter(|one| one.has_failed() && !one.reply.is_success());
    let reason = failed.and_then(|one| reason::recognize(&one.reply));
    let row = failed.map(|one| table.row_for(&one.reply, reason, "", None, ""));
    let address = recipient.and_then(Recipient::address);
    Line {
        file,
        index,
        kind: report.kind.as_str(),
        recipient: address,
        final_recipient: recipient
            .and_then(|one| one.last.as_deref())
            .filter(|last| Some(*last) != address),
        action: recipient.and_then(|one| one.action).map(Action::as_str),
        status: recipient.and_then(|one| one.reply.status),
        code: recipient.and_then(|one| one.reply.code),
        reply: recipient
            .map(|one| one.diagnostic.as_str())
            .filter(|diagnostic| !diagnostic.is_empty()),
        class: row.map_or("none", |row| row.class().as_str()),
        scope: row.map(|row| row.scope.as_str()),
        reason,
        remote_mta: recipient.and_then(|one| one.remote_mta.as_deref()),
        envelope_id: report.envelope_id.as_deref(),
        message_id: report.message_id.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_recipient_is_one_json_object_per_line_and_numbered_across_messages() {
        let report = "From a Mon Nov  2 08:00:00 2026\nFrom: mailer-daemon@mx.example\n\
                      Message-ID: <1@mx.example>\n\
                      Content-Type: message/delivery-status\n\n\
                      Original-Envelope-Id: e1\n\nFinal-Recipient: rfc822; jo@example.com\n\
                      Action: failed\nStatus: 5.1.1\n\
                      Remote-MTA: dns; mx.example.com\nDiagnostic-Code: smtp; 550 5.1.1 gone\n\n\
                      Final-Recipient: rfc822; al@example.com\nAction: delayed\nStatus: 4.2.2\n\
                      From b Mon Nov  2 08:00:00 2026\nFrom: jo@example.com\nSubject: Hello\n\n\
                      How are you?\n\
                      From c Mon Nov  2 08:00:00 2026\nFrom: jo@example.com\n\
                      Subject: Out of office\n\nBack soon.\n";
        let reports: Vec<Report> = mailbox::messages(report.as_bytes())
            .into_iter()
            .map(Report::read)
            .collect();
        let mut out = Vec::new();
        write_lines(&mut out, "f", &reports, &Table::embedded()).unwrap();
        let expected = [
            r#"{"file":"f","index":1,"kind":"failed","recipient":"jo@example.com","final_recipient":null,"action":"failed","status":"5.1.1","code":550,"reply":"550 5.1.1 gone","class":"hard","scope":"mailbox","reason":"user_unknown","remote_mta":"mx.example.com","envelope_id":"e1","message_id":null}"#,
            r#"{"file":"f","index":2,"kind":"failed","recipient":"al@example.com","final_recipient":null,"action":"delayed","status":"4.2.2","code":null,"reply":null,"class":"none","scope":null,"reason":null,"remote_mta":null,"envelope_id":"e1","message_id":null}"#,
            r#"{"file":"f","index":null,"kind":"none","recipient":null,"final_recipient":null,"action":null,"status":null,"code":null,"reply":null,"class":"none","scope":null,"reason":null,"remote_mta":null,"envelope_id":null,"message_id":null}"#,
            r#"{"file":"f","index":3,"kind":"auto_reply","recipient":"jo@example.com","final_recipient":null,"action":null,"status":null,"code":null,"reply":null,"class":"none","scope":null,"reason":null,"remote_mta":null,"envelope_id":null,"message_id":null}"#,
        ];
        assert_eq!(
            String::from_utf8(out).unwrap().lines().collect::<Vec<_>>(),
            expected
        );
    }
}
