//! `[telemetry]` and `[privacy]`: what a process sends about itself, and how it names addresses
//! there.

use telemetry::endpoint::fault_of_base;
use telemetry::settings::{Protocol, Settings, TraceStyle};
use typed_toml::secret::Secret;
use typed_toml::section::Section;
use typed_toml::set::{set, set_number};

/// The shortest key, in bytes: HMAC-SHA256 needs at least half the length of its output (RFC 2104,
/// section 3).
const KEY_MIN: usize = 16;

/// `[privacy]`
#[derive(Clone, Debug, Default)]
pub struct Privacy {
    /// The key of the hashes that stand for addresses. If it is empty, the fleet uses a key that it
    /// keeps in Redis.
    pub address_key: Secret,
}

impl Privacy {
    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        match Secret::read(section, ["address_key", "address_key_file"]) {
            Some((name, key)) if key.reveal().len() < KEY_MIN => {
                section.fault(
                    name,
                    format!(
                        "is shorter than {KEY_MIN} bytes; create one with: openssl rand -hex 32"
                    ),
                );
            }
            Some((_, key)) => self.address_key = key,
            None => {}
        }
    }
}

/// Reads `[telemetry]`.
pub(crate) fn read_telemetry(settings: &mut Settings, section: &mut Section<'_, '_>) {
    if let Some(endpoint) = section.text("endpoint") {
        match fault_of_base(endpoint) {
            // It is not shown, because it may contain a password.
            _ if endpoint.contains('@') => section.fault(
                "endpoint",
                "must not name a user; send a password or a token with OTEL_EXPORTER_OTLP_HEADERS",
            ),
            None => settings.endpoint = Some(endpoint.to_owned()),
            Some(fault) => section.fault("endpoint", fault),
        }
    }
    let protocols = [("grpc", Protocol::Grpc), ("http", Protocol::Http)];
    if let Some(protocol) = section.choice("protocol", &protocols) {
        settings.protocol = Some(protocol);
    }
    set(&mut settings.logs, section.switch("logs"));
    let styles = [("links", TraceStyle::Links), ("parent", TraceStyle::Parent)];
    set(
        &mut settings.trace_style,
        section.choice("trace_style", &styles),
    );
    set(&mut settings.message_ids, section.switch("message_ids"));
    set(&mut settings.reply_text, section.switch("reply_text"));
    set_number(
        &mut settings.queue_max,
        section.number("queue_max", 64..=1_000_000),
    );
    if let Some(url) = section.text("trace_url") {
        if url.contains("{trace_id}") {
            settings.trace_url = Some(url.to_owned());
        } else {
            section.fault(
                "trace_url",
                "has no \"{trace_id}\", which stands for the trace that a link leads to",
            );
        }
    }
}
