//! What peers accepted, compared with the journal: the cases of `judge/sends.rs`.

use domain::event::EventKind;
use domain::standing::Standing;

use super::Case;
use super::evidence::{
    JOB, LIFE, OTHER, OTHER_JOB, add, event, fault, relist_events, reported, retire_after_a_report,
    set_the_servers_clock_ahead, taken,
};
use crate::fault::Kind;
use crate::judge::place;
use crate::options::Shape;
use crate::record::{Crowd, Fault, Refuted};

pub(super) const CASES: &[Case] = &[
    (
        "a message that is accepted twice",
        |e| e.taken.push(taken(13_250, OTHER)),
        &["accepted once"],
    ),
    (
        "the same, and the first one was killed",
        |e| {
            e.taken.push(taken(17_250, OTHER));
            e.faults.push(fault(Kind::Kill, 13_215, 13_300, Some(LIFE)));
        },
        &[],
    ),
    (
        "the same, and only the second one was killed",
        |e| {
            e.taken.push(taken(17_250, OTHER));
            e.faults
                .push(fault(Kind::Kill, 17_260, 17_300, Some(OTHER)));
        },
        &["accepted once"],
    ),
    (
        "the same, and the second one had been suspended",
        |e| {
            e.taken.push(taken(17_250, OTHER));
            e.faults
                .push(fault(Kind::Freeze, 10_000, 17_100, Some(OTHER)));
        },
        &[],
    ),
    (
        "the same, and the server was suspended too briefly for a lease to end",
        |e| {
            e.taken.push(taken(17_250, OTHER));
            e.faults
                .push(fault(Kind::ServerFreeze, 13_000, 14_000, None));
        },
        &["accepted once"],
    ),
    (
        "the same, and another server took over in that time",
        |e| {
            e.taken.push(taken(17_250, OTHER));
            e.run.shape = Shape::Sentinel;
            e.faults.push(Fault {
                lost_since: Some(12_000),
                ..fault(Kind::ServerFreeze, 13_000, 14_000, None)
            });
        },
        &[],
    ),
    (
        "the same while memory was short, which is no excuse",
        |e| {
            e.taken.push(taken(17_250, OTHER));
            e.faults.push(fault(Kind::Full, 13_000, 16_000, None));
        },
        &["accepted once"],
    ),
    (
        "the same, and the first one got no answer",
        |e| {
            e.taken[0].answered = false;
            e.taken.push(taken(17_250, OTHER));
        },
        &[],
    ),
    (
        "the same after a report",
        |e| {
            e.taken.push(taken(17_250, OTHER));
            let reply = String::new();
            e.refuted.push(Refuted {
                from: 13_900,
                at: 14_000,
                message: "m1".to_owned(),
                reply,
            });
        },
        &[],
    ),
    (
        "the same after a report that was answered late",
        |e| {
            e.taken.push(taken(17_250, OTHER));
            let reply = String::new();
            e.refuted.push(Refuted {
                from: 13_900,
                at: 24_000,
                message: "m1".to_owned(),
                reply,
            });
        },
        &[],
    ),
    (
        "a delivery that no peer recorded",
        |e| e.taken.clear(),
        &["delivered is accepted"],
    ),
    (
        "a message that was accepted and then dropped",
        |e| {
            e.events[2].kind = EventKind::MessageDropped;
        },
        &["accepted is delivered"],
    ),
    (
        "a report that ends two messages which a relay had accepted",
        retire_after_a_report,
        &[],
    ),
    (
        "the same without the report",
        |e| {
            retire_after_a_report(e);
            e.refuted.clear();
        },
        &["accepted is delivered"],
    ),
    (
        "a report that ends a message, and another message of its job that is given up",
        |e| {
            retire_after_a_report(e);
            e.events[6].reason = Some("given_up".to_owned());
            e.events[6].id = "0:11500-0:0".to_owned();
            e.events.sort_by_key(|event| place(&event.id));
            relist_events(e);
        },
        &["accepted is delivered"],
    ),
    (
        "a report that ends a message, and a message of another job in the same entry",
        |e| {
            retire_after_a_report(e);
            for event in &mut e.events {
                if event.message.as_deref() == Some("m2") {
                    event.job = OTHER_JOB.to_owned();
                }
            }
            e.taken[1].job = OTHER_JOB.to_owned();
        },
        &["accepted is delivered"],
    ),
    (
        "two attempts of a job at once",
        |e| {
            let lives = vec![(LIFE.to_owned(), 13_000), (OTHER.to_owned(), 13_200)];
            e.crowds.push(Crowd {
                at: 13_200,
                of: JOB.to_owned(),
                lives,
            });
        },
        &["one lease at a time"],
    ),
    (
        "the same, and the first one was suspended",
        |e| {
            let lives = vec![(LIFE.to_owned(), 13_000), (OTHER.to_owned(), 18_200)];
            e.crowds.push(Crowd {
                at: 18_200,
                of: JOB.to_owned(),
                lives,
            });
            e.faults
                .push(fault(Kind::Freeze, 13_100, 19_200, Some(LIFE)));
        },
        &[],
    ),
    (
        "the same, and a fact ended the job of the first one",
        |e| {
            let lives = vec![(LIFE.to_owned(), 13_000), (OTHER.to_owned(), 13_800)];
            e.crowds.push(Crowd {
                at: 13_800,
                of: JOB.to_owned(),
                lives,
            });
            let closed = e
                .events
                .iter_mut()
                .find(|event| event.kind == EventKind::JobClosed);
            closed.unwrap().attempt = None;
            set_the_servers_clock_ahead(e);
        },
        &[],
    ),
    (
        "mail after a complaint",
        |e| {
            e.facts.push(reported("suppressed", "complaint", 12_000));
            let mut suppressed = event("0:13400-0:0", EventKind::AddressSuppressed, None, None);
            (suppressed.message, suppressed.standing) = (None, Some(Standing::Suppressed));
            add(e, suppressed);
            e.rest
                .standings
                .push((JOB.to_owned(), Standing::Suppressed));
        },
        &["no mail after a complaint"],
    ),
];
