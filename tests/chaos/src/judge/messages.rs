//! Every accepted bounce must end exactly once per message.

use std::collections::{HashMap, HashSet};

use domain::event::EventKind;

use super::{Excuses, Facts, Histories, Verdict};
use crate::record::{Bounced, Event, Evidence, Ms, Way};

/// The history of one message, from the journal.
#[derive(Debug, Default)]
pub(super) struct Story<'a> {
    /// When it was accepted, by the server's clock.
    pub(super) entries: Vec<Ms>,
    pub(super) ends: Vec<&'a Event>,
    is_open: bool,
}

/// The history of each message, by message id.
pub(super) type Stories<'a> = HashMap<&'a str, Story<'a>>;

pub(super) fn judge<'a>(
    evidence: &'a Evidence,
    histories: &Histories<'a>,
    excuses: &Excuses<'_>,
    facts: &Facts<'_>,
    verdict: &mut Verdict,
) -> Stories<'a> {
    let mut stories = Stories::new();
    let reported: HashSet<&str> = evidence
        .refuted
        .iter()
        .map(|refuted| refuted.message.as_str())
        .collect();
    let repeated: HashSet<&str> = evidence
        .bounced
        .iter()
        .filter(|bounced| bounced.tries > 1)
        .map(|bounced| bounced.message.as_str())
        .collect();
    for (job, history) in &histories.0 {
        let mut reinstated = None;
        for event in history {
            if event.kind == EventKind::AddressReinstated {
                reinstated = Some(event.at);
            }
            let Some(message) = event.message.as_deref() else {
                continue;
            };
            let last_end = stories
                .get(message)
                .and_then(|story| story.ends.last())
                .map(|end| end.at);
            // A relay may report after the time for reports has passed; that counts as a new
            // bounce. So does a bounce that is repeated after its address was reinstated.
            let is_anew =
                reported.contains(message) || (repeated.contains(message) && reinstated > last_end);
            follow(job, message, event, is_anew, &mut stories, verdict);
        }
    }
    for (message, story) in &stories {
        if story.is_open {
            verdict.blame(
                "ends once",
                format!(
                    "{message} was accepted at {:?} and never ended",
                    story.entries
                ),
            );
        }
    }
    for bounced in &evidence.bounced {
        let story = stories.get(bounced.message.as_str());
        let is_reported = reported.contains(bounced.message.as_str());
        judge_bounce(
            bounced,
            story,
            is_reported,
            histories,
            excuses,
            facts,
            verdict,
        );
    }
    stories
}

fn follow<'a>(
    job: &str,
    message: &'a str,
    event: &'a Event,
    is_anew: bool,
    stories: &mut Stories<'a>,
    verdict: &mut Verdict,
) {
    let story = stories.entry(message).or_default();
    if matches!(
        event.kind,
        EventKind::JobScheduled | EventKind::MessageJoined
    ) {
        if story.is_open {
            verdict.blame(
                "ends once",
                format!(
                    "{message} of {job} was accepted again while it waited: {}",
                    event.id
                ),
            );
        }
        story.entries.push(event.at);
        story.is_open = true;
    }
    if event.kind.is_final() {
        // A bounce with a permanent failure ends its message without a wait.
        let is_first = story.ends.is_empty() || is_anew;
        let is_end_on_arrival =
            event.kind == EventKind::MessageDropped && event.attempt.unwrap_or(0) == 0 && is_first;
        if !story.is_open && !is_end_on_arrival {
            let before: Vec<&str> = story.ends.iter().map(|end| end.id.as_str()).collect();
            verdict.blame(
                "ends once",
                format!(
                    "{message} of {job} ended at {} without waiting; before: {before:?}",
                    event.id
                ),
            );
        }
        story.ends.push(event);
        story.is_open = false;
    }
}

fn judge_bounce(
    bounced: &Bounced,
    story: Option<&Story<'_>>,
    is_reported: bool,
    histories: &Histories<'_>,
    excuses: &Excuses<'_>,
    facts: &Facts<'_>,
    verdict: &mut Verdict,
) {
    let Bounced {
        message,
        job,
        answer,
        way,
        ..
    } = bounced;
    if let Some(story) = story.filter(|story| story.entries.len() > 1) {
        // A bounce that is repeated after its message has ended counts as a new bounce.
        if bounced.tries > 1 || is_reported || matches!(way, Way::Stream) {
            verdict.count("came in again after a report or a repeated input");
        } else {
            verdict.blame(
                "ends once",
                format!(
                    "{message} of {job} was sent once and accepted at {:?}",
                    story.entries
                ),
            );
        }
    }
    let is_known = story.is_some_and(|story| !story.ends.is_empty());
    let must_end = match answer.as_str() {
        "scheduled" | "joined" | "duplicate" | "deferred" => true,
        "retired" | "dropped" | "stale" => false,
        "taken" => !is_explained(bounced, histories, excuses, facts),
        other => {
            verdict.blame(
                "nothing is refused",
                format!("{message} of {job} by {way:?} was answered {other}"),
            );
            false
        }
    };
    if !must_end || is_known || story.is_some_and(|story| story.is_open) {
        return;
    }
    if excuses.acknowledged_may_be_lost(bounced.first_at, bounced.answered_at) {
        verdict.count("lost with the writes after a snapshot");
        return;
    }
    let times = format!(
        "sent at {}, answered {answer} at {}",
        bounced.first_at, bounced.answered_at
    );
    verdict.blame(
        "nothing is lost",
        format!("{message} of {job} by {way:?}, {times}, has no event at all"),
    );
}

/// Whether a bounce that was accepted without a detailed answer may have started nothing: its
/// address was not active, or has received mail since.
fn is_explained(
    bounced: &Bounced,
    histories: &Histories<'_>,
    excuses: &Excuses<'_>,
    facts: &Facts<'_>,
) -> bool {
    let history = histories.of_job(&bounced.job);
    let was_delivered = facts
        .get(bounced.job.as_str())
        .is_some_and(|facts| facts.iter().any(|fact| fact.fact == "delivered"));
    let retired_or_got_mail = history.iter().any(|event| match event.kind {
        EventKind::AddressRetired | EventKind::AddressSuppressed => true,
        // The server compares the time of the bounce with its own clock.
        EventKind::MessageDelivered => excuses.server_time(event.at) >= bounced.first_at,
        _ => false,
    });
    was_delivered || retired_or_got_mail
}
