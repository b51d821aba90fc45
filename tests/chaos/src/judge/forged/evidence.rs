//! Correct evidence of a run without faults, and functions that forge it.

use domain::event::EventKind;

use crate::fault::Kind;
use crate::judge::place;
use crate::options::Shape;
use crate::record::{
    Asked, Bounced, Ended, Event, Evidence, Fault, Ms, Refuted, ReportedFact, Rest, Run, Skew,
    Taken, Way,
};

pub(super) const JOB: &str = "chaos/u1@n9.plain.test";
/// A job at the same destination.
pub(super) const OTHER_JOB: &str = "chaos/u2@n9.plain.test";
pub(super) const RATED: &str = "chaos/u1@n4.rated.test";
/// One life of a worker. A worker that is started again gets another name.
pub(super) const LIFE: &str = "worker0-1.chaos.test";
/// A life of another worker.
pub(super) const OTHER: &str = "worker1-1.chaos.test";

pub(super) fn event(id: &str, kind: EventKind, attempt: Option<u32>, due: Option<Ms>) -> Event {
    let at = id.split([':', '-']).nth(1).unwrap().parse().unwrap();
    let message = !matches!(
        kind,
        EventKind::JobClosed | EventKind::AddressRetired | EventKind::JobLapsed
    );
    Event {
        id: id.to_owned(),
        kind,
        at,
        job: JOB.to_owned(),
        message: message.then(|| "m1".to_owned()),
        attempt,
        reason: None,
        policy: Some("system-full".to_owned()),
        late_ms: attempt.map(|_| 10),
        due,
        standing: None,
    }
}

pub(super) fn asked(at: Ms) -> Asked {
    Asked {
        at,
        job: JOB.to_owned(),
        life: LIFE.to_owned(),
        begins: true,
    }
}

pub(super) fn taken(at: Ms, life: &str) -> Taken {
    Taken {
        at,
        began: at - 10,
        message: "m1".to_owned(),
        job: JOB.to_owned(),
        life: life.to_owned(),
        answered: true,
    }
}

pub(super) fn fault(kind: Kind, at: Ms, until: Ms, life: Option<&str>) -> Fault {
    Fault {
        at,
        until,
        kind,
        life: life.map(str::to_owned),
        lost_since: None,
    }
}

/// Correct evidence: a message is accepted, deferred once and delivered at its second attempt.
pub(super) fn clean() -> Evidence {
    let events = vec![
        event("0:10000-0:0", EventKind::JobScheduled, None, Some(11_000)),
        event(
            "0:11100-0:0",
            EventKind::AttemptDeferred,
            Some(1),
            Some(13_100),
        ),
        event("0:13300-0:0", EventKind::MessageDelivered, Some(2), None),
        event("0:13300-0:1", EventKind::JobClosed, Some(2), None),
    ];
    let bounced = Bounced {
        message: "m1".to_owned(),
        job: JOB.to_owned(),
        way: Way::Lines,
        permanent: false,
        answer: "scheduled".to_owned(),
        tries: 1,
        first_at: 9_990,
        answered_at: 10_010,
    };
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    Evidence {
        run: Run {
            seed: 1,
            shape: Shape::Single,
            minutes: 1.0,
        },
        bounced: vec![bounced],
        facts: vec![],
        held: vec![],
        asked: vec![asked(11_050), asked(13_200)],
        taken: vec![taken(13_210, LIFE)],
        crowds: vec![],
        refuted: vec![],
        faults: vec![],
        ended: vec![],
        events,
        skews: vec![],
        rest: Rest {
            followed: ids.clone(),
            stored: ids,
            ..Rest::default()
        },
    }
}

/// Adds an event at its position in the journal.
pub(super) fn add(evidence: &mut Evidence, event: Event) {
    evidence.events.push(event);
    evidence.events.sort_by_key(|event| place(&event.id));
    relist_events(evidence);
}

/// Makes the lists of event ids match the events again, as they do in a run without faults.
pub(super) fn relist_events(evidence: &mut Evidence) {
    let ids: Vec<String> = evidence
        .events
        .iter()
        .map(|event| event.id.clone())
        .collect();
    (evidence.rest.followed, evidence.rest.stored) = (ids.clone(), ids);
}

pub(super) fn remove_kind(evidence: &mut Evidence, kind: EventKind) {
    evidence.events.retain(|event| event.kind != kind);
    relist_events(evidence);
}

/// Only the answer to the bounce is left: no event, no record and no attempt.
pub(super) fn lose_everything(evidence: &mut Evidence) {
    let mut lost = clean();
    lost.events.clear();
    (lost.rest, lost.asked, lost.taken) = (Rest::default(), vec![], vec![]);
    *evidence = lost;
}

pub(super) fn reported(answer: &str, fact: &str, at: Ms) -> ReportedFact {
    let (fact, job, answer) = (fact.to_owned(), JOB.to_owned(), answer.to_owned());
    ReportedFact {
        fact,
        job,
        message: None,
        first_at: at - 5,
        answered_at: at,
        answer,
    }
}

