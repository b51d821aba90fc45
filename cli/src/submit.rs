//! `redeliver submit`: posts the bounces and facts of a file or of standard input. The input may
//! have any size. An interrupted run can be continued if the input is a file.

use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use chrono::FixedOffset;
use clap::Args;
use domain::account::Account;
use futures::stream::{self, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

use crate::api::{Api, text};
use crate::figures::thousands;
use crate::process;
use crate::progress::Progress;

mod format;
mod input;
mod line;
mod post;
mod progress_file;
mod refused_lines;
mod report;

use format::Format;
use input::{Batch, Input, Item};
use line::Kind;
use progress_file::{Done, ProgressFile};
use refused_lines::{RefusedLines, SHOWN};

/// How many batches are read in advance.
const READ_AHEAD: usize = 2;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file with the bounces and facts, or - for standard input
    file: PathBuf,

    /// The format of its lines
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,

    /// The account of all lines that name none; logs never name one [default: default]
    #[arg(long, value_name = "NAME", value_parser = read_account)]
    account: Option<Account>,

    /// Continue an earlier, interrupted run. Its progress is in FILE.progress, which exists from
    /// the first answer until all lines are answered
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

/// A submission under way.
struct Submission<'a> {
    arguments: &'a Arguments,
    done: Done,
    progress_file: Option<ProgressFile>,
    refused: RefusedLines,
    /// How many items had a field that could not be used.
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
        arguments.account.clone(),
        done.line,
    );
    let refused = RefusedLines::new(arguments.refused_path(), arguments.resume);
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
    report::print(
        arguments.format,
        arguments.api.json,
        &submission.done,
        &submission.refused,
    )?;
    if submission.warned > SHOWN {
        eprintln!(
            "{} lines have fields that could not be used; the first {SHOWN} are shown",
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
        None => "the answered lines are submitted; submit the others again".to_owned(),
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
        let source = (read_ahead(input), Arc::new(RwLock::new(())));
        let batches = stream::unfold(source, async |(mut batches, order)| {
            let next = async {
                let batch = batches.recv().await?;
                let turn = Turn::of(batch.as_ref().ok(), order.clone()).await;
                Some((batch, turn))
            };
            let next = stop.run_until_cancelled(next).await??;
            Some((next, (batches, order)))
        });
        let mut answered = Box::pin(
            batches
                .map(async |(batch, _turn)| {
                    let batch = batch.context("cannot read more of the input")?;
                    let answers = post::post(api, &batch, *patience).await?;
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
            self.bar.show(batch.read, &report::counted(&self.done));
        }
        Ok(())
    }

    /// Counts an answer, and writes the line to the file of refused lines if it was refused.
    fn record(&mut self, item: &Item, answer: &Value) -> Result<()> {
        let word = answer["answer"]
            .as_str()
            .context("an answer has no field `answer`, so no scheduler sent it")?;
        self.done.count(word, item.kind == Kind::Fact);
        self.warn(item, answer);
        if word == "refused" {
            self.refused.add(item, answer)
        } else {
            Ok(())
        }
    }
}

impl Submission<'_> {
    /// Prints the warnings of an answer: fields of the item that could not be used.
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

/// The turn of a batch. Batches of bounces are posted at the same time. A batch with facts waits
/// for all batches before it, and all batches after it wait for it: a fact must not overtake a
/// bounce of the same address, nor be overtaken.
enum Turn {
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

impl Turn {
    /// Waits for the turn of a batch.
    async fn of(batch: Option<&Batch>, order: Arc<RwLock<()>>) -> Self {
        let has_facts =
            batch.is_some_and(|batch| batch.items.iter().any(|item| item.kind == Kind::Fact));
        if has_facts {
            Self::Alone {
                _guard: order.write_owned().await,
            }
        } else {
            Self::Shared {
                _guard: order.read_owned().await,
            }
        }
    }
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

impl Arguments {
    /// Returns the path of the file for refused lines.
    fn refused_path(&self) -> PathBuf {
        let default_path = || {
            let mut path = match self.file.to_str() {
                Some("-") => "submit".into(),
                _ => self.file.as_os_str().to_owned(),
            };
            path.push(".refused");
            PathBuf::from(path)
        };
        self.refused.clone().unwrap_or_else(default_path)
    }
}

fn read_account(name: &str) -> Result<Account, String> {
    Account::parse(name).map_err(|why| why.to_string())
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
