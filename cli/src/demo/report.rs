//! The report at the end of the demo. Every figure comes from the journal, with one exception: a
//! check that the delivered messages of the journal have arrived at the mail servers.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use domain::standing::Standing;

use super::campaign::Answers;
use super::mail_servers::MailServer;
use super::results::{JobResult, Results};
use crate::figures::thousands;

/// A lateness above this, in ms of the demo's time, changes the result: a retry that is too late
/// may come after a server's trouble is already over.
const LATE_MS: i64 = 3 * 3_600_000;

/// Deliveries at this try or a later one are counted in one column.
const TRIES_SHOWN: u32 = 4;

/// Writes the report. Returns its text, and whether all its checks passed.
pub(crate) fn write(
    results: &Results,
    answers: &Answers,
    servers: &[MailServer],
    took: Duration,
    speed: u32,
) -> (String, bool) {
    let mut text = String::new();
    write_statuses(&mut text, results);
    let days = (took * speed).as_secs_f64() / 86_400.0;
    let _ = writeln!(text, "\n{days:.1} days in {:.1} s.", took.as_secs_f64());
    let checks = [
        ended_once(results, answers),
        never_early(results),
        arrived(results, servers),
    ];
    for (holds, line) in &checks {
        let (mark, color) = if *holds {
            ("ok  ", AnsiColor::Green)
        } else {
            ("FAIL", AnsiColor::Red)
        };
        let style = Style::new().bold().fg_color(Some(color.into()));
        let _ = writeln!(text, "{style}{mark}{style:#} {line}");
    }
    (text, checks.iter().all(|(holds, _)| *holds))
}

fn write_statuses(text: &mut String, results: &Results) {
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
    let groups = results.by_label();
    for (label, jobs) in &groups {
        write_row(text, &label.status, &label.policy, jobs);
    }
    let all: Vec<&JobResult> = results.jobs().filter(|job| job.scheduled).collect();
    write_row(text, "all", "", &all);
    let _ = writeln!(
        text,
        "\nearliest: how long after its due time the earliest attempt was claimed, \
         in the demo's time"
    );
}

fn write_row(text: &mut String, status: &str, policy: &str, jobs: &[&JobResult]) {
    let count = |keep: &dyn Fn(&JobResult) -> bool| {
        thousands(jobs.iter().filter(|job| keep(job)).count() as u64)
    };
    let at_try = |n: u32| count(&|job| job.retired.is_none() && job.delivered_at == Some(n));
    let later =
        count(&|job| job.retired.is_none() && job.delivered_at.is_some_and(|n| n >= TRIES_SHOWN));
    let retired = |standing| count(&|job| job.retired == Some(standing));
    let given_up = count(&|job| job.over && job.retired.is_none() && job.delivered_at.is_none());
    let tries: u32 = jobs.iter().map(|job| job.attempts).sum();
    let _ = writeln!(
        text,
        "{status:<8}{policy:<24}{:>6}{:>6}{:>6}{:>6}{later:>6} \
         {:>12}{:>9}{given_up:>9}{:>10.2}{:>10}",
        thousands(jobs.len() as u64),
        at_try(1),
        at_try(2),
        at_try(3),
        retired(Standing::Unavailable),
        retired(Standing::Inactive),
        f64::from(tries) / jobs.len().max(1) as f64,
        earliest(jobs).map_or_else(|| "-".to_owned(), after_due),
    );
}

fn earliest(jobs: &[&JobResult]) -> Option<i64> {
    jobs.iter().flat_map(|job| &job.late_ms).min().copied()
}

/// Formats how long after its due time an attempt was claimed, in the demo's time. A minus means
/// that it was claimed before its due time.
fn after_due(late_ms: i64) -> String {
    let sign = if late_ms < 0 { '-' } else { '+' };
    let ms = late_ms.unsigned_abs();
    match ms {
        0..60_000 => format!("{sign}{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{sign}{:.1} min", ms as f64 / 60_000.0),
        _ => format!("{sign}{:.1} h", ms as f64 / 3_600_000.0),
    }
}

fn ended_once(results: &Results, answers: &Answers) -> (bool, String) {
    let mut counts = [0_u64; 4];
    let (mut twice, mut messages) = (0_u64, 0_usize);
    for message in results.messages() {
        messages += usize::from(message.waited);
        counts[0] += u64::from(message.delivered);
        counts[1] += u64::from(message.dropped);
        counts[2] += u64::from(message.expired);
        counts[3] += u64::from(message.times_ended() == 0);
        twice += u64::from(message.times_ended() > 1);
    }
    let [delivered, dropped, expired, open] = counts.map(thousands);
    let holds = counts[3] == 0 && twice == 0 && messages == answers.waiting();
    let line = format!(
        "every bounce ended exactly once: {} waited, {} of them in the journal: \
         {delivered} delivered, {dropped} dropped, {expired} expired; \
         {open} open, {twice} ended twice",
        thousands(answers.waiting() as u64),
        thousands(messages as u64),
    );
    (holds, line)
}

fn never_early(results: &Results) -> (bool, String) {
    let jobs: Vec<&JobResult> = results.jobs().collect();
    let early = jobs
        .iter()
        .flat_map(|job| &job.late_ms)
        .filter(|late_ms| **late_ms < 0)
        .count();
    let latest = jobs
        .iter()
        .flat_map(|job| &job.late_ms)
        .max()
        .copied()
        .unwrap_or_default();
    let first = earliest(&jobs).map_or_else(|| "no attempt".to_owned(), after_due);
    let attempts = thousands(results.attempts());
    let mut line = format!(
        "no attempt before it was due: {attempts} attempts, {early} early, \
         the earliest {first} after"
    );
    if latest > LATE_MS {
        let _ = write!(
            line,
            "\n     but the latest attempt {} after its due time: this machine is too slow for \
             this --speed, so some mail was delivered at an earlier try than in reality; a \
             smaller --speed gives better figures",
            after_due(latest)
        );
    }
    (early == 0, line)
}

fn arrived(results: &Results, servers: &[MailServer]) -> (bool, String) {
    let delivered: u64 = results
        .messages()
        .map(|message| u64::from(message.delivered))
        .sum();
    let accepted: Vec<_> = servers.iter().flat_map(MailServer::accepted).collect();
    let distinct = accepted.iter().collect::<HashSet<_>>().len();
    let connections: u64 = servers.iter().map(MailServer::connections).sum();
    let refusals: u64 = servers.iter().map(MailServer::refusals).sum();
    let line = format!(
        "what the journal calls delivered arrived, and once: {} delivered, \
         the servers took {} ({} distinct) and refused {}, on {} connections",
        thousands(delivered),
        thousands(accepted.len() as u64),
        thousands(distinct as u64),
        thousands(refusals),
        thousands(connections),
    );
    (
        accepted.len() as u64 == delivered && distinct == accepted.len(),
        line,
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
