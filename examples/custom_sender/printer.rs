//! A sender of your own. It needs two crates: `senders` for the trait, `domain` for the outcome.

use async_trait::async_trait;
use domain::outcome::Outcome;
use domain::reply::Reply;
use senders::attempt::Attempt;
use senders::sender::Sender;

/// Prints each message to standard output. The conformance suite is run over it, as it should be
/// run over yours.
pub(crate) struct Printer;

#[async_trait]
impl Sender for Printer {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        match &attempt.content {
            Some(content) => println!("{}", String::from_utf8_lossy(content)),
            None => return Outcome::Unreadable("nothing to print".to_owned()),
        }
        Outcome::Delivered(Reply::parse("250 2.0.0 printed"))
    }
}
