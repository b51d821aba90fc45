//! The routes: which sender sends a message.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use config::model::Config;
use domain::address::Address;
use domain::clock::{Clock, Timestamp};
use domain::job::{JobId, Message};
use senders::command::CommandSender;
use senders::http::HttpSender;
use senders::log::LogSender;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::route::SenderSettings;
use senders::smtp::{OpenSessions, SmtpSender};
use signing::return_path::Verp;

use crate::route_gates::RouteGates;

/// How many unknown routes are reported and remembered at most.
const MISSING_MAX: usize = 100;

/// The sender of one route, and its settings.
#[derive(Clone)]
struct Entry {
    sender: Arc<dyn Sender>,
    /// What kind of sender it is, for traces and metrics.
    kind: &'static str,
    confirm: Duration,
}

/// The senders by the names of their routes.
#[derive(Clone)]
pub struct Routes {
    entries: HashMap<String, Entry>,
    default: String,
    /// Signs return paths, if a domain for them is configured.
    verp: Option<Verp>,
    /// The unknown routes that were reported.
    missing: Arc<Mutex<HashSet<String>>>,
}

impl Routes {
    /// Returns an empty set of routes. Messages that name no route use the route that `default`
    /// names.
    pub fn new(default: impl Into<String>) -> Self {
        Self {
            entries: HashMap::new(),
            default: default.into(),
            verp: None,
            missing: Arc::default(),
        }
    }

    /// Returns the configured routes.
    ///
    /// # Errors
    /// If a sender cannot be created. The text names its route and the reason.
    pub fn from_config(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let mut routes = Self {
            verp: config.verp.verp(),
            ..Self::new(&config.worker.route)
        };
        let sessions = OpenSessions::new(config.worker.connections_max);
        for route in &config.routes {
            let (kind, sender): (_, Arc<dyn Sender>) = match &route.sender {
                SenderSettings::Log => ("log", Arc::new(LogSender)),
                SenderSettings::Smtp(settings) => (
                    "smtp",
                    Arc::new(SmtpSender::with_shared_limit(
                        settings.clone(),
                        sessions.clone(),
                    )),
                ),
                SenderSettings::Mx(settings) => (
                    "mx",
                    Arc::new(MxSender::with_shared_limit(
                        settings.clone(),
                        sessions.clone(),
                    )),
                ),
                SenderSettings::Http(settings) => (
                    "http",
                    Arc::new(
                        HttpSender::new((**settings).clone(), clock.clone())
                            .map_err(|why| format!("route.{}: {why}", route.name))?,
                    ),
                ),
                SenderSettings::Command(settings) => {
                    ("command", Arc::new(CommandSender::new(settings.clone())))
                }
            };
            let confirm = route.confirm;
            let entry = Entry {
                sender,
                kind,
                confirm,
            };
            routes.entries.insert(route.name.clone(), entry);
        }
        Ok(routes)
    }

    /// Whether all mail goes to servers of our own, such as relays. Then no mail host can keep an
    /// attempt waiting.
    pub(crate) fn go_to_own_servers(&self) -> bool {
        let mut entries = self.entries.values();
        !self.entries.is_empty() && entries.all(|entry| entry.sender.has_one_peer())
    }

    /// Adds a route, or replaces the one with this name.
    #[must_use]
    pub fn with(self, name: &str, sender: Arc<dyn Sender>) -> Self {
        self.with_confirm(name, sender, Duration::ZERO)
    }

    /// Adds a route on which an accepted message waits this long for a bounce.
    #[must_use]
    pub fn with_confirm(mut self, name: &str, sender: Arc<dyn Sender>, confirm: Duration) -> Self {
        let entry = Entry {
            sender,
            kind: "custom",
            confirm,
        };
        self.entries.insert(name.to_owned(), entry);
        self
    }

    /// Returns the sender of a route, or of the default route if none is named. Returns `None` if
    /// the route does not exist.
    pub fn sender(&self, route: Option<&str>) -> Option<&Arc<dyn Sender>> {
        self.entry(route).map(|entry| &entry.sender)
    }

    /// Returns the gates of the routes whose mail all goes to one peer.
    pub(crate) fn gates(&self) -> RouteGates {
        let gates = RouteGates::default();
        for (route, Entry { sender, .. }) in &self.entries {
            if sender.has_one_peer() {
                gates.add(route, sender.clone());
            }
        }
        gates
    }

    /// Returns the kind of a route's sender, as `sender` in the configuration has it. A sender that
    /// a program has added is `custom`.
    pub(crate) fn kind(&self, route: Option<&str>) -> &'static str {
        self.entry(route).map_or("none", |entry| entry.kind)
    }

    /// Returns how long a message that was accepted on a route waits for a bounce.
    pub(crate) fn confirm(&self, route: Option<&str>) -> Duration {
        self.entry(route)
            .map_or(Duration::ZERO, |entry| entry.confirm)
    }

    /// Returns the address to which reports about this message are sent, if it is sent now. If a
    /// domain for return paths is configured, it is a signed return path for this message only.
    /// Otherwise it is the message's envelope sender.
    pub(crate) fn return_path(
        &self,
        job: &JobId,
        message: &Message,
        now: Timestamp,
    ) -> Option<Address> {
        let signed = self
            .verp
            .as_ref()
            .and_then(|verp| verp.encode(job, &message.id, now));
        signed.or_else(|| message.envelope_from.clone())
    }

    /// Returns the route's name, or the default route's name if none is given.
    pub(crate) fn name<'a>(&'a self, route: Option<&'a str>) -> &'a str {
        route.unwrap_or(&self.default)
    }

    fn entry(&self, route: Option<&str>) -> Option<&Entry> {
        self.entries.get(self.name(route))
    }

    /// Records that a route does not exist. Returns true if this is to be reported, because it was
    /// not recorded before and not too many are.
    pub(crate) fn is_first_report_of_missing(&self, route: &str) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.len() < MISSING_MAX && missing.insert(route.to_owned())
    }
}
