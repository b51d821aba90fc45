//! Runs a program that sends, as `sendmail` does. The program gets the envelope in its arguments
//! and the content on standard input. Its exit status means what sysexits.h defines. If its output
//! begins with an SMTP reply or an enhanced status, that is the reply.
//!
//! No shell interprets any part of a message. The program inherits no environment variables. No
//! address can be read as an option.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use domain::exchange::{Exchange, ProgramRun};
use domain::outcome::{Fault, FaultKind, Outcome};
use futures::future::join;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use system::whose_fault::own_error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::attempt::Attempt;
use crate::in_doubt::InDoubt;
use crate::sender::Sender;
use crate::settings::command::CommandSettings;

mod arguments;
mod exit;

/// How long to wait for a program's output after its end. A process that it started may still hold
/// the output open.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);

/// How many bytes are written to a program at once.
const WRITE_BYTES: usize = 64 << 10;

/// Sends through a program.
pub struct CommandSender {
    settings: CommandSettings,
}

/// A running program. Dropping it kills the program and all processes of its group.
struct Running(Child);

impl CommandSender {
    /// Returns a sender for one program. It starts nothing yet.
    pub fn new(settings: CommandSettings) -> Self {
        Self { settings }
    }

    async fn run(
        &self,
        arguments: Vec<String>,
        content: &[u8],
        in_doubt: &InDoubt,
        run: &mut ProgramRun,
    ) -> Result<Outcome, Fault> {
        let child = Command::new(&self.settings.program)
            .args(arguments)
            .env_clear()
            .env("PATH", &self.settings.path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|err| not_started(&err))?;
        let mut running = Running(child);
        // As soon as the program has started, it may have sent the message.
        match in_doubt
            .answer(timeout(
                self.settings.timeout,
                running.wait(content, &self.settings),
            ))
            .await
        {
            Some(Ok(Ok((status, output)))) => {
                run.exit_code = status.code();
                exit::outcome(status, &output)
            }
            Some(Ok(Err(err))) => Err(Fault::ours(
                FaultKind::Unanswered,
                format!("cannot wait for the program: {err}"),
            )),
            None => Err(Fault::ours(
                FaultKind::Unanswered,
                "the attempt was cancelled and the program was stopped".to_owned(),
            )),
            Some(Err(_)) => {
                let span = self.settings.timeout;
                Err(Fault::ours(
                    FaultKind::Unanswered,
                    format!("the program ran for longer than {span:?} and was stopped"),
                ))
            }
        }
    }
}

impl Running {
    /// Writes the content and waits for the end. Returns the exit status, and the output up to its
    /// limit.
    async fn wait(
        &mut self,
        content: &[u8],
        settings: &CommandSettings,
    ) -> io::Result<(ExitStatus, Vec<u8>)> {
        let CommandSettings {
            crlf, output_max, ..
        } = *settings;
        let (input, mut stdout) = (self.0.stdin.take(), self.0.stdout.take());
        let mut output = Vec::new();
        let status = {
            let write = async {
                if let Some(input) = input {
                    // A program may stop reading early. Then its exit status alone decides.
                    let _ = write(input, content, crlf).await;
                }
            };
            let read = async {
                if let Some(stdout) = &mut stdout {
                    let _ = read_up_to(stdout, &mut output, output_max).await;
                }
            };
            tokio::select! {
                status = self.0.wait() => status?,
                _ = join(write, read) => self.0.wait().await?,
            }
        };
        if let Some(stdout) = &mut stdout {
            let _ = timeout(OUTPUT_GRACE, read_up_to(stdout, &mut output, output_max)).await;
        }
        Ok((status, output))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Once the process has been waited for, `id` returns `None`. So this id cannot belong to
        // another process.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Reads to the end, and keeps only the first `kept_max` bytes.
async fn read_up_to(
    from: &mut (impl AsyncRead + Unpin),
    kept: &mut Vec<u8>,
    kept_max: usize,
) -> io::Result<()> {
    let mut piece = [0; 4_096];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        kept.extend_from_slice(&piece[..count.min(kept_max.saturating_sub(kept.len()))]);
    }
}

#[async_trait]
impl Sender for CommandSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_with_exchange(attempt).await.0
    }

    async fn send_with_exchange(&self, attempt: &Attempt) -> (Outcome, Option<Exchange>) {
        let Some(content) = &attempt.content else {
            let why = "the message has no content, which a command route needs";
            return (Outcome::Unreadable(why.to_owned()), None);
        };
        let arguments = match arguments::fill(&self.settings.arguments, attempt) {
            Ok(arguments) => arguments,
            Err(reply) => return (Outcome::Refused(reply), None),
        };
        let name = self.settings.program.file_name().unwrap_or_default();
        let mut run = ProgramRun {
            name: name.to_string_lossy().into_owned(),
            exit_code: None,
        };
        let outcome = self
            .run(arguments, content, &attempt.in_doubt, &mut run)
            .await
            .unwrap_or_else(Outcome::Unreachable);
        (outcome, Some(Exchange::Program(run)))
    }
}

/// Returns the fault for a program that cannot be started. The message is never the cause, because
/// the size of its arguments is limited.
fn not_started(err: &io::Error) -> Fault {
    let what = format!("the program cannot be started: {err}");
    match own_error(err) {
        Some(cause) => cause.fault(FaultKind::Local, &what),
        None => Fault::ours(
            FaultKind::Local,
            format!("{what}; check the route's program"),
        ),
    }
}

/// Writes the content, in which every line ends with CRLF. Unless `crlf` is set, each CRLF is
/// written as the LF of Unix. The content is not copied as a whole.
async fn write(input: impl AsyncWrite + Unpin, content: &[u8], crlf: bool) -> io::Result<()> {
    let mut input = BufWriter::with_capacity(WRITE_BYTES, input);
    if crlf {
        input.write_all(content).await?;
    } else {
        for piece in content.split(|byte| *byte == b'\r') {
            input.write_all(piece).await?;
        }
    }
    input.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_gets_the_line_ends_that_it_expects() {
        for (content, lf) in [
            ("a\r\nb\r\n", "a\nb\n"),
            ("\r\n\r\nx", "\n\nx"),
            ("", ""),
            ("no end", "no end"),
        ] {
            for (crlf, expected) in [(true, content), (false, lf)] {
                let mut written = Vec::new();
                write(&mut written, content.as_bytes(), crlf).await.unwrap();
                assert_eq!(
                    String::from_utf8(written).unwrap(),
                    expected,
                    "{content:?} {crlf}"
                );
            }
        }
    }

    #[tokio::test]
    async fn long_output_is_read_to_its_end_and_only_the_beginning_is_kept() {
        let output = [b"first".to_vec(), vec![b'x'; 1 << 20]].concat();
        let mut from = output.as_slice();
        let mut kept = Vec::new();
        read_up_to(&mut from, &mut kept, 10_000).await.unwrap();
        assert_eq!(
            (kept.len(), kept.starts_with(b"first"), from.len()),
            (10_000, true, 0)
        );
    }
}
