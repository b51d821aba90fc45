//! A route: a sender and its settings.

use std::time::Duration;

use typed_toml::fault::SettingsFault;

use crate::hosts::HostRule;
use crate::senders::{CommandSettings, HttpSettings};
use crate::smtp::{MxSettings, SmtpSettings};

/// `[[route]]`: one way out.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// What sends.
    pub sender: SenderSettings,
    /// How long a message that a relay took waits for a bounce before it counts as delivered; zero:
    /// it counts at once.
    pub confirm: Duration,
}

/// The settings of a sender.
#[derive(Clone, Debug)]
pub enum SenderSettings {
    /// Says what it would send.
    Log,
    /// Hands mail to a relay.
    Smtp(SmtpSettings),
    /// Takes mail to the recipients' own mail hosts.
    Mx(MxSettings),
    /// Asks the platform, over HTTP.
    Http(Box<HttpSettings>),
    /// Runs a program.
    Command(CommandSettings),
}

/// Every http route has to post to a host of the list, where there is one: it says so in one place,
/// whoever writes routes.
pub(crate) fn check_http_hosts(
    hosts: &[HostRule],
    routes: &[Route],
    faults: &mut Vec<SettingsFault>,
) {
    let allowed = |host: &str| hosts.is_empty() || hosts.iter().any(|rule| rule.covers(host));
    for route in routes {
        let SenderSettings::Http(http) = &route.sender else {
            continue;
        };
        let host = http.url.host_str().unwrap_or_default();
        if !allowed(host) {
            let hosts: Vec<String> = hosts.iter().map(HostRule::to_string).collect();
            let text = format!(
                "posts to {host}, which is not in worker.http_hosts: {}",
                hosts.join(", ")
            );
            faults.push(SettingsFault {
                file: "all files".to_owned(),
                key: format!("route.{}.url", route.name),
                text,
            });
        }
    }
}
