//! The report at the end of the demo. Every figure comes from the journal, but for one check
//! against the cast: what the journal calls delivered must have arrived.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use domain::standing::Standing;

use super::campaign::Answers;
use super::cast::Member;
use super::score::{Score, Story};
use crate::figures::thousands;

/// From here on, in the demo's time, lateness changes the story: a retry comes when the trouble is
/// over.
const LATE_MS: i64 = 3 * 3_600_000;

/// Tries beyond this share a column.
const TRIES_SHOWN: u32 = 4;

/// The report, and whether all its checks hold.
pub(crate) fn write(
    score: &Score,
    answers: &Answers,
    members: &[Member],
    took: Duration,
    speed: u32,
) -> (String, bool) {
    let mut text = String::new();
    write_statuses(&mut text, score);
    let days = (took * speed).as_secs_f64() / 86_400.0;
    let _ = writeln!(text, "\n{days:.1} days in {:.1} s.", took.as_secs_f64());
    let checks = [
        ended_once(score, answers),
        never_early(score),
        arrived(score, members),
    ];
    for (holds, said) in &checks {
        let (mark, color) = if *holds {
            ("ok  ", AnsiColor::Green)
        } else {
            ("FAIL", AnsiColor::Red)
        };
        let style = Style::new().bold().fg_color(Some(color.into()));
        let _ = writeln!(text, "{style}{mark}{style:#} {said}");
    }
    (text, checks.iter().all(|(holds, _)| *holds))
}

fn write_statuses(text: &mut String, score: &Score) {
    let bold = Style::new().bold();
    let _ = writeln!(
        text,
        "{bold}What became of the addresses, by the status that they first bounced with{bold:#}\n"
    );
    let _ = writeln!(
        text,
        "{:38}{:-^24} {:-^21}",
        "", " delivered at try ", " retired "
    );
    let _ = writeln!(
        text,
        "{:<8}{:<24}{:>6}{:>6}{:>6}{:>6}{:>6} {:>12}{:>9}{:>9}{:>10}{:>10}",
        "status",
        "policy row",
        "jobs",
        "1",
        "2",
        "3",
        "4+",
        "unavailable",
        "inactive",
        "given up",
        "tries/job",
        "earliest"
    );
    let groups = score.by_label();
    for (label, stories) in &groups {
        write_row(text, &label.status, &label.policy, stories);
    }
    let all: Vec<&Story> = score.stories().filter(|story| story.scheduled).collect();
    write_row(text, "all", "", &all);
    let _ = writeln!(
        text,
        "\nearliest: how long after its due time the earliest attempt was claimed, in the demo's time"
    );
}

fn write_row(text: &mut String, status: &str, policy: &str, stories: &[&Story]) {
    let count = |keep: &dyn Fn(&Story) -> bool| {
        thousands(stories.iter().filter(|story| keep(story)).count() as u64)
    };
    let at_try = |n: u32| count(&|story| story.retired.is_none() && story.delivered_at == Some(n));
    let later = count(&|story| {
        story.retired.is_none() && story.delivered_at.is_some_and(|n| n >= TRIES_SHOWN)
    });
    let retired = |standing| count(&|story| story.retired == Some(standing));
    let given_up =
        count(&|story| story.over && story.retired.is_none() && story.delivered_at.is_none());
    let tries: u32 = stories.iter().map(|story| story.attempts).sum();
    let _ = writeln!(
        text,
        "{status:<8}{policy:<24}{:>6}{:>6}{:>6}{:>6}{later:>6} {:>12}{:>9}{given_up:>9}{:>10.2}{:>10}",
        thousands(stories.len() as u64),
        at_try(1),
        at_try(2),
        at_try(3),
        retired(Standing::Unavailable),
        retired(Standing::Inactive),
        f64::from(tries) / stories.len().max(1) as f64,
        earliest(stories).map_or_else(|| "-".to_owned(), after_due),
    );
}

fn earliest(stories: &[&Story]) -> Option<i64> {
    stories
        .iter()
        .flat_map(|story| &story.late_ms)
        .min()
        .copied()
}

/// How long after (or, with a minus, before) its due time, in the demo's time.
fn after_due(late_ms: i64) -> String {
    let sign = if late_ms < 0 { '-' } else { '+' };
    let ms = late_ms.unsigned_abs();
    match ms {
        0..60_000 => format!("{sign}{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{sign}{:.1} min", ms as f64 / 60_000.0),
        _ => format!("{sign}{:.1} h", ms as f64 / 3_600_000.0),
    }
}

fn ended_once(score: &Score, answers: &Answers) -> (bool, String) {
    let mut counts = [0_u64; 4];
    let (mut twice, mut messages) = (0_u64, 0_usize);
    for ending in score.messages() {
        messages += usize::from(ending.waited);
        counts[0] += u64::from(ending.delivered);
        counts[1] += u64::from(ending.dropped);
        counts[2] += u64::from(ending.expired);
        counts[3] += u64::from(ending.times() == 0);
        twice += u64::from(ending.times() > 1);
    }
    let [delivered, dropped, expired, open] = counts.map(thousands);
    let holds = counts[3] == 0 && twice == 0 && messages == answers.waiting();
    let said = format!(
        "every bounce ended exactly once: {} waited, {} of them in the journal: {delivered} delivered, {dropped} dropped, \
         {expired} expired; {open} open, {twice} ended twice",
        thousands(answers.waiting() as u64),
        thousands(messages as u64),
    );
    (holds, said)
}

fn never_early(score: &Score) -> (bool, String) {
    let stories: Vec<&Story> = score.stories().collect();
    let early = stories
        .iter()
        .flat_map(|story| &story.late_ms)
        .filter(|late_ms| **late_ms < 0)
        .count();
    let latest = stories
        .iter()
        .flat_map(|story| &story.late_ms)
        .max()
        .copied()
        .unwrap_or_default();
    let first = earliest(&stories).map_or_else(|| "no attempt".to_owned(), after_due);
    let attempts = thousands(score.attempts());
    let mut said = format!(
        "no attempt before it was due: {attempts} attempts, {early} early, the earliest {first} after"
    );
    if latest > LATE_MS {
        let _ = write!(
            said,
            "\n     but the latest {}: this machine fell behind the demo's time, so some mail got through at an earlier \
             try than it would have; a smaller --speed is truer",
            after_due(latest)
        );
    }
    (early == 0, said)
}

fn arrived(score: &Score, members: &[Member]) -> (bool, String) {
    let delivered: u64 = score
        .messages()
        .map(|ending| u64::from(ending.delivered))
        .sum();
    let taken: Vec<_> = members.iter().flat_map(Member::taken).collect();
    let distinct = taken.iter().collect::<HashSet<_>>().len();
    let connections: u64 = members.iter().map(Member::connections).sum();
    let refusals: u64 = members.iter().map(Member::refusals).sum();
    let said = format!(
        "what the journal calls delivered arrived, and once: {} delivered, the servers took {} ({} distinct) and refused \
         {}, on {} connections",
        thousands(delivered),
        thousands(taken.len() as u64),
        thousands(distinct as u64),
        thousands(refusals),
        thousands(connections),
    );
    (
        taken.len() as u64 == delivered && distinct == taken.len(),
        said,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_before_its_due_time_shows_a_minus() {
        assert_eq!(
            [0, -1_500, 90_000, 7_200_000].map(after_due),
            ["+0.0 s", "-1.5 s", "+1.5 min", "+2.0 h"]
        );
    }
}
