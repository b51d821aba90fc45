//! What came in by each hook since the process started.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use config::hooks::Service;
use serde_json::{Value, json};

use super::{Denied, Received};

/// How many unknown types are counted by name; of further ones only that there are some.
const TYPES_MAX: usize = 64;

/// How much of an unknown type's name is kept, in characters.
const TYPE_CHARS: usize = 80;

/// Counts of all services.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<Service, Count>>);

#[derive(Clone, Debug, Default)]
struct Count {
    requests: u64,
    unverified: u64,
    unreadable: u64,
    taken: u64,
    refused: u64,
    ignored: u64,
    replayed: u64,
    unknown: BTreeMap<String, u64>,
}

impl Counts {
    pub(super) fn add(&self, service: Service, received: &Received) {
        let refused = received
            .answers
            .iter()
            .filter(|answer| answer["answer"] == "refused")
            .count() as u64;
        self.change(service, |count| {
            count.requests += 1;
            count.taken += received.answers.len() as u64 - refused;
            count.refused += refused;
            count.ignored += received.ignored;
            count.replayed += received.replayed;
            for (kind, number) in &received.unknown {
                count.add_unknown(service, kind, *number);
            }
        });
    }

    pub(super) fn deny(&self, service: Service, denied: &Denied) {
        self.change(service, |count| match denied {
            Denied::Unproven(why) => {
                count.unverified += 1;
                // The first, and then ever more seldom: whoever forges requests shall not fill the
                // log.
                if count.unverified.is_power_of_two() {
                    tracing::warn!(
                        service = service.as_str(),
                        why,
                        times = count.unverified,
                        "an unverified webhook"
                    );
                }
            }
            Denied::UnderWay => count.replayed += 1,
            Denied::Unreadable(_) | Denied::Undecided(_) => count.unreadable += 1,
        });
    }

    /// The counts of one service, as the API gives them.
    pub fn to_wire(&self, service: Service) -> Value {
        let count = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&service)
            .cloned()
            .unwrap_or_default();
        let Count {
            requests,
            unverified,
            unreadable,
            taken,
            refused,
            ignored,
            replayed,
            unknown,
        } = count;
        json!({
            "requests": requests, "unverified": unverified, "unreadable": unreadable, "taken": taken,
            "refused": refused, "ignored": ignored, "replayed": replayed, "unknown": unknown,
        })
    }

    fn change(&self, service: Service, change: impl FnOnce(&mut Count)) {
        change(
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(service)
                .or_default(),
        );
    }
}

impl Count {
    fn add_unknown(&mut self, service: Service, kind: &str, number: u64) {
        let mut name: String = kind
            .chars()
            .filter(|c| !c.is_control())
            .take(TYPE_CHARS)
            .collect();
        if self.unknown.len() >= TYPES_MAX && !self.unknown.contains_key(&name) {
            name = "others".to_owned();
        }
        let seen = self.unknown.entry(name.clone()).or_default();
        if *seen == 0 {
            tracing::warn!(
                service = service.as_str(),
                kind = name,
                "events of a type that is not known are counted only"
            );
        }
        *seen += number;
    }
}
