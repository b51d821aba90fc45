//! Which routes cannot send a message without its content. A bounce without content on such a route
//! gets a warning: its message will be dropped when it is tried.

use std::collections::BTreeSet;
use std::sync::Arc;

use config::model::Config;
use domain::bounce::Warning;
use domain::job::Message;
use store::schedule::Answer;

/// The routes that need content. By default there are none.
#[derive(Clone, Debug, Default)]
pub struct ContentNeeds(Arc<Needs>);

#[derive(Debug, Default)]
struct Needs {
    routes: BTreeSet<String>,
    /// The route of messages that name none.
    default_route: String,
}

impl ContentNeeds {
    /// Reads which of the configured routes need content.
    pub fn from_config(config: &Config) -> Self {
        let routes = config.routes.iter();
        let routes = routes.filter(|route| route.sender.needs_content());
        Self(Arc::new(Needs {
            routes: routes.map(|route| route.name.clone()).collect(),
            default_route: config.worker.route.clone(),
        }))
    }

    /// Returns the warning for a message that waits now, if it has no content and its route needs
    /// some.
    pub(super) fn warning(&self, message: &Message, answer: &Answer) -> Option<Warning> {
        let waits = matches!(answer, Answer::Scheduled { .. } | Answer::Joined { .. });
        let route = message.route.as_deref().unwrap_or(&self.0.default_route);
        let is_missing = waits && message.content.is_none() && self.0.routes.contains(route);
        is_missing.then(|| Warning {
            field: "content".to_owned(),
            reason: format!(
                "is missing: the route {route} sends no message without its content, so this one \
                 will be dropped"
            ),
        })
    }
}
