//! Decides how the peers treat each try of a recipient. The result depends only on the seed, the
//! recipient and the number of the try.

use harness::random::Random;

/// After this many tries of a recipient every message is accepted, so that a run ends.
const TROUBLE_TRIES: u32 = 6;

/// The moment of a transaction at which the act happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Instead of the answer to RCPT.
    Recipient,
    /// Instead of the answer to the content.
    Content,
}

/// How a peer treats one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Accepts the message.
    Take,
    /// Accepts the message, and answers late.
    TakeSlowly,
    /// Accepts the message, and closes the connection instead of answering.
    TakeAndClose,
    /// Accepts the message, after an answer to RCPT that comes byte by byte.
    Drip,
    /// Sends this answer.
    Say(Phase, &'static str),
    /// Does not answer any more.
    Hang(Phase),
    /// Resets the connection.
    Reset(Phase),
}

const ACTS: [(usize, Act); 17] = [
    (44, Act::Take),
    (3, Act::TakeSlowly),
    (2, Act::TakeAndClose),
    (1, Act::Drip),
    (
        9,
        Act::Say(Phase::Recipient, "451 4.2.1 mailbox disabled for now"),
    ),
    (8, Act::Say(Phase::Recipient, "452 4.3.1 mail system full")),
    (
        5,
        Act::Say(Phase::Recipient, "451 4.3.2 not accepting network messages"),
    ),
    (6, Act::Say(Phase::Recipient, "452 4.2.2 mailbox full")),
    (3, Act::Say(Phase::Recipient, "450 4.7.1 greylisted")),
    (2, Act::Say(Phase::Recipient, "550 5.1.1 user unknown")),
    (2, Act::Say(Phase::Recipient, "421 4.3.2 closing")),
    (4, Act::Say(Phase::Content, "451 4.3.1 mail system full")),
    (3, Act::Say(Phase::Content, "554 5.6.0 message refused")),
    (2, Act::Hang(Phase::Recipient)),
    (1, Act::Hang(Phase::Content)),
    (2, Act::Reset(Phase::Recipient)),
    (1, Act::Reset(Phase::Content)),
];

/// The act for the `number`-th try of a recipient, counted from 1. A relay has a problem at most in
/// the first `trouble_tries` tries, because each of these makes the job wait for a minute.
pub(crate) fn act(seed: u64, recipient: &str, number: u32, trouble_tries: u32) -> Act {
    if number > TROUBLE_TRIES {
        return Act::Take;
    }
    let act = draw(seed, recipient, u64::from(number)).weighted(&ACTS);
    let is_trouble = match act {
        Act::Hang(_) | Act::Reset(_) => true,
        Act::Say(_, reply) => reply.starts_with("421"),
        _ => false,
    };
    if is_trouble && number > trouble_tries {
        return Act::Take;
    }
    // At destinations whose window or rate is checked, both sides must know when a transaction has
    // ended.
    let is_counted = recipient.ends_with(".narrow.test") || recipient.ends_with(".rated.test");
    match act {
        Act::Hang(_) | Act::Reset(_) | Act::TakeAndClose if is_counted => Act::Take,
        act => act,
    }
}

/// The report that a relay sends later about a message that it accepted for the `number`-th time.
/// `None` if the relay delivers the message.
pub(crate) fn report(seed: u64, message: &str, number: u32) -> Option<&'static str> {
    if number > 2 {
        return None;
    }
    draw(seed, message, u64::from(number)).weighted(&[
        (60, None),
        (15, Some("452 4.2.2 mailbox full")),
        (15, Some("452 4.3.1 mail system full")),
        (5, Some("550 5.1.1 user unknown")),
        (5, Some("554 5.6.0 message refused")),
    ])
}

fn draw(seed: u64, name: &str, number: u64) -> Random {
    // FNV-1a gives the same number for the same name in every run.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Random::from_seed(seed ^ hash.wrapping_add(number.wrapping_mul(0x9e37_79b9)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_act_occurs_and_depends_only_on_seed_and_recipient_and_number() {
        let all = |seed| {
            (0..3_000)
                .map(|n| act(seed, &format!("u{n}@d.test"), 1, 1))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let seen: HashSet<String> = all(1).iter().map(|act| format!("{act:?}")).collect();
        assert_eq!(seen.len(), ACTS.len());
    }

    #[test]
    fn every_recipient_is_accepted_in_the_end() {
        for n in 0..1_000 {
            let recipient = format!("u{n}@d.test");
            assert_eq!(
                act(1, &recipient, TROUBLE_TRIES + 1, TROUBLE_TRIES),
                Act::Take
            );
            assert_eq!(report(1, &recipient, 3), None);
        }
    }
}
