//! `[[route]]`: the name of a route, its sender, and the settings of that sender.

use std::time::Duration;

use typed_toml::fault::SettingsFault;
use typed_toml::hosts::HostRule;
use typed_toml::names::read_name;
use typed_toml::section::Section;
use typed_toml::set::DAY;

use crate::settings::command::{CommandSettings, read_command};
use crate::settings::http::{HttpSettings, read_http};
use crate::settings::mx::{MxSettings, read_mx};
use crate::settings::smtp::{SmtpSettings, read_smtp};

/// `[[route]]`: one way to send mail.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// The settings of its sender.
    pub sender: SenderSettings,
    /// How long a message that a relay accepted waits for a bounce before it counts as delivered.
    /// If zero, the message counts as delivered at once.
    pub confirm: Duration,
}

/// The settings of a sender.
#[derive(Clone, Debug)]
pub enum SenderSettings {
    /// Only logs what it would send.
    Log,
    /// Hands mail to a relay.
    Smtp(SmtpSettings),
    /// Delivers directly to the recipients' own mail hosts.
    Mx(MxSettings),
    /// Asks the platform to send, over HTTP.
    Http(Box<HttpSettings>),
    /// Runs a program.
    Command(CommandSettings),
}

impl SenderSettings {
    /// Whether a message without content cannot be sent. The platform or the program of other
    /// routes may have the content.
    pub const fn needs_content(&self) -> bool {
        matches!(self, Self::Smtp(_) | Self::Mx(_))
    }
}

/// Reports a fault for each `http` route that posts to a host that is not in `hosts`
/// (`worker.http_hosts`). An empty list allows every host. The list limits all routes in one place,
/// even if several people write them.
pub fn check_http_hosts(hosts: &[HostRule], routes: &[Route], faults: &mut Vec<SettingsFault>) {
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

#[derive(Clone, Copy)]
enum SenderKind {
    Log,
    Smtp,
    Mx,
    Http,
    Command,
}

/// The senders that a route may name.
const SENDERS: [(&str, SenderKind); 5] = [
    ("log", SenderKind::Log),
    ("smtp", SenderKind::Smtp),
    ("mx", SenderKind::Mx),
    ("http", SenderKind::Http),
    ("command", SenderKind::Command),
];

/// Reads one `[[route]]`, and reports a fault for each key that is missing or wrong. Returns `None`
/// if the route cannot be used.
pub fn read_route(mut section: Section<'_, '_>) -> Option<Route> {
    let name = read_name(&mut section, "name").map(str::to_owned);
    if !section.has("name") {
        section.fault("name", "every route needs a name");
    }
    let kind = section.choice("sender", &SENDERS);
    if kind.is_none() && !section.has("sender") {
        section.fault(
            "sender",
            format!(
                "every route needs a sender: {}",
                SENDERS.map(|(name, _)| name).join(", ")
            ),
        );
    }
    let confirm = section
        .duration("confirm", Duration::ZERO..=30 * DAY)
        .unwrap_or_default();
    let sender = match kind {
        Some(SenderKind::Smtp) => read_smtp(&mut section).map(SenderSettings::Smtp),
        Some(SenderKind::Mx) => Some(SenderSettings::Mx(read_mx(&mut section))),
        Some(SenderKind::Http) => {
            read_http(&mut section).map(|settings| SenderSettings::Http(Box::new(settings)))
        }
        Some(SenderKind::Command) => read_command(&mut section).map(SenderSettings::Command),
        Some(SenderKind::Log) | None => Some(SenderSettings::Log),
    };
    // Without a sender it is unknown which keys the route may have, so the others are not checked.
    kind?;
    section.finish();
    Some(Route {
        name: name?,
        sender: sender?,
        confirm,
    })
}
