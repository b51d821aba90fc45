//! The inputs and faults of a run and their order. All of them are drawn from the seed before the
//! run begins.

use std::time::Duration;

use harness::random::Random;

use crate::fault::Kind;
use crate::options::Options;
use crate::record::Way;

/// The account that all mail of a run belongs to.
pub(crate) const ACCOUNT: &str = "chaos";

/// How many attempts may be in flight at once at each destination in `*.narrow.test`.
pub(crate) const NARROW: usize = 2;

/// For each destination in `*.rated.test`: attempts per second, how many attempts can be saved up,
/// and how many may be in flight.
pub(crate) const RATED: (usize, usize, usize) = (4, 4, 4);

/// Replies of a first attempt that failed temporarily.
const SOFT: [(usize, &str); 5] = [
    (4, "451 4.2.1 mailbox disabled for now"),
    (4, "452 4.3.1 mail system full"),
    (3, "451 4.3.2 not accepting network messages"),
    (3, "452 4.2.2 mailbox full"),
    (1, "450 4.7.1 greylisted"),
];

/// The reply of an attempt that failed permanently.
pub(crate) const UNKNOWN_USER: &str = "550 5.1.1 user unknown";

/// The ways in which bounces come in, with their weights.
const WAYS: [(usize, Way); 6] = [
    (20, Way::Object),
    (15, Way::Array),
    (40, Way::Lines),
    (6, Way::Hook),
    (4, Way::Report),
    (15, Way::Stream),
];

/// The routes, with their names in the configuration.
pub(crate) const ROUTES: [&str; 4] = ["relay", "direct", "confirmed", "secure"];

/// One bounce.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bounce {
    pub(crate) message: String,
    pub(crate) recipient: String,
    pub(crate) reply: &'static str,
    pub(crate) route: &'static str,
}

impl Bounce {
    /// The id of the job that the bounce starts or joins.
    pub(crate) fn job(&self) -> String {
        job_of(&self.recipient)
    }

    /// Whether its reply retires the address at once.
    pub(crate) fn is_permanent(&self) -> bool {
        self.reply == UNKNOWN_USER
    }
}

/// The id of the job of an address.
pub(crate) fn job_of(recipient: &str) -> String {
    format!("{ACCOUNT}/{recipient}")
}

/// The content of one input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// Bounces, sent together if the way allows that.
    Bounces(Way, Vec<Bounce>),
    /// A fact about an address, and the message that it names.
    Fact(&'static str, String, Option<String>),
    /// An operator holds a destination, and releases it after this time.
    Hold(String, Duration),
}

/// An input, its time, and the scheduler that gets it first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) at: Duration,
    pub(crate) scheduler: usize,
    pub(crate) what: What,
}

/// A fault, and the time between it and the previous one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NextFault {
    pub(crate) after: Duration,
    pub(crate) kind: Kind,
    pub(crate) lasts: Duration,
    /// The number of the process, server, peer or slot. It is taken modulo their count.
    pub(crate) target: usize,
}

/// Everything that a seed decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) inputs: Vec<Input>,
    pub(crate) faults: Vec<NextFault>,
}

impl Plan {
    /// Draws everything that this seed decides.
    pub(crate) fn draw(seed: u64, options: &Options) -> Self {
        let span = Duration::from_secs_f64(options.minutes * 60.0);
        Self {
            inputs: draw_inputs(seed, span, options),
            faults: draw_faults(seed, span, options),
        }
    }

    /// How many bounces are sent.
    pub(crate) fn bounces(&self) -> usize {
        let count = |input: &Input| {
            if let What::Bounces(_, bounces) = &input.what {
                bounces.len()
            } else {
                0
            }
        };
        self.inputs.iter().map(count).sum()
    }
}

/// The domain of the recipient decides the route, so that each destination has one route.
fn draw_recipient(random: &mut Random, users: usize) -> (String, &'static str) {
    let number = random.below(24);
    let domain = match number {
        0..=3 => format!("n{number}.narrow.test"),
        4..=5 => format!("n{number}.rated.test"),
        _ => format!("n{number}.plain.test"),
    };
    (
        format!("u{}@{domain}", random.below(users)),
        ROUTES[number % ROUTES.len()],
    )
}

fn draw_bounces(
    random: &mut Random,
    count: usize,
    users: usize,
    next: &mut usize,
    seed: u64,
) -> Vec<Bounce> {
    let draw = |_| {
        *next += 1;
        let (recipient, route) = draw_recipient(random, users);
        let reply = if random.below(50) == 0 {
            UNKNOWN_USER
        } else {
            random.weighted(&SOFT)
        };
        Bounce {
            message: format!("<{next}.{seed}@chaos.test>"),
            recipient,
            reply,
            route,
        }
    };
    (0..count).map(draw).collect()
}

