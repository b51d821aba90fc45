//! `redeliver submit`: posts the bounces of a file or of standard input. The input may have any
//! size. An interrupted run can be continued if the input is a file.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use chrono::FixedOffset;
use clap::{Args, ValueEnum};
use domain::clock::Clock;
use futures::stream::{self, StreamExt};
use scheduler::intake::maillog::LogReader;
use scheduler::intake::maillog::kumomta::Kumomta;
use scheduler::intake::maillog::postfix::Postfix;
use serde_json::{Value, json};
use system::clock::SystemClock;
use tokio::sync::mpsc::{self, Receiver};
use tokio_util::sync::CancellationToken;

use crate::api::{Api, text};
use crate::figures::thousands;
use crate::process;
use crate::progress::Progress;

mod input;
mod post;
mod progress_file;

use input::{Batch, Input, Item};
use progress_file::{Done, ProgressFile};

/// How many refused lines, and how many lines with warnings, are shown with their reason. The file
/// of refused lines contains all of them.
const SHOWN: u64 = 5;

/// How many batches are read in advance.
const READ_AHEAD: usize = 2;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file with the bounces, or - for standard input
    file: PathBuf,

    /// The format of its lines
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,

    /// Continue an earlier, interrupted run. Its progress is in FILE.progress, which exists from
    /// the first answer until all bounces are answered
    #[arg(long)]
    resume: bool,

    /// The file for refused lines [default: FILE.refused; for standard input, submit.refused in
    /// the current folder]
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,

    /// How many requests are under way at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,

    /// How long to retry while no scheduler answers
    #[arg(long, default_value = "5m", value_name = "SPAN")]
    #[arg(value_parser = humantime::parse_duration)]
    patience: Duration,

    /// The offset from UTC of timestamps that contain no offset, as in Postfix's log
    #[arg(
        long,
        default_value = "+00:00",
        value_name = "OFFSET",
        allow_hyphen_values = true
    )]
    utc_offset: FixedOffset,

    #[command(flatten)]
    api: Api,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One bounce per line, in the format of `POST /v1/bounces`
    Ndjson,
    /// KumoMTA's JSON log records
    Kumomta,
    /// Postfix's log
    Postfix,
}

/// A submission under way.
struct Submission<'a> {
    arguments: &'a Arguments,
    done: Done,
    progress_file: Option<ProgressFile>,
    refused: RefusedLines,
    /// How many bounces had a field that could not be used.
    warned: u64,
    bar: Progress,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let stop = process::stop_on_signal()?;
    let from_stdin = arguments.file == Path::new("-");
    if from_stdin && arguments.resume {
        bail!("--resume does not work with standard input; give it a file");
    }
    let progress_file = (!from_stdin).then(|| ProgressFile::of(&arguments.file));
    let done = match &progress_file {
        Some(kept) => kept.start(&arguments.file, arguments.resume)?,
        None => Done::default(),
    };
    let (source, size): (Box<dyn Read + Send>, Option<u64>) = if from_stdin {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(&arguments.file)
            .with_context(|| format!("cannot read {}", arguments.file.display()))?;
        let size = file.metadata()?.len();
        (Box::new(file), Some(size))
    };
    if done.line > 0 {
        eprintln!("continuing after line {}", thousands(done.line));
    } else if arguments.resume {
        eprintln!("no earlier run was interrupted: starting at the first line");
    }
    let input = Input::new(
        source,
        arguments.format.reader(arguments.utc_offset),
        done.line,
    );
    let refused = RefusedLines::new(arguments, from_stdin);
    let bar = Progress::of_bytes("submitting", size);
    let mut submission = Submission {
        arguments,
        done,
        progress_file,
        refused,
        warned: 0,
        bar,
    };
    let ended = submission.run(input, &stop).await;
    drop(submission.bar);
    submission.done.report(arguments, &submission.refused)?;
    if submission.warned > SHOWN {
        eprintln!(
            "{} bounces have fields that could not be used; the first {SHOWN} are shown",
            thousands(submission.warned)
        );
    }
    let advice = || match &submission.progress_file {
        Some(_) => {
            format!(
                "continue with: {}",
                resume_command(
                    env::args_os()
                        .skip(1)
                        .map(|word| word.to_string_lossy().into_owned())
                )
            )
        }
        None => "the answered bounces are submitted; submit the others again".to_owned(),
    };
    ended.map_err(|err| anyhow!("{err:#}; {}", advice()))?;
    if stop.is_cancelled() {
        eprintln!("stopped; {}", advice());
        return Ok(ExitCode::from(process::INTERRUPTED));
    }
    if let Some(kept) = &submission.progress_file {
        kept.remove();
    }
    Ok(if submission.done.answers.contains_key("refused") {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl Submission<'_> {
    /// Posts all batches, several at once. Handles their answers in the order of the lines.
    async fn run<R: Read + Send + 'static>(
        &mut self,
        input: Input<R>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let Arguments {
            api,
            patience,
            parallel,
            ..
        } = self.arguments;
        let batches = stream::unfold(read_ahead(input), async |mut batches| {
            let batch = stop.run_until_cancelled(batches.recv()).await??;
            Some((batch, batches))
        });
        let mut answered = Box::pin(
            batches
                .map(async |batch| {
                    let batch = batch.context("cannot read more of the input")?;
                    let answers = answers(api, &batch, *patience).await?;
                    Ok::<_, anyhow::Error>((batch, answers))
                })
                .buffered(usize::from(*parallel)),
        );
        while let Some(result) = answered.next().await {
            let (batch, answers) = result?;
            for (item, answer) in batch.items.iter().zip(&answers) {
                self.record(item, answer)?;
            }
            self.done.line = self.done.line.max(batch.last_line);
            self.refused.flush()?;
            if let Some(kept) = &self.progress_file {
                kept.keep(&self.done)?;
            }
            let sent: u64 = self.done.answers.values().sum();
            self.bar
                .show(batch.read, &format!("{} bounces", thousands(sent)));
        }
        Ok(())
    }

    /// Counts an answer, and writes the line to the file of refused lines if it was refused.
    fn record(&mut self, item: &Item, answer: &Value) -> Result<()> {
        let word = answer["answer"]
            .as_str()
            .context("an answer has no field `answer`; is --api right?")?;
        self.done.count(word);
        self.warn(item, answer);
        if word == "refused" {
            self.refused.add(item, answer)
        } else {
            Ok(())
        }
    }
}

