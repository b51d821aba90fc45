//! Draws the attempts of a job, each a step to the right on a time axis. Pure: the width, the time
//! and the time zone are passed in.

use std::fmt::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use chrono::NaiveDateTime;
use domain::clock::Timestamp;

use super::axis::Axis;
use super::chain::{Chain, Mark, Row, State};
use super::words::{Word, conversation, fill, phases, take_line};
use crate::figures::rough;

/// How many rows are drawn at most, and how many of them from the beginning.
const ROWS_MAX: usize = 40;
const ROWS_FIRST: usize = 10;

/// How wide the axis is at most.
const AXIS_MAX: usize = 96;

const PLAIN: Style = Style::new();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// How to draw.
pub(super) struct View {
    /// In columns.
    pub(super) width: usize,
    pub(super) now: Timestamp,
    pub(super) to_local: fn(Timestamp) -> NaiveDateTime,
}

/// What a reader should know about what is not drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Older events were not searched.
    SearchLonger,
    /// The job has ended, and its first events are deleted.
    StartIsGone,
    /// The events of the first attempts are deleted, and only the job's history has them.
    PhasesAreGone,
}

/// An instant on the axis.
struct Point<'c> {
    number: Option<u32>,
    at: Timestamp,
    sign: char,
    color: AnsiColor,
    /// What is said about it in a few words.
    words: Vec<Word>,
    /// What happened then. `None` if it is still to come.
    row: Option<&'c Row>,
}

