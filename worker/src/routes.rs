//! Routes: which sender a message leaves by.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use shared::config::{Config, SenderSettings};

use crate::sender::Sender;
use crate::sender::log::LogSender;
use crate::sender::mx::MxSender;
use crate::sender::smtp::SmtpSender;

/// How many routes that are not there are told apart.
const MISSED_MAX: usize = 100;

/// The senders, by the name of their route.
#[derive(Clone)]
pub struct Routes {
    senders: HashMap<String, Arc<dyn Sender>>,
    default: String,
    missed: Arc<Mutex<HashSet<String>>>,
}

impl Routes {
    /// No routes yet; messages that name none take the one called `default`.
    pub fn new(default: impl Into<String>) -> Self {
        Self { senders: HashMap::new(), default: default.into(), missed: Arc::default() }
    }

    /// The routes that the configuration names.
    pub fn from_config(config: &Config) -> Self {
        let mut routes = Self::new(&config.worker.route);
        for route in &config.routes {
            let sender: Arc<dyn Sender> = match &route.sender {
                SenderSettings::Log => Arc::new(LogSender),
                SenderSettings::Smtp(settings) => Arc::new(SmtpSender::new(settings.clone())),
                SenderSettings::Mx(settings) => Arc::new(MxSender::new(settings.clone())),
            };
            routes = routes.with(&route.name, sender);
        }
        routes
    }

    /// These routes and one more.
    #[must_use]
    pub fn with(mut self, name: &str, sender: Arc<dyn Sender>) -> Self {
        self.senders.insert(name.to_owned(), sender);
        self
    }

    /// The sender of a route; the default route's where none is named, and `None` where there is no such route.
    pub fn sender(&self, route: Option<&str>) -> Option<&Arc<dyn Sender>> {
        self.senders.get(route.unwrap_or(&self.default))
    }

    /// Notes that there is no such route; whether that is news.
    pub(crate) fn is_first_to_miss(&self, route: &str) -> bool {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.len() < MISSED_MAX && missed.insert(route.to_owned())
    }
}
