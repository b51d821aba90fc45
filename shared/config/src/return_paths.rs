//! `[verp]`: the settings of signed return paths.

use std::time::Duration;

use domain::address::Address;
use signing::return_path::Verp;
use typed_toml::secret::Secret;
use typed_toml::section::Section;
use typed_toml::set::{DAY, set};

/// The shortest key, in bytes: HMAC-SHA256 needs at least half the length of its output (RFC 2104,
/// section 3).
const KEY_MIN: usize = 16;

/// `[verp]`
#[derive(Clone, Debug, Default)]
pub struct ReturnPaths {
    /// The domain of return paths. If `None`, return paths are not signed.
    pub domain: Option<String>,
    /// The key that signs them.
    key: Secret,
    /// How long a return path is accepted.
    pub valid_for: Duration,
    /// Whether reports are processed only if they were sent to a signed return path.
    pub required: bool,
}

impl ReturnPaths {
    /// Returns the signer and verifier of return paths, if the section is configured.
    pub fn verp(&self) -> Option<Verp> {
        Some(Verp::new(
            self.domain.as_deref()?,
            self.key.reveal(),
            self.valid_for,
        ))
    }

    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        if let Some(domain) = section.text("domain") {
            match Address::parse(&format!("x@{domain}")) {
                Ok(address) => self.domain = Some(address.domain().to_owned()),
                Err(_) => section.fault(
                    "domain",
                    format!("\"{domain}\" is not a domain like \"bounce.example.org\""),
                ),
            }
        }
        match Secret::read(section, ["key", "key_file"]) {
            Some((name, key)) if key.reveal().len() < KEY_MIN => {
                section.fault(
                    name,
                    format!(
                        "is shorter than {KEY_MIN} bytes; create one with: openssl rand -hex 32"
                    ),
                );
            }
            Some((_, key)) => self.key = key,
            None => {}
        }
        set(
            &mut self.valid_for,
            section.duration("valid_for", DAY..=3_660 * DAY),
        );
        set(&mut self.required, section.switch("required"));
    }

    /// Returns the key and text of a fault that concerns several keys of the section.
    pub(crate) fn fault(&self) -> Option<(&'static str, &'static str)> {
        let fault = match (&self.domain, self.key.is_empty()) {
            (Some(_), true) => (
                "verp.key_file",
                "a domain needs a key that signs its return paths: key_file or key",
            ),
            (None, false) => ("verp.domain", "a key needs the domain of the return paths"),
            (None, true) if self.required => (
                "verp.required",
                "return paths cannot be signed without verp.domain and verp.key_file",
            ),
            _ => return None,
        };
        Some(fault)
    }
}