impl Submission<'_> {
    /// Prints the warnings of an answer: fields of the bounce that could not be used.
    fn warn(&mut self, item: &Item, answer: &Value) {
        let Some(warnings) = answer["warnings"].as_array() else {
            return;
        };
        self.warned += 1;
        if self.warned <= SHOWN {
            for warning in warnings {
                let (field, reason) = (text(&warning["field"]), text(&warning["reason"]));
                eprintln!("line {}: warning: {field}: {reason}", item.line);
            }
        }
    }
}

/// Reads batches on a separate thread, because a read from standard input can block. The process
/// does not wait for this thread when it ends.
fn read_ahead<R: Read + Send + 'static>(mut input: Input<R>) -> Receiver<io::Result<Batch>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    thread::spawn(move || {
        while let Some(batch) = input.next().transpose() {
            let failed = batch.is_err();
            if sender.blocking_send(batch).is_err() || failed {
                break;
            }
        }
    });
    receiver
}

/// Posts a batch. Returns an answer for each item. Items that are no valid bounce are refused here.
async fn answers(api: &Api, batch: &Batch, patience: Duration) -> Result<Vec<Value>> {
    let bounces: Vec<&[u8]> = batch
        .items
        .iter()
        .filter_map(|item| item.bounce.as_ref().ok())
        .map(Vec::as_slice)
        .collect();
    let mut answered = if bounces.is_empty() {
        Vec::new()
    } else {
        post::post(api, &bounces, patience).await?
    }
    .into_iter();
    let refused_here = |why: &String| Some(json!({"answer": "refused", "reason": why}));
    let in_order = batch.items.iter().map(|item| {
        item.bounce
            .as_ref()
            .map_or_else(refused_here, |_| answered.next())
    });
    Ok(in_order
        .map(|answer| answer.expect("there is an answer per bounce"))
        .collect())
}

