//! Shows the progress of a long command on stderr. On a terminal it draws one line and updates it
//! in place. Otherwise it writes a line every few seconds.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::figures::thousands;

/// How often a line is written if stderr is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one long task.
pub(crate) struct Progress {
    what: String,
    /// The total, if it is known.
    all: Option<u64>,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Returns the progress of a task with `all` jobs, none of which is done yet.
    pub(crate) fn new(what: impl Into<String>, all: usize) -> Self {
        Self::draw(
            what.into(),
            Some(all as u64),
            "  {prefix}: {human_pos} of {human_len} {wide_bar} {msg}",
        )
    }

    /// Returns the progress of a task that is measured in bytes. `all` is the total, if it is
    /// known.
    pub(crate) fn of_bytes(what: impl Into<String>, all: Option<u64>) -> Self {
        let template = match all {
            Some(_) => "  {prefix}: {bytes} of {total_bytes} {wide_bar} {eta} left, {msg}",
            None => "  {spinner} {prefix}: {bytes}, {msg}",
        };
        Self::draw(what.into(), all, template)
    }

    fn draw(what: String, all: Option<u64>, template: &str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = all.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            bar.with_style(style).with_prefix(what.clone())
        });
        Self {
            what,
            all,
            bar,
            last_line: Instant::now(),
        }
    }

    /// Shows how many jobs or bytes are done, and a note, which may be empty.
    pub(crate) fn show(&mut self, done: u64, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(note.to_owned());
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            let comma = if note.is_empty() { "" } else { ", " };
            let of_all = self
                .all
                .map(|all| format!(" of {}", thousands(all)))
                .unwrap_or_default();
            eprintln!("  {}: {}{of_all}{comma}{note}", self.what, thousands(done));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