/// Draws a job. The text has colours.
pub(super) fn draw(chain: &Chain, notice: Option<Notice>, view: &View) -> String {
    let mut text = String::new();
    write_head(&mut text, chain, view);
    write_rows(&mut text, chain, view);
    if let Some(notice) = notice {
        let notice = match notice {
            Notice::SearchLonger => "older events were not searched; --search 5m searches longer",
            Notice::StartIsGone => {
                "the job began earlier, but its first events are deleted (journal.keep)"
            }
            Notice::PhasesAreGone => {
                "the first attempts have no phases, because their events are deleted (journal.keep)"
            }
        };
        let _ = writeln!(text);
        for line in fill(Word::sentence(notice, DIM), view.width) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

fn write_head(text: &mut String, chain: &Chain, view: &View) {
    let Chain {
        job,
        destination,
        policy,
        state,
        counts,
        rows,
        next,
        most,
        conversation,
    } = chain;
    let attempt = match most {
        Some(most) if most >= next => format!("attempt {next} of {most}"),
        _ => format!("attempt {next}"),
    };
    let long = |at: Timestamp| (view.to_local)(at).format("%a %-d %b %Y %H:%M").to_string();
    let _ = writeln!(text, "{BOLD}{job}{BOLD:#} at {destination}");
    let ended = counts.ended();
    let state = match state {
        State::Waits { due, reason } => {
            let due = if *due > view.now {
                let wait = rough(due.since(view.now));
                format!("{attempt} is due {}, in {wait}", long(*due))
            } else {
                let over = rough(view.now.since(*due));
                format!("{attempt} is due since {}, {over} ago", long(*due))
            };
            match reason {
                Some(reason) => format!("{due}; waits for {reason}"),
                None => due,
            }
        }
        State::Confirms { until } => format!(
            "waits for a bounce of what a relay accepted; without one it counts as delivered {}",
            long(*until)
        ),
        State::Quarantined { since } => format!(
            "in quarantine since {}, because its workers were lost; \
             `redeliver quarantine release {job}` makes it due",
            long(*since)
        ),
        State::UnderWay { until } => match until {
            Some(until) => format!("{attempt} is under way, leased until {}", long(*until)),
            None => format!("{attempt} is under way"),
        },
        State::Ended => match (rows.first(), rows.last()) {
            (Some(first), Some(last)) => format!(
                "ended {}, after {}{}",
                long(last.at),
                rough(last.at.since(first.at)),
                last.notes
                    .iter()
                    .find(|note| note.starts_with("the address is"))
                    .map(|note| format!("; {note}"))
                    .unwrap_or_default()
            ),
            _ => "ended".to_owned(),
        },
    };
    let mut messages = Vec::new();
    match counts.waiting {
        0 => {}
        1 => messages.push("1 waits".to_owned()),
        count => messages.push(format!("{count} wait")),
    }
    messages.extend(ended);
    let messages = if messages.is_empty() {
        String::new()
    } else {
        format!("messages: {}", messages.join(", "))
    };
    let row = if policy.is_empty() {
        String::new()
    } else {
        format!("policy row: {policy}")
    };
    let conversation = conversation.as_ref();
    let conversation = conversation.map(|id| format!("conversation id in traces: {id}"));
    let facts: Vec<String> = [messages, row]
        .into_iter()
        .filter(|fact| !fact.is_empty())
        .collect();
    for sentence in [state, facts.join("; "), conversation.unwrap_or_default()] {
        for line in fill(Word::sentence(&sentence, PLAIN), view.width) {
            let _ = writeln!(text, "{line}");
        }
    }
}

fn write_rows(text: &mut String, chain: &Chain, view: &View) {
    let mut points: Vec<Point<'_>> = chain.rows.iter().map(point).collect();
    points.extend(ahead(chain, view));
    let left_out = points.len().saturating_sub(ROWS_MAX);
    if left_out > 0 {
        points.drain(ROWS_FIRST..ROWS_FIRST + left_out);
    }
    let instants: Vec<Timestamp> = points.iter().map(|point| point.at).collect();
    let Some(first) = instants.first() else {
        return;
    };
    let is_close = |two: &[Timestamp]| two[1].since(two[0]) < Duration::from_secs(60);
    let format = if instants.windows(2).any(is_close) {
        "%a %e %b %H:%M:%S"
    } else {
        "%a %e %b %H:%M"
    };
    let time = |at: Timestamp| (view.to_local)(at).format(format).to_string();
    let indent = 3 + 2 + time(*first).chars().count() + 2;
    let width = view.width.saturating_sub(indent);
    let axis = Axis::new(&instants, width.min(AXIS_MAX));
    let _ = writeln!(text);
    write_axis(text, &axis, indent);
    for (n, point) in points.into_iter().enumerate() {
        if left_out > 0 && n == ROWS_FIRST {
            let more = format!("… {left_out} more, which --json prints");
            let _ = writeln!(text, "{DIM}{:indent$}{more}{DIM:#}", "");
        }
        let number = point.number.map(|number| number.to_string());
        let (number, time) = (number.unwrap_or_default(), time(point.at));
        let _ = write!(text, "{BOLD}{number:>3}{BOLD:#}  {DIM}{time}{DIM:#}  ");
        let wait = (n > 0).then(|| Wait {
            column: axis.columns[n - 1],
            since: instants[n - 1],
        });
        let lines = lines_of(point, axis.columns[n], wait, width, view.now);
        for (n, line) in lines.iter().enumerate() {
            let indent = if n == 0 { 0 } else { indent };
            let _ = writeln!(text, "{:indent$}{line}", "");
        }
    }
}

/// The instant before another: its column, and when it was.
#[derive(Clone, Copy)]
struct Wait {
    column: usize,
    since: Timestamp,
}

/// Returns the lines of an instant, which is in this column. The first line has the wait before it.
fn lines_of(
    point: Point<'_>,
    column: usize,
    wait: Option<Wait>,
    width: usize,
    now: Timestamp,
) -> Vec<String> {
    let Point {
        at,
        sign,
        color,
        mut words,
        row,
        ..
    } = point;
    let mut first = String::new();
    if let Some(Wait {
        column: from,
        since,
    }) = wait
    {
        let gap = rough(at.since(since));
        let passed = row.map_or_else(|| share(since, now, at), |_| 1.0);
        let (line, has_gap) = connector(column - from, &gap, passed);
        let _ = write!(first, "{:from$}{DIM}{line}{DIM:#}", "");
        if !has_gap {
            words.insert(0, Word::new(format!("{gap} later"), DIM));
        }
    }
    let bold = BOLD.fg_color(Some(color.into()));
    let _ = write!(first, "{bold}{sign}{bold:#}");
    // What fits is on the line of the instant, and the rest below.
    let beside = take_line(&mut words, width.saturating_sub(column + 3));
    if !beside.is_empty() {
        let _ = write!(first, "  {beside}");
    }
    let mut lines = vec![first];
    let reply = row.and_then(|row| row.reply.as_ref());
    lines.extend(
        reply
            .into_iter()
            .flat_map(|reply| fill(Word::new(reply, PLAIN).parts(width), width)),
    );
    let is_ahead = row.is_none();
    lines.extend(fill(words, width).into_iter().map(|line| {
        // What is still to come is explained below its sign.
        let space = if is_ahead {
            (column + 1).saturating_sub(anstream::adapter::strip_str(&line).to_string().len())
        } else {
            0
        };
        format!("{:space$}{line}", "")
    }));
    let transcript = row.and_then(|row| row.transcript.as_ref());
    lines.extend(
        transcript
            .into_iter()
            .flat_map(|transcript| phases(transcript, width)),
    );
    // Not shortened: a terminal makes a link of the whole text.
    let trace = row.and_then(|row| row.trace.as_ref());
    lines.extend(trace.map(|trace| Word::new(trace, AnsiColor::Cyan.on_default()).to_string()));
    lines
}

fn point(row: &Row) -> Point<'_> {
    let (sign, color) = match row.mark {
        Mark::Failed => ('●', AnsiColor::Yellow),
        Mark::Accepted => ('◐', AnsiColor::Blue),
        Mark::Delivered => ('✓', AnsiColor::Green),
        Mark::GivenUp => ('✗', AnsiColor::Red),
        Mark::Other => ('◇', AnsiColor::Magenta),
    };
    let mut words: Vec<Word> = row.transcript.iter().flat_map(conversation).collect();
    words.extend(row.notes.iter().map(|note| Word::new(note, DIM)));
    Point {
        number: row.number,
        at: row.at,
        sign,
        color,
        words,
        row: Some(row),
    }
}

/// Returns the next instant of a job that goes on.
fn ahead(chain: &Chain, view: &View) -> Option<Point<'static>> {
    let last = chain.rows.last()?.at;
    let next = Some(chain.next);
    let (number, at, note) = match &chain.state {
        State::Waits { due, .. } if *due > view.now => {
            let wait = rough(due.since(view.now));
            (next, *due, format!("due in {wait}"))
        }
        State::Waits { due, .. } => {
            let over = rough(view.now.since(*due));
            (next, *due, format!("due since {over}"))
        }
        State::Confirms { until } => (None, *until, "delivered, if no bounce comes".to_owned()),
        State::UnderWay { .. } => (next, view.now, "under way".to_owned()),
        State::Quarantined { .. } | State::Ended => return None,
    };
    Some(Point {
        number,
        at: at.max(last),
        sign: '○',
        color: AnsiColor::Cyan,
        words: vec![Word::new(note, PLAIN)],
        row: None,
    })
}

