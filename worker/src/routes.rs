//! Routes: which sender a message leaves by.

use std::collections::HashMap;
use std::sync::Arc;

use shared::config::{Config, SenderSettings};

use crate::sender::Sender;
use crate::sender::log::LogSender;
use crate::sender::smtp::SmtpSender;

/// The senders, by the name of their route.
#[derive(Clone)]
pub struct Routes {
    senders: HashMap<String, Arc<dyn Sender>>,
    default: String,
}

impl Routes {
    /// No routes yet; messages that name none take the one called `default`.
    pub fn new(default: impl Into<String>) -> Self {
        Self { senders: HashMap::new(), default: default.into() }
    }

    /// The routes that the configuration names.
    pub fn from_config(config: &Config) -> Self {
        let mut routes = Self::new(&config.worker.route);
        for route in &config.routes {
            let sender: Arc<dyn Sender> = match &route.sender {
                SenderSettings::Log => Arc::new(LogSender),
                SenderSettings::Smtp(settings) => Arc::new(SmtpSender::new(settings.clone())),
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
}