/// Returns the shell command that continues this one.
fn resume_command(arguments: impl Iterator<Item = String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    let quoted = |word: String| match !word.is_empty() && word.chars().all(is_plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let mut words: Vec<String> = arguments
        .filter(|word| word != "--resume")
        .map(quoted)
        .collect();
    // Inserted right after the command, because after `--` it would not be an option.
    let command = words
        .iter()
        .position(|word| word == "submit")
        .map_or(words.len(), |at| at + 1);
    words.insert(command, "--resume".to_owned());
    format!("redeliver {}", words.join(" "))
}

impl Format {
    fn reader(self, offset: FixedOffset) -> Option<Box<dyn LogReader>> {
        match self {
            Self::Ndjson => None,
            Self::Kumomta => Some(Box::new(Kumomta)),
            Self::Postfix => Some(Box::new(Postfix::new(SystemClock.now(), offset))),
        }
    }
}

/// The file to which refused lines are written, unchanged. After they are corrected, that file can
/// be submitted.
struct RefusedLines {
    path: PathBuf,
    append: bool,
    file: Option<File>,
    /// How long the file is, in bytes.
    length: u64,
    count: u64,
}

impl RefusedLines {
    fn new(arguments: &Arguments, from_stdin: bool) -> Self {
        let default_path = || {
            let mut path = if from_stdin {
                "submit".into()
            } else {
                arguments.file.as_os_str().to_owned()
            };
            path.push(".refused");
            PathBuf::from(path)
        };
        let path = arguments.refused.clone().unwrap_or_else(default_path);
        Self {
            path,
            append: arguments.resume,
            file: None,
            length: 0,
            count: 0,
        }
    }

    fn add(&mut self, item: &Item, answer: &Value) -> Result<()> {
        let path = self.path.display();
        if self.file.is_none() {
            let opened = File::options()
                .create(true)
                .write(true)
                .append(self.append)
                .truncate(!self.append)
                .open(&self.path)
                .with_context(|| {
                    format!("cannot write {path}; name another file with --refused")
                })?;
            self.length = opened.metadata()?.len();
            self.file = Some(opened);
        }
        let file = self.file.as_mut().expect("it was opened");
        let line = [&item.raw[..], b"\n"].concat();
        if let Err(err) = file.write_all(&line) {
            // Removes what was written of the line, because the next line would continue it.
            let _ = file.set_len(self.length);
            return Err(err).with_context(|| {
                format!("cannot write {path}; free some space, or name another file with --refused")
            });
        }
        self.length += line.len() as u64;
        self.count += 1;
        if self.count <= SHOWN {
            let field = answer["field"]
                .as_str()
                .map(|field| format!("{field}: "))
                .unwrap_or_default();
            eprintln!("line {}: {field}{}", item.line, text(&answer["reason"]));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| Ok(file.flush()?))
    }
}

impl Done {
    /// Prints how many bounces got each answer.
    fn report(&self, arguments: &Arguments, refused: &RefusedLines) -> Result<()> {
        let sent: u64 = self.answers.values().sum();
        let mut out = io::stdout().lock();
        if arguments.api.json {
            writeln!(
                out,
                "{}",
                json!({"bounces": sent, "answers": self.answers, "line": self.line})
            )?;
        } else {
            let each: Vec<_> = self
                .answers
                .iter()
                .map(|(word, n)| format!("{} {word}", thousands(*n)))
                .collect();
            let colon = if each.is_empty() { "" } else { ": " };
            writeln!(
                out,
                "{} bounces{colon}{}.",
                thousands(sent),
                each.join(", ")
            )?;
        }
        if refused.count > 0 {
            let lines = if refused.count == 1 {
                "line is"
            } else {
                "lines are"
            };
            eprintln!(
                "{} refused {lines} in {}",
                thousands(refused.count),
                refused.path.display()
            );
            if refused.count > SHOWN {
                eprintln!(
                    "only the first {SHOWN} are shown with their reason; \
                     correct them and submit that file to see the next ones"
                );
            }
        }
        match arguments.format {
            Format::Ndjson if sent > 0 && self.answers.get("refused") == Some(&sent) => {
                eprintln!(
                    "no line was accepted; if this is a mail log, add --format kumomta or \
                     --format postfix"
                );
            }
            Format::Postfix if self.line > 0 && sent == 0 => {
                eprintln!(
                    "none of {} lines reports deferred or bounced mail: is this Postfix's log?",
                    thousands(self.line)
                );
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_continue_is_the_same_command_with_resume() {
        for (words, command) in [
            (
                &["submit", "mail.log"] as &[&str],
                "redeliver submit --resume mail.log",
            ),
            (
                &["submit", "--format", "postfix", "--resume", "a b"],
                "redeliver submit --resume --format postfix 'a b'",
            ),
            (
                &["-c", "submit.toml", "submit", "x"],
                "redeliver -c submit.toml submit --resume x",
            ),
            (
                &["-c", "x;y", "submit", "it's", ""],
                r"redeliver -c 'x;y' submit --resume 'it'\''s' ''",
            ),
        ] {
            assert_eq!(
                resume_command(words.iter().map(|word| (*word).to_owned())),
                command
            );
        }
    }
}