pub(super) fn ended(was_asked: bool) -> Ended {
    let status = Some("exit status: 1".to_owned());
    Ended {
        at: 12_000,
        life: LIFE.to_owned(),
        was_asked,
        age_ms: 9_000,
        status,
        is_success: false,
    }
}

/// A message is given up, and the job continues with a message that joined meanwhile. The job
/// lapses once before the second message is delivered.
pub(super) fn continue_after_giving_up(evidence: &mut Evidence) {
    let mut given_up = event("0:13300-0:1", EventKind::MessageDropped, None, None);
    given_up.reason = Some("given_up".to_owned());
    let mut joined = event("0:12000-0:0", EventKind::MessageJoined, None, None);
    let mut second = event("0:15300-0:0", EventKind::MessageDelivered, Some(1), None);
    for event in [&mut joined, &mut second] {
        event.message = Some("m2".to_owned());
    }
    evidence.events = vec![
        event("0:10000-0:0", EventKind::JobScheduled, None, Some(11_000)),
        event(
            "0:11100-0:0",
            EventKind::AttemptDeferred,
            Some(1),
            Some(13_100),
        ),
        joined,
        event("0:13300-0:0", EventKind::AttemptDeferred, Some(2), None),
        given_up,
        event("0:14900-0:0", EventKind::JobLapsed, None, None),
        second,
        event("0:15300-0:1", EventKind::JobClosed, Some(1), None),
    ];
    relist_events(evidence);
    evidence.asked = vec![asked(11_050), asked(13_200), asked(15_250)];
    evidence.taken = vec![Taken {
        message: "m2".to_owned(),
        ..taken(15_260, LIFE)
    }];
}

/// A relay accepts two messages of a job. Then it reports that the address of the first one is
/// unknown. This retires the address and ends both messages.
pub(super) fn retire_after_a_report(evidence: &mut Evidence) {
    let of_second = |event: Event| Event {
        message: Some("m2".to_owned()),
        ..event
    };
    let accepted = |id| event(id, EventKind::MessageAccepted, Some(1), Some(15_100));
    // No event of a report says how late the attempt was.
    let reported = |id, kind| Event {
        late_ms: None,
        ..event(id, kind, Some(1), None)
    };
    let dropped = |id| Event {
        reason: Some("retired".to_owned()),
        ..reported(id, EventKind::MessageDropped)
    };
    evidence.events = vec![
        event("0:10000-0:0", EventKind::JobScheduled, None, Some(11_000)),
        of_second(event("0:10500-0:0", EventKind::MessageJoined, None, None)),
        accepted("0:11100-0:0"),
        of_second(accepted("0:11100-0:1")),
        reported("0:12000-0:0", EventKind::AttemptDeferred),
        dropped("0:12000-0:1"),
        of_second(dropped("0:12000-0:2")),
        Event {
            policy: Some("unknown-user".to_owned()),
            ..reported("0:12000-0:3", EventKind::AddressRetired)
        },
    ];
    relist_events(evidence);
    evidence.asked = vec![asked(11_050)];
    evidence.taken = vec![
        taken(11_060, LIFE),
        Taken {
            message: "m2".to_owned(),
            ..taken(11_060, LIFE)
        },
    ];
    evidence.refuted = vec![Refuted {
        from: 11_900,
        at: 12_010,
        message: "m1".to_owned(),
        reply: "550 5.1.1 user unknown".to_owned(),
    }];
}

/// A relay accepts a message, another one joins meanwhile, and no bounce comes.
pub(super) fn continue_after_silence(evidence: &mut Evidence) {
    let mut silence = event("0:15200-0:0", EventKind::MessageDelivered, Some(1), None);
    (silence.reason, silence.late_ms) = (Some("silence".to_owned()), None);
    let mut joined = event("0:12000-0:0", EventKind::MessageJoined, Some(0), None);
    let mut second = event("0:15300-0:0", EventKind::MessageDelivered, Some(1), None);
    for event in [&mut joined, &mut second] {
        event.message = Some("m2".to_owned());
    }
    evidence.events = vec![
        event(
            "0:10000-0:0",
            EventKind::JobScheduled,
            Some(0),
            Some(11_000),
        ),
        event(
            "0:11100-0:0",
            EventKind::MessageAccepted,
            Some(1),
            Some(15_100),
        ),
        joined,
        silence,
        second,
        event("0:15300-0:1", EventKind::JobClosed, Some(1), None),
    ];
    for event in evidence
        .events
        .iter_mut()
        .filter(|event| event.attempt == Some(0))
    {
        event.late_ms = None;
    }
    relist_events(evidence);
    evidence.asked = vec![asked(11_050), asked(15_250)];
    evidence.taken = vec![
        taken(11_060, LIFE),
        Taken {
            message: "m2".to_owned(),
            ..taken(15_260, LIFE)
        },
    ];
}

/// The events of a run whose server's clock was an hour ahead of ours.
pub(super) fn set_the_servers_clock_ahead(e: &mut Evidence) {
    for event in &mut e.events {
        event.at += 3_600_000;
        event.due = event.due.map(|due| due + 3_600_000);
    }
    e.skews.push(Skew {
        at: 0,
        ahead: 3_600_000,
    });
}
