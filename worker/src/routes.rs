//! Routes: which sender a message leaves by.

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

/// How many routes that are not there are told apart.
const MISSED_MAX: usize = 100;

/// One way out.
#[derive(Clone)]
struct Way {
    sender: Arc<dyn Sender>,
    confirm: Duration,
}

/// The senders, by the name of their route.
#[derive(Clone)]
pub struct Routes {
    ways: HashMap<String, Way>,
    default: String,
    /// What signs return paths, where a domain for them is configured.
    verp: Option<Verp>,
    missed: Arc<Mutex<HashSet<String>>>,
}

impl Routes {
    /// No routes yet; messages that name none take the one called `default`.
    pub fn new(default: impl Into<String>) -> Self {
        Self {
            ways: HashMap::new(),
            default: default.into(),
            verp: None,
            missed: Arc::default(),
        }
    }

    /// The routes that the configuration names.
    ///
    /// # Errors
    /// What keeps a sender from being made, with its route.
    pub fn from_config(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let mut routes = Self {
            verp: config.verp.verp(),
            ..Self::new(&config.worker.route)
        };
        let sessions = OpenSessions::new(config.worker.connections_max);
        for route in &config.routes {
            let sender: Arc<dyn Sender> = match &route.sender {
                SenderSettings::Log => Arc::new(LogSender),
                SenderSettings::Smtp(settings) => {
                    Arc::new(SmtpSender::among(settings.clone(), sessions.clone()))
                }
                SenderSettings::Mx(settings) => {
                    Arc::new(MxSender::among(settings.clone(), sessions.clone()))
                }
                SenderSettings::Http(settings) => Arc::new(
                    HttpSender::new((**settings).clone(), clock.clone())
                        .map_err(|why| format!("route.{}: {why}", route.name))?,
                ),
                SenderSettings::Command(settings) => Arc::new(CommandSender::new(settings.clone())),
            };
            routes = routes.with_confirm(&route.name, sender, route.confirm);
        }
        Ok(routes)
    }

    /// These routes and one more.
    #[must_use]
    pub fn with(self, name: &str, sender: Arc<dyn Sender>) -> Self {
        self.with_confirm(name, sender, Duration::ZERO)
    }

    /// These routes and one more, on which a message that was accepted waits so long for a bounce.
    #[must_use]
    pub fn with_confirm(mut self, name: &str, sender: Arc<dyn Sender>, confirm: Duration) -> Self {
        self.ways.insert(name.to_owned(), Way { sender, confirm });
        self
    }

    /// The sender of a route; the default route's where none is named, and `None` where there is no
    /// such route.
    pub fn sender(&self, route: Option<&str>) -> Option<&Arc<dyn Sender>> {
        self.way(route).map(|way| &way.sender)
    }

    /// How long a message that was accepted on a route waits for a bounce.
    pub(crate) fn confirm(&self, route: Option<&str>) -> Duration {
        self.way(route).map_or(Duration::ZERO, |way| way.confirm)
    }

    /// Where reports about a message shall come back to that is sent now: to a signed return path
    /// of its own, where there is a domain for those, and else to its envelope sender.
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

    /// The name of a route; the default one's where none is named.
    pub(crate) fn name<'a>(&'a self, route: Option<&'a str>) -> &'a str {
        route.unwrap_or(&self.default)
    }

    fn way(&self, route: Option<&str>) -> Option<&Way> {
        self.ways.get(self.name(route))
    }

    /// Notes that there is no such route; whether that is news.
    pub(crate) fn is_first_to_miss(&self, route: &str) -> bool {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.len() < MISSED_MAX && missed.insert(route.to_owned())
    }
}
