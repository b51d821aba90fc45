//! Shows the progress of the demo. On a terminal it draws one line per status and updates these
//! lines in place. Otherwise it writes a line every few seconds.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::results::{Label, Results};
use crate::figures::thousands;

/// How often a line is written if the output is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the progress of the demo.
pub(crate) struct Display {
    lines: Option<Lines>,
    last_line: Instant,
}

struct Lines {
    all: MultiProgress,
    overview: ProgressBar,
    head: ProgressBar,
    rows: HashMap<Label, ProgressBar>,
}

/// How many jobs of one status are in each state.
#[derive(Default)]
struct Counts {
    waiting: usize,
    in_flight: usize,
    delivered: usize,
    retired: usize,
    given_up: usize,
}

impl Display {
    /// Returns a display for `messages` messages.
    pub(crate) fn new(terminal: bool, messages: u64) -> Self {
        Self {
            lines: terminal.then(|| Lines::new(messages)),
            last_line: Instant::now(),
        }
    }

    /// Shows the results so far. `leased` are the jobs in flight, and `elapsed` is in the demo's
    /// time.
    pub(crate) fn show(&mut self, results: &Results, leased: &[String], elapsed: Duration) {
        let hours = elapsed.as_secs() / 3_600;
        let time = format!("day {:>2}, {:02} h", hours / 24, hours % 24);
        let attempts = thousands(results.attempts());
        if let Some(lines) = &mut self.lines {
            lines.overview.set_position(results.ended() as u64);
            lines
                .overview
                .set_message(format!("{time}   {attempts} attempts"));
            lines.show_rows(results, leased);
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            let (ended, open) = (
                thousands(results.ended() as u64),
                thousands(results.open() as u64),
            );
            eprintln!(
                "{time}: {ended} messages ended, {open} wait, {} jobs in flight, \
                 {attempts} attempts",
                leased.len()
            );
        }
    }

    /// Removes the display from the terminal.
    pub(crate) fn finish(self) {
        if let Some(lines) = self.lines {
            let _ = lines.all.clear();
        }
    }
}

impl Lines {
    fn new(messages: u64) -> Self {
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("the template is a constant")
        };
        let all = MultiProgress::new();
        let overview = all.add(ProgressBar::new(messages));
        overview.set_style(style(
            "  {bar:40.green/dim} {human_pos}/{human_len} messages ended   {msg}",
        ));
        let head = all.add(ProgressBar::new_spinner());
        head.set_style(style("{msg:.dim}"));
        Self {
            all,
            overview,
            head,
            rows: HashMap::new(),
        }
    }

    fn show_rows(&mut self, results: &Results, leased: &[String]) {
        let mut in_flight: HashMap<&Label, usize> = HashMap::new();
        for job in leased.iter().filter_map(|job| results.job(job)) {
            *in_flight.entry(&job.label).or_default() += 1;
        }
        self.head.set_message(format!(
            "  {:<8}{:<24}{:>9}{:>11}{:>11}{:>9}{:>10}",
            "status", "policy row", "waiting", "in flight", "delivered", "retired", "given up"
        ));
        for (label, jobs) in results.by_label() {
            let mut counts = Counts {
                in_flight: in_flight.get(label).copied().unwrap_or(0),
                ..Counts::default()
            };
            for job in jobs {
                match (job.over, job.retired, job.delivered_at) {
                    (false, ..) => counts.waiting += 1,
                    (_, Some(_), _) => counts.retired += 1,
                    (.., Some(_)) => counts.delivered += 1,
                    _ => counts.given_up += 1,
                }
            }
            counts.waiting = counts.waiting.saturating_sub(counts.in_flight);
            let row = self.rows.entry(label.clone()).or_insert_with(|| {
                let row = self.all.add(ProgressBar::new_spinner());
                row.set_style(
                    ProgressStyle::with_template("{msg}").expect("the template is a constant"),
                );
                row
            });
            row.set_message(format!(
                "  {:<8}{:<24}{:>9}{:>11}{:>11}{:>9}{:>10}",
                label.status,
                label.policy,
                counts.waiting,
                counts.in_flight,
                counts.delivered,
                counts.retired,
                counts.given_up
            ));
        }
    }
}