/// Draws the axis: a tick at each instant.
fn write_axis(text: &mut String, axis: &Axis, indent: usize) {
    let last = axis.columns.last().copied().unwrap_or_default();
    let line: String = (0..=last)
        .map(|column| match axis.columns.binary_search(&column) {
            Ok(0) if last == 0 => '│',
            Ok(0) => '├',
            Ok(_) if column == last => '┤',
            Ok(_) => '┼',
            Err(_) => '─',
        })
        .collect();
    let scale = if axis.is_to_scale {
        "to scale"
    } else {
        "not to scale"
    };
    let head = format!("  #  {scale:<width$}", width = indent.saturating_sub(5));
    let _ = writeln!(text, "{DIM}{head}{line}{DIM:#}");
}

/// Draws the wait before an instant, `width` columns wide, with its length in it if there is room.
/// Returns whether there is. `passed` is how much of the wait is over, from 0 to 1; the rest is
/// dashed.
fn connector(width: usize, gap: &str, passed: f64) -> (String, bool) {
    let passed = (width as f64 * passed).round() as usize;
    let mut line: Vec<char> = (0..width)
        .map(|column| match column {
            0 => '╰',
            _ if column < passed => '─',
            _ => '╌',
        })
        .collect();
    let length = gap.chars().count();
    let has_gap = length + 3 <= width;
    if has_gap {
        let from = 1 + (width - 1 - length) / 2;
        line.splice(from..from + length, gap.chars());
    }
    (line.into_iter().collect(), has_gap)
}

/// Returns which part of the time from `from` to `to` is over.
fn share(from: Timestamp, now: Timestamp, to: Timestamp) -> f64 {
    let whole = to.since(from).as_secs_f64();
    if whole > 0.0 {
        (now.since(from).as_secs_f64() / whole).min(1.0)
    } else {
        1.0
    }
}