fn draw_inputs(seed: u64, span: Duration, options: &Options) -> Vec<Input> {
    let mut random = Random::from_seed(seed);
    let total = (span.as_secs_f64() * f64::from(options.rate)) as usize;
    // A third of the messages join a job, or go to an address that had one.
    let users = (total / 24 * 2 / 3).max(2);
    let (mut inputs, mut sent, mut next) = (Vec::new(), Vec::<Bounce>::new(), 0);
    while sent.len() < total {
        let at = span.mul_f64(sent.len() as f64 / total as f64);
        let scheduler = random.below(options.schedulers);
        let way = random.weighted(&WAYS);
        let count = match way {
            Way::Object | Way::Report => 1,
            Way::Hook => 2,
            Way::Array | Way::Stream => 3 + random.below(8),
            Way::Lines => 5 + random.below(20),
        };
        let bounces = draw_bounces(&mut random, count, users, &mut next, seed);
        sent.extend(bounces.iter().cloned());
        inputs.push(Input {
            at,
            scheduler,
            what: What::Bounces(way, bounces),
        });
        if random.below(4) == 0 {
            inputs.push(Input {
                at,
                scheduler,
                what: draw_fact(&mut random, &sent),
            });
        }
        if random.below(60) == 0 {
            let domain = draw_recipient(&mut random, users)
                .0
                .split_once('@')
                .map_or_else(String::new, |of| of.1.to_owned());
            inputs.push(Input {
                at,
                scheduler,
                what: What::Hold(domain, Duration::from_secs(8)),
            });
        }
    }
    inputs
}

fn draw_fact(random: &mut Random, sent: &[Bounce]) -> What {
    let fact = random.weighted(&[
        (5, "delivered"),
        (5, "engaged"),
        (2, "complaint"),
        (1, "unsubscribe"),
    ]);
    // One of the last hundred bounces, so that many facts are about a job that still waits.
    let recent = &sent[sent.len().saturating_sub(100)..];
    let bounce = &recent[random.below(recent.len())];
    let names_message = fact == "delivered" || (fact == "engaged" && random.below(2) == 0);
    What::Fact(
        fact,
        bounce.recipient.clone(),
        names_message.then(|| bounce.message.clone()),
    )
}

fn draw_faults(seed: u64, span: Duration, options: &Options) -> Vec<NextFault> {
    // The faults have their own random numbers, so that another rate of bounces does not change
    // them.
    let mut random = Random::from_seed(seed ^ 0x6661_756c_7473);
    let mut kinds = Kind::of(options.shape);
    kinds.retain(|(_, kind)| !(options.quick && kind.is_own_trouble()));
    let count = (span.as_secs_f64() * f64::from(options.faults) / 60.0) as usize;
    let draw = |_| {
        let kind = random.weighted(&kinds);
        let thousandths = 500 + random.below(1_000) as u32;
        NextFault {
            after: span / count.max(1) as u32 * thousandths / 1_000,
            kind,
            lasts: Duration::from_millis(random.of(kind.spans_ms(options.shape)).unsigned_abs()),
            target: random.below(1 << 16),
        }
    };
    (0..count).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use domain::address::Address;

    use super::*;
    use crate::options::Shape;

    fn options(shape: &str) -> Options {
        Options::parse_from(["chaos", "--shape", shape, "--minutes", "4"])
    }

    #[test]
    fn a_seed_decides_inputs_and_faults() {
        for shape in ["single", "snapshot", "sentinel", "cluster"] {
            let plan = Plan::draw(7, &options(shape));
            assert_eq!(plan, Plan::draw(7, &options(shape)), "{shape}");
            assert_ne!(plan, Plan::draw(8, &options(shape)), "{shape}");
        }
    }

    #[test]
    fn a_long_run_has_every_way_in_and_every_fact_and_every_fault_of_its_shape() {
        for (name, shape) in [
            ("single", Shape::Single),
            ("cluster", Shape::Cluster),
            ("sentinel", Shape::Sentinel),
        ] {
            let options = Options {
                minutes: 20.0,
                ..options(name)
            };
            let plan = Plan::draw(1, &options);
            for (_, kind) in Kind::of(shape) {
                assert!(
                    plan.faults.iter().any(|fault| fault.kind == kind),
                    "{name} has {}",
                    kind.name()
                );
            }
            for (_, way) in WAYS {
                let of_way =
                    |input: &Input| matches!(&input.what, What::Bounces(by, _) if *by == way);
                assert!(plan.inputs.iter().any(of_way), "{name} has {way:?}");
            }
            for fact in ["delivered", "engaged", "complaint", "unsubscribe"] {
                let is_fact =
                    |input: &Input| matches!(&input.what, What::Fact(kind, ..) if *kind == fact);
                assert!(plan.inputs.iter().any(is_fact), "{name} has {fact}");
            }
            assert!(
                plan.inputs
                    .iter()
                    .any(|input| matches!(input.what, What::Hold(..))),
                "{name} has holds"
            );
            assert!(
                plan.bounces() >= 20 * 60 * 30,
                "{name} has as many bounces as its rate requires"
            );
        }
    }

    #[test]
    fn every_recipient_is_an_address() {
        let plan = Plan::draw(3, &options("single"));
        for input in plan.inputs {
            let What::Bounces(_, bounces) = input.what else {
                continue;
            };
            for bounce in bounces {
                assert!(
                    Address::parse(&bounce.recipient).is_ok(),
                    "{}",
                    bounce.recipient
                );
            }
        }
    }
}
