//! Counts of the requests and events of each hook, since the process started.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use config::hooks::Service;
use serde_json::{Value, json};

use super::received::Received;
use super::request::Denied;

/// How many unknown types are counted by name. Further types are counted together, as `others`.
const TYPES_MAX: usize = 64;

/// How many characters of an unknown type's name are kept.
const TYPE_CHARS: usize = 80;

/// The counts of all services.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<Service, Count>>);

#[derive(Clone, Debug, Default)]
struct Count {
    requests: u64,
    unverified: u64,
    unreadable: u64,
    taken: u64,
    refused: u64,
    warned: u64,
    ignored: u64,
    replayed: u64,
    unknown: BTreeMap<String, u64>,
}

impl Counts {
    pub(super) fn add(&self, service: Service, received: &Received) {
        let count = |is_counted: fn(&Value) -> bool| {
            received
                .answers
                .iter()
                .filter(|answer| is_counted(answer))
                .count() as u64
        };
        let refused = count(|answer| answer["answer"] == "refused");
        let warned = count(|answer| !answer["warnings"].is_null());
        self.change(service, |count| {
            count.requests += 1;
            count.taken += received.answers.len() as u64 - refused;
            count.refused += refused;
            count.warned += warned;
            count.ignored += received.ignored;
            count.replayed += received.replayed;
            for (kind, number) in &received.unknown {
                count.add_unknown(service, kind, *number);
            }
        });
    }

    pub(super) fn deny(&self, service: Service, denied: &Denied) {
        self.change(service, |count| match denied {
            Denied::Unverified(why) => {
                count.unverified += 1;
                // Logs the 1st, 2nd, 4th, 8th … request, so that forged requests do not fill the
                // log.
                if count.unverified.is_power_of_two() {
                    tracing::warn!(
                        service = service.as_str(),
                        why,
                        times = count.unverified,
                        "a webhook request could not be verified"
                    );
                }
            }
            Denied::UnderWay => count.replayed += 1,
            Denied::Unreadable(_) | Denied::Undecided(_) => count.unreadable += 1,
        });
    }

    /// Returns the counts of one service in the form that the API answers with.
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
            warned,
            ignored,
            replayed,
            unknown,
        } = count;
        json!({
            "requests": requests,
            "unverified": unverified,
            "unreadable": unreadable,
            "taken": taken,
            "refused": refused,
            "warned": warned,
            "ignored": ignored,
            "replayed": replayed,
            "unknown": unknown,
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
                "events of an unknown type are counted, and have no other effect"
            );
        }
        *seen += number;
    }
}
