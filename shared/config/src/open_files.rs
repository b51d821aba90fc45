//! Fits the number of open files into the limit of the process. A worker does less at once instead
//! of running out of files.

use senders::settings::route::SenderSettings;

use crate::model::Config;

/// Files that are always open: logs, listeners, timers, and some to spare.
const RESERVED: usize = 32;

/// The sockets that one lookup needs.
const LOOKUP_SOCKETS: usize = 2;

impl Config {
    /// Lowers the settings that open files, if together they exceed this limit. Of the files that
    /// Redis leaves, SMTP connections, including idle ones, may use five eighths, and lookups two
    /// eighths. At most half as many attempts as there are such files run at once. Returns whether
    /// `worker.concurrency` was lowered.
    pub fn fit_open_files(&mut self, limit: usize) -> bool {
        let left = limit.saturating_sub(RESERVED + self.redis.pool_max).max(8);
        let lookups = (left / 4 / LOOKUP_SOCKETS).max(1);
        let connections = left / 8 * 5;
        let worker = &mut self.worker;
        let configured = worker.concurrency;
        worker.concurrency = configured.min(left / 2);
        worker.connections_max = worker.connections_max.min(connections);
        self.placement.lookups_max = self.placement.lookups_max.min(lookups);
        for route in &mut self.routes {
            if let SenderSettings::Mx(settings) = &mut route.sender {
                settings.lookups_max = settings.lookups_max.min(lookups);
            }
        }
        self.worker.concurrency < configured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_connections_and_lookups_fit_into_the_limit_of_open_files() {
        for (limit, concurrency, attempts, connections, lookups) in [
            (1 << 20, 64, 64, 10_000, 256),
            (1_024, 64, 64, 610, 122),
            (1_024, 1_000, 488, 610, 122),
            (96, 256, 24, 30, 6),
            (10, 256, 4, 5, 1),
        ] {
            let mut config = Config::embedded();
            config.worker.concurrency = concurrency;
            let lowered = config.fit_open_files(limit);
            let worker = &config.worker;
            let fitted = (
                worker.concurrency,
                worker.connections_max,
                config.placement.lookups_max,
            );
            assert_eq!(fitted, (attempts, connections, lookups), "{limit}");
            assert_eq!(lowered, attempts < concurrency, "{limit}");
        }
        let mut config = Config::embedded();
        config.worker.connections_max = 100;
        config.fit_open_files(1_024);
        assert_eq!(
            config.worker.connections_max, 100,
            "a configured value that fits is kept"
        );
    }
}
