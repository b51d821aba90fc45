//! A custom sender. It needs two of Redeliver's crates: `senders` for the trait and `domain` for
//! the outcome.

use async_trait::async_trait;
use domain::outcome::Outcome;
use domain::reply::Reply;
use senders::attempt::Attempt;
use senders::sender::Sender;

/// Prints each message to standard output. It passes the conformance suite. A sender of your own
/// should pass it too.
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
