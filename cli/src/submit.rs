//! `redeliver submit`: posts the bounces of a file or of standard input, however many, and can go
//! on where it was cut short.

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

/// Of how many refused lines it is said why; all are in the file.
const SHOWN: u64 = 5;

/// Batches that are read ahead of those under way.
const AHEAD: usize = 2;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file with the bounces, or - for standard input
    file: PathBuf,

    /// What its lines are
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,

    /// Go on where an earlier run was cut short, as FILE.progress has it: it is there from the
    /// first answer until all are in
    #[arg(long)]
    resume: bool,

    /// Where refused lines go [default: FILE.refused; for standard input submit.refused, where the
    /// command is run]
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,

    /// Requests under way at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,

    /// How long to ask again a scheduler that does not answer
    #[arg(long, default_value = "5m", value_name = "SPAN", value_parser = humantime::parse_duration)]
    patience: Duration,

    /// Offset from UTC of time stamps that name none, as in Postfix's log
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
    /// One bounce per line, as `POST /v1/bounces` takes them
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
    bar: Progress,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let stop = process::stop_on_signal()?;
    let from_stdin = arguments.file == Path::new("-");
    if from_stdin && arguments.resume {
        bail!("standard input cannot be gone on with; give --resume a file");
    }
    let progress_file = (!from_stdin).then(|| ProgressFile::beside(&arguments.file));
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
        eprintln!("going on behind line {}", thousands(done.line));
    } else if arguments.resume {
        eprintln!("no earlier run was cut short: starting at the first line");
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
        bar,
    };
    let ended = submission.run(input, &stop).await;
    drop(submission.bar);
    submission.done.report(arguments, &submission.refused)?;
    let go_on = || match &submission.progress_file {
        Some(_) => {
            format!(
                "go on with: {}",
                resumed(
                    env::args_os()
                        .skip(1)
                        .map(|word| word.to_string_lossy().into_owned())
                )
            )
        }
        None => "what was answered is in; the rest can be submitted again".to_owned(),
    };
    ended.map_err(|err| anyhow!("{err:#}; {}", go_on()))?;
    if stop.is_cancelled() {
        eprintln!("stopped; {}", go_on());
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
    /// Posts batch by batch, several at once, and notes their answers in the order of the lines.
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
                    let batch = batch.context("cannot read on")?;
                    let answers = answers(api, &batch, *patience).await?;
                    Ok::<_, anyhow::Error>((batch, answers))
                })
                .buffered(usize::from(*parallel)),
        );
        while let Some(result) = answered.next().await {
            let (batch, answers) = result?;
            for (item, answer) in batch.items.iter().zip(&answers) {
                self.note(item, answer)?;
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

    fn note(&mut self, item: &Item, answer: &Value) -> Result<()> {
        let word = answer["answer"]
            .as_str()
            .context("an answer without a word; is --api the right one?")?;
        self.done.count(word);
        if word == "refused" {
            self.refused.add(item, answer)
        } else {
            Ok(())
        }
    }
}

/// Reads on a thread of its own, for standard input may let us wait. The process does not wait for
/// it at its end.
fn read_ahead<R: Read + Send + 'static>(mut input: Input<R>) -> Receiver<io::Result<Batch>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
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

/// The answer to each bounce of a batch, with those that hold none refused here.
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

/// The command that goes on with this one, as a shell takes it.
fn resumed(arguments: impl Iterator<Item = String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    let quoted = |word: String| match !word.is_empty() && word.chars().all(is_plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let mut words: Vec<String> = arguments
        .filter(|word| word != "--resume")
        .map(quoted)
        .collect();
    // Behind the command, for what stands behind -- is no option.
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

/// Lines that were refused, as they were: mended, they can be submitted by themselves.
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
        let beside = || {
            let mut path = if from_stdin {
                "submit".into()
            } else {
                arguments.file.as_os_str().to_owned()
            };
            path.push(".refused");
            PathBuf::from(path)
        };
        let path = arguments.refused.clone().unwrap_or_else(beside);
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
            // A part of a line would become one with the next.
            let _ = file.set_len(self.length);
            return Err(err).with_context(|| {
                format!("cannot write {path}; make room, or name another file with --refused")
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
    /// Prints how many bounces got which answer.
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
                    "why is said of the first {SHOWN} alone; submit that file to be told of the next ones"
                );
            }
        }
        match arguments.format {
            Format::Ndjson if sent > 0 && self.answers.get("refused") == Some(&sent) => {
                eprintln!(
                    "no line was taken in; where this is a mail log, say so: --format kumomta or --format postfix"
                );
            }
            Format::Postfix if self.line > 0 && sent == 0 => {
                eprintln!(
                    "none of {} lines says that mail was deferred or bounced: is this Postfix's log?",
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
    fn what_goes_on_is_the_same_command_with_resume() {
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
                resumed(words.iter().map(|word| (*word).to_owned())),
                command
            );
        }
    }
}
