//! Fits the number of attempts at once to the routes, unless the configuration sets it.

use senders::settings::route::{Route, SenderSettings};

use crate::model::Worker;

/// The attempts at once for a route that is not bounded by connections to a single server.
const ATTEMPTS_PER_ROUTE: usize = 64;

/// The most attempts at once that the routes lead to.
const ATTEMPTS_MAX: usize = 100_000;

impl Worker {
    /// Sets `concurrency` if it is 0, to as many attempts as the routes can send at once. A relay
    /// takes one message per connection: more attempts would only wait for each other, while they
    /// keep their jobs from other workers.
    pub(crate) fn fit_concurrency(&mut self, routes: &[Route]) {
        if self.concurrency > 0 {
            return;
        }
        let attempts = |route: &Route| match &route.sender {
            SenderSettings::Smtp(smtp) => smtp.session.connections,
            SenderSettings::Log
            | SenderSettings::Mx(_)
            | SenderSettings::Http(_)
            | SenderSettings::Command(_) => ATTEMPTS_PER_ROUTE,
        };
        let all = routes.iter().map(attempts).fold(0, usize::saturating_add);
        self.concurrency = all.clamp(1, ATTEMPTS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use crate::load::DEFAULT;
    use crate::model::Config;

    #[test]
    fn by_default_a_worker_makes_as_many_attempts_at_once_as_its_routes_can_send() {
        let relay = "[[route]]\nname = \"relay\"\nsender = \"smtp\"\nhost = \"mx\"\n";
        let direct = "[[route]]\nname = \"direct\"\nsender = \"mx\"\n";
        let only_relay = format!("worker.route = \"relay\"\n{relay}");
        for (file, attempts) in [
            (String::new(), 64),
            (only_relay.clone(), 16),
            (format!("{only_relay}connections = 40"), 40),
            (format!("{only_relay}{direct}"), 16 + 64),
            (format!("worker.concurrency = 100\n{only_relay}"), 100),
        ] {
            let layers = [("default.toml", DEFAULT), ("mine.toml", file.as_str())];
            let config = Config::from_layers(&layers, &[]).unwrap();
            assert_eq!(config.worker.concurrency, attempts, "{file}");
        }
    }

    #[test]
    fn a_destination_with_one_host_has_a_connection_for_each_attempt_of_its_window() {
        let config = Config::embedded();
        let session = senders::settings::mx::MxSettings::default().session;
        assert_eq!(
            session.connections,
            usize::try_from(config.pace.window).unwrap()
        );
    }
}
