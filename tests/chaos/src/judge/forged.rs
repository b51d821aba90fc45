//! Tests the verdict with forged evidence: each broken promise must be found, and an observation
//! that a fault explains must not be a violation.

use domain::event::EventKind;
use domain::standing::Standing;

use super::judge;
use crate::fault::Kind;
use crate::options::Shape;
use crate::record::{Asked, Crowd, Event, Evidence, Fault, Held};
use evidence::{
    JOB, LIFE, OTHER, RATED, add, asked, clean, continue_after_giving_up, continue_after_silence,
    ended, event, fault, lose_everything, remove_kind, set_the_servers_clock_ahead, taken,
};

mod evidence;
mod sends;

/// The forgery, and the promises that must then count as broken.
type Case = (&'static str, fn(&mut Evidence), &'static [&'static str]);

const CASES: &[Case] = &[
    ("nothing", |_| {}, &[]),
    (
        "a message that ends twice",
        |e| {
            add(
                e,
                event("0:13400-0:0", EventKind::MessageDropped, None, None),
            );
        },
        &["ends once"],
    ),
    (
        "a message that never ends",
        |e| {
            remove_kind(e, EventKind::MessageDelivered);
            remove_kind(e, EventKind::JobClosed);
        },
        &["ends once"],
    ),
    (
        "a message that is accepted again while it waits",
        |e| {
            add(
                e,
                event("0:10500-0:0", EventKind::MessageJoined, None, None),
            );
        },
        &["ends once"],
    ),
    (
        "a message that is sent once and accepted as a bounce twice",
        |e| {
            add(
                e,
                event("0:14000-0:0", EventKind::JobScheduled, None, Some(15_000)),
            );
            add(
                e,
                event("0:15300-0:0", EventKind::MessageDelivered, Some(1), None),
            );
            add(e, event("0:15300-0:1", EventKind::JobClosed, Some(1), None));
            e.asked.push(asked(15_200));
            e.taken.push(taken(15_210, LIFE));
        },
        &["ends once"],
    ),
    (
        "the same, and its input was repeated",
        |e| {
            add(
                e,
                event("0:14000-0:0", EventKind::JobScheduled, None, Some(15_000)),
            );
            add(
                e,
                event("0:15300-0:0", EventKind::MessageDelivered, Some(1), None),
            );
            add(e, event("0:15300-0:1", EventKind::JobClosed, Some(1), None));
            e.asked.push(asked(15_200));
            e.taken.push(taken(15_210, LIFE));
            e.bounced[0].tries = 2;
        },
        &[],
    ),
    (
        "an acknowledged message without any event",
        lose_everything,
        &["nothing is lost"],
    ),
    (
        "the same over snapshots, in the span whose writes are lost",
        |e| {
            lose_everything(e);
            e.run.shape = Shape::Snapshot;
            e.faults.push(Fault {
                lost_since: Some(9_000),
                ..fault(Kind::ServerKill, 11_000, 11_500, None)
            });
        },
        &[],
    ),
    (
        "the same over Sentinel, for which no fault is an excuse",
        |e| {
            lose_everything(e);
            e.run.shape = Shape::Sentinel;
            e.faults.push(Fault {
                lost_since: Some(9_000),
                ..fault(Kind::ServerKill, 11_000, 11_500, None)
            });
        },
        &["nothing is lost"],
    ),
    (
        "a bounce that is refused",
        |e| e.bounced[0].answer = "refused".to_owned(),
        &["nothing is refused"],
    ),
    (
        "an attempt before its time",
        |e| e.asked.push(asked(12_000)),
        &["never early"],
    ),
    (
        "an attempt at the moment when the previous one is settled",
        |e| e.asked.push(asked(11_100)),
        &[],
    ),
    (
        "an attempt whose outcome was written by a clock that is 9 ms behind",
        |e| e.asked[0].at = 11_109,
        &[],
    ),
    (
        "a second attempt, 9 ms after the outcome of the first",
        |e| e.asked.push(asked(11_109)),
        &["never early"],
    ),
    (
        "an attempt whose outcome was written half a second before",
        |e| e.asked[0].at = 11_600,
        &["never early"],
    ),
    (
        "the same by a worker that was killed while there was no route",
        |e| {
            e.asked.push(asked(12_000));
            e.faults.push(fault(Kind::NoRoute, 5_000, 11_800, None));
            e.faults.push(fault(Kind::Kill, 11_200, 11_210, Some(LIFE)));
        },
        &[],
    ),
    (
        "the same with no route, and the worker was not killed",
        |e| {
            e.asked.push(asked(12_000));
            e.faults.push(fault(Kind::NoRoute, 5_000, 11_800, None));
        },
        &["never early"],
    ),
    (
        "the same by a worker that had just continued after SIGSTOP",
        |e| {
            e.asked.push(asked(12_000));
            e.faults
                .push(fault(Kind::Freeze, 5_000, 11_800, Some(LIFE)));
        },
        &[],
    ),
    (
        "the same, and another worker had just continued",
        |e| {
            e.asked.push(asked(12_000));
            e.faults
                .push(fault(Kind::Freeze, 5_000, 11_800, Some(OTHER)));
        },
        &["never early"],
    ),
    (
        "the same, long after the worker continued",
        |e| {
            e.asked.push(asked(12_000));
            e.faults
                .push(fault(Kind::Freeze, 5_000, 11_400, Some(LIFE)));
        },
        &["never early"],
    ),
    (
        "an attempt before the job was created",
        |e| e.asked.push(asked(9_000)),
        &["never early"],
    ),
    (
        "an attempt long after the job's end",
        |e| e.asked.push(asked(19_000)),
        &["never early"],
    ),
    (
        "an attempt of a job without events",
        |e| {
            e.asked.push(Asked {
                job: RATED.to_owned(),
                ..asked(12_000)
            });
        },
        &["never early"],
    ),
    (
        "a lateness below zero",
        |e| e.events[1].late_ms = Some(-1),
        &["never early"],
    ),
    (
        "a server's clock that was an hour ahead",
        set_the_servers_clock_ahead,
        &[],
    ),
    (
        "a job that continues with a joined message after one was given up",
        continue_after_giving_up,
        &[],
    ),
    (
        "a job that continues with a joined message after no bounce came",
        continue_after_silence,
        &[],
    ),
    (
        "no bounce came, with the number of another attempt than the relay's",
        |e| {
            continue_after_silence(e);
            e.events[3].attempt = Some(2);
        },
        &["exact counters"],
    ),
    (
        "a counter that skips",
        |e| e.events[1].attempt = Some(2),
        &["exact counters"],
    ),
    (
        "a counter that does not increase",
        |e| {
            e.events[2].attempt = Some(1);
            e.events[3].attempt = Some(1);
        },
        &["exact counters"],
    ),
    (
        "a retirement before the last attempt",
        |e| {
            remove_kind(e, EventKind::JobClosed);
            e.events[2].kind = EventKind::MessageDropped;
            e.taken.clear();
            let mut retired = event("0:13300-0:1", EventKind::AddressRetired, Some(2), None);
            retired.standing = Some(Standing::Unavailable);
            add(e, retired);
            e.rest
                .standings
                .push((JOB.to_owned(), Standing::Unavailable));
        },
        &["within the schedule"],
    ),
    (
        "three at a window of two",
        |e| {
            let lives = vec![
                (LIFE.to_owned(), 1),
                (LIFE.to_owned(), 2),
                (OTHER.to_owned(), 3),
            ];
            e.crowds.push(Crowd {
                at: 3,
                of: "n1.narrow.test".to_owned(),
                lives,
            });
        },
        &["windows"],
    ),
    (
        "a job in two leases, by the servers",
        |e| e.rest.leased_twice.push(JOB.to_owned()),
        &["one lease at a time"],
    ),
    (
        "three at a window of two, by the servers",
        |e| e.rest.crowded.push("pace".to_owned()),
        &["windows"],
    ),
    (
        "more than a rate",
        |e| {
            add(
                e,
                Event {
                    job: RATED.to_owned(),
                    ..event("0:9000-0:0", EventKind::JobScheduled, None, Some(9_000))
                },
            );
            e.asked.extend((0..20).map(|n| Asked {
                job: RATED.replace("u1@", &format!("u{n}@")),
                ..asked(10_000 + n)
            }));
        },
        // No event knows the jobs that are forged here.
        &["ends once", "never early", "rates"],
    ),
    (
        "two messages of each job, over two sessions, at a destination with a rate",
        |e| {
            for n in 0..40 {
                let first = Asked {
                    job: RATED.replace("u1@", &format!("u{n}@")),
                    ..asked(10_000 + 250 * n)
                };
                let at = first.at + 5;
                e.asked.push(Asked {
                    at,
                    ..first.clone()
                });
                e.asked.push(first);
            }
        },
        &["never early"],
    ),
    (
        "an attempt while an operator holds the destination",
        |e| {
            e.held.push(Held {
                destination: "n9.plain.test".to_owned(),
                from: 5_000,
                until: 13_500,
            });
        },
        &["holds"],
    ),
    (
        "a standing that no event explains",
        |e| {
            e.rest.standings.push((JOB.to_owned(), Standing::Inactive));
        },
        &["standings"],
    ),
    (
        "a key that is left in Redis",
        |e| e.rest.left.push("rd:{0}:leased".to_owned()),
        &["nothing is left over"],
    ),
    (
        "an event that the stream missed",
        |e| {
            e.rest.followed.remove(1);
        },
        &["events resume"],
    ),
    (
        "the same while a failover lost writes",
        |e| {
            e.rest.followed.remove(1);
            e.run.shape = Shape::Sentinel;
            e.faults.push(Fault {
                lost_since: Some(10_900),
                ..fault(Kind::Failover, 11_000, 11_500, None)
            });
        },
        &[],
    ),
    (
        "an event that came twice",
        |e| {
            let id = e.rest.followed[3].clone();
            e.rest.followed.push(id);
        },
        &["events resume"],
    ),
    (
        "an event about missing events, and then an earlier event of the remaining history",
        |e| {
            e.run.shape = Shape::Sentinel;
            let lost = e.rest.followed[3]
                .rsplit_once(':')
                .expect("the id has a number")
                .0
                .to_owned();
            e.rest.followed.insert(3, format!("{lost}:99"));
            e.rest.followed.insert(4, format!("{lost}:missing"));
        },
        &[],
    ),
    (
        "the same over a server that loses no writes",
        |e| e.rest.followed.push("0:99000-0:missing".to_owned()),
        &["events resume"],
    ),
    (
        "an event that came out of order",
        |e| e.rest.followed.swap(0, 3),
        &["events resume"],
    ),
    (
        "an event that only the servers have",
        |e| {
            e.rest.stored.push("0:20000-0:0".to_owned());
            e.rest.followed.push("0:20000-0:0".to_owned());
        },
        &["events resume"],
    ),
    (
        "a wrong answer",
        |e| e.rest.wrong.push("500".to_owned()),
        &["processes and answers"],
    ),
    (
        "a process that ended by itself",
        |e| e.ended.push(ended(false)),
        &["processes and answers"],
    ),
    (
        "a process that did not end well",
        |e| e.ended.push(ended(true)),
        &["processes and answers"],
    ),
    (
        "the same while its server was away",
        |e| {
            e.ended.push(ended(true));
            e.faults.push(fault(Kind::ServerKill, 11_500, 12_500, None));
        },
        &[],
    ),
    (
        "a job that was in no set",
        |e| {
            let mut recovered = event("0:12000-0:0", EventKind::JobRecovered, None, None);
            recovered.message = None;
            add(e, recovered);
        },
        &["nothing is lost"],
    ),
];

#[test]
fn each_broken_promise_is_found_and_an_observation_that_a_fault_explains_is_no_violation() {
    let mut wrong = Vec::new();
    for (name, forge, expected) in CASES.iter().chain(sends::CASES) {
        let mut evidence = clean();
        forge(&mut evidence);
        let verdict = judge(&evidence);
        let mut found: Vec<&str> = verdict
            .violations
            .iter()
            .map(|(promise, _)| *promise)
            .collect();
        found.sort_unstable();
        found.dedup();
        if found != *expected {
            wrong.push(format!(
                "{name}: expected {expected:?}, found {:?}",
                verdict.violations
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
