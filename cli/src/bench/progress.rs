//! How far a long mode is, on stderr: a line redrawn in place on a terminal, and a line now and then elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::figures::thousands;

/// How often a line is written where nothing can be redrawn.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one thing that takes a while.
pub(crate) struct Progress {
    what: String,
    all: usize,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Of `all` jobs nothing is done yet.
    pub(crate) fn new(what: impl Into<String>, all: usize) -> Self {
        let what = what.into();
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {prefix}: {human_pos} of {human_len} {wide_bar} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(all as u64).with_style(style).with_prefix(what.clone())
        });
        Self { what, all, bar, last_line: Instant::now() }
    }

    /// Shows how many are done, and what else there is to say.
    pub(crate) fn show(&mut self, done: usize, besides: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(besides.to_owned());
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let comma = if besides.is_empty() { "" } else { ", " };
            eprintln!("  {}: {} of {}{comma}{besides}", self.what, thousands(done as u64), thousands(self.all as u64));
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
