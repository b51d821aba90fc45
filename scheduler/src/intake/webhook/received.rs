//! The result of a webhook request: one answer for each event, or the reason why there is none.

use std::collections::BTreeMap;
use std::mem;

use serde_json::{Value, json};
use store::error::StoreError;

use super::request::Denied;

/// The result of a request that was processed.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// One answer per bounce and fact, in order.
    pub answers: Vec<Value>,
    /// The number of events that are of no use here.
    pub ignored: u64,
    /// The number of events of each type that is not known here.
    pub unknown: BTreeMap<String, u64>,
    /// The number of events that had been processed before.
    pub replayed: u64,
}

/// Why a request was not processed.
#[derive(Debug)]
pub enum ReceiveError {
    /// The request is denied.
    Denied(Denied),
    /// The store failed. The request may be sent again.
    Store(StoreError),
}

impl Received {
    /// Returns the result in the form that the API answers with, and takes the answers out of it.
    pub fn to_wire(&mut self) -> Value {
        json!({
            "answers": mem::take(&mut self.answers),
            "ignored": self.ignored,
            "unknown": self.unknown,
            "replayed": self.replayed,
        })
    }

    /// Whether all events are of types that are not known here.
    pub fn is_unknown(&self) -> bool {
        !self.unknown.is_empty() && self.answers.is_empty() && self.ignored + self.replayed == 0
    }
}

impl From<Denied> for ReceiveError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<StoreError> for ReceiveError {
    fn from(err: StoreError) -> Self {
        Self::Store(err)
    }
}
