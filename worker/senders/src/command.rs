//! Runs a program that sends, as `sendmail` does: the envelope as arguments, the content on its
//! standard input. What its exit status means is that of sysexits.h; where its output begins with a
//! reply or a status, that is the reply.
//!
//! No shell reads anything of a message, no variable is inherited, and no address can become an
//! option.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
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

/// For so long after its end a program's output is waited for: another that it has started may hold
/// it open.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);

/// How much is written to a program at once, in bytes.
const WRITE: usize = 64 << 10;

/// Sends by a program.
pub struct CommandSender {
    settings: CommandSettings,
}

/// A program while it runs. Where this is dropped, it is killed, with all that it has started.
struct Running(Child);

impl CommandSender {
    /// A sender by one program. Nothing is started yet.
    pub fn new(settings: CommandSettings) -> Self {
        Self { settings }
    }

    async fn run(
        &self,
        arguments: Vec<String>,
        content: &[u8],
        in_doubt: &InDoubt,
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
        // From its start on it may have sent.
        match in_doubt
            .answer(timeout(
                self.settings.timeout,
                running.ended(content, &self.settings),
            ))
            .await
        {
            Some(Ok(Ok((status, output)))) => exit::outcome(status, &output),
            Some(Ok(Err(err))) => Err(Fault::ours(
                FaultKind::Unanswered,
                format!("the program was lost: {err}"),
            )),
            None => Err(Fault::ours(
                FaultKind::Unanswered,
                "the program was stopped before its end".to_owned(),
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
    /// Hands the content over and waits for the end: the exit status, and the output up to its
    /// bound.
    async fn ended(
        &mut self,
        content: &[u8],
        settings: &CommandSettings,
    ) -> io::Result<(ExitStatus, Vec<u8>)> {
        let CommandSettings {
            crlf, output_max, ..
        } = *settings;
        let (input, mut from) = (self.0.stdin.take(), self.0.stdout.take());
        let mut output = Vec::new();
        let status = {
            let write = async {
                if let Some(input) = input {
                    // A program may know enough before it has read everything; its exit status says
                    // what came of it.
                    let _ = write(input, content, crlf).await;
                }
            };
            let read = async {
                if let Some(from) = &mut from {
                    let _ = read_up_to(from, &mut output, output_max).await;
                }
            };
            tokio::select! {
                status = self.0.wait() => status?,
                _ = join(write, read) => self.0.wait().await?,
            }
        };
        if let Some(from) = &mut from {
            let _ = timeout(OUTPUT_GRACE, read_up_to(from, &mut output, output_max)).await;
        }
        Ok((status, output))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has an id until its end has been seen, so this cannot be another's.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Reads to the end, and keeps what comes first.
async fn read_up_to(
    from: &mut (impl AsyncRead + Unpin),
    kept: &mut Vec<u8>,
    most: usize,
) -> io::Result<()> {
    let mut piece = [0; 4_096];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        kept.extend_from_slice(&piece[..count.min(most.saturating_sub(kept.len()))]);
    }
}

#[async_trait]
impl Sender for CommandSender {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        let Some(content) = &attempt.content else {
            return Outcome::Unreadable(
                "the message has no content, which a command route needs".to_owned(),
            );
        };
        let arguments = match arguments::fill(&self.settings.arguments, attempt) {
            Ok(arguments) => arguments,
            Err(reply) => return Outcome::Refused(reply),
        };
        self.run(arguments, content, &attempt.in_doubt)
            .await
            .unwrap_or_else(Outcome::Unreachable)
    }
}

/// That a program cannot be started is never the message's fault: what it is handed is bounded.
fn not_started(err: &io::Error) -> Fault {
    let what = format!("the program cannot be started: {err}");
    match own_error(err) {
        Some(cause) => cause.fault(FaultKind::Local, &what),
        None => Fault::ours(
            FaultKind::Local,
            format!("{what}: check program of the route"),
        ),
    }
}

/// Writes the content, with CRLF or the line ends of Unix. All of its own line ends are CRLF. It is
/// not copied as a whole.
async fn write(input: impl AsyncWrite + Unpin, content: &[u8], crlf: bool) -> io::Result<()> {
    let mut input = BufWriter::with_capacity(WRITE, input);
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
    async fn of_output_without_end_what_comes_first_is_kept_and_all_of_it_is_read() {
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
