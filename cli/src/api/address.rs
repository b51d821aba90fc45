//! Where the operator's commands find a scheduler: from the command line, the environment, or the
//! configuration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use config::cli::read_api;
use config::sources::{Setting, Source, settings};
use reqwest::Url;

use super::certificates::Certificates;
use crate::process;

/// The variable that contains the URL.
const VARIABLE: &str = "REDELIVER_API";

/// The address of a scheduler.
#[derive(Debug)]
pub(super) struct SchedulerAddress {
    /// Its URL.
    pub(super) url: Url,
    /// What the URL is from, such as `--api`.
    from: String,
    /// The files for TLS that the configuration names.
    pub(super) certificates: Certificates,
}

impl SchedulerAddress {
    /// Returns the address: the one of `--api` or the environment, else that of the configuration.
    ///
    /// # Errors
    /// If the configuration cannot be read and is needed, or names no address that can be used.
    pub(super) fn find(given: Option<&Url>, config: Option<&Path>) -> Result<Self> {
        let file = process::config_file(config);
        let settings = settings(file);
        if let Some(url) = given {
            // What the command line gives must suffice, even if the configuration has faults.
            let certificates = settings
                .map(|settings| configured_certificates(&settings, file))
                .unwrap_or_default();
            let in_variable = std::env::var(VARIABLE)
                .ok()
                .and_then(|text| read_api(&text).ok());
            let from = if in_variable.as_ref() == Some(url) {
                VARIABLE
            } else {
                "--api"
            };
            return Ok(Self {
                url: url.clone(),
                from: from.to_owned(),
                certificates,
            });
        }
        let settings = settings.map_err(|faults| {
            anyhow!(
                "cannot find the address of a scheduler: {faults}; \
                 or give its URL with --api or {VARIABLE}"
            )
        })?;
        Self::configured(&settings, file)
    }

    /// Returns the address that the configuration names: `cli.api`, or `scheduler.listen`.
    fn configured(settings: &[Setting], file: Option<&Path>) -> Result<Self> {
        let named = |key: &str| settings.iter().find(|setting| setting.key == key);
        let (setting, url) = match (named("cli.api"), named("scheduler.listen")) {
            (Some(api), _) => (api, read_api(text(api))),
            (None, Some(listen)) => (listen, url_of(text(listen))),
            (None, None) => return Err(anyhow!("scheduler.listen is not set; add --api")),
        };
        let Setting { key, source, .. } = setting;
        let from = match source {
            Source::Default => format!("the default of {key}"),
            Source::File(file) => format!("{key} in {file}"),
            Source::Environment(variable) => variable.clone(),
        };
        let url = url.map_err(|why| {
            anyhow!("{from} {why}; give the URL of a scheduler with --api or {VARIABLE}")
        })?;
        Ok(Self {
            url,
            from,
            certificates: configured_certificates(settings, file),
        })
    }
}

impl fmt::Display for SchedulerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.url, self.from)
    }
}

/// Returns the files for TLS. Relative paths are relative to the folder of the configuration file.
fn configured_certificates(settings: &[Setting], file: Option<&Path>) -> Certificates {
    let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let path = |key: &str| -> Option<PathBuf> {
        let setting = settings.iter().find(|setting| setting.key == key)?;
        Some(folder.join(setting.value.as_str()?))
    };
    Certificates {
        ca: path("cli.ca_file"),
        cert: path("cli.cert_file"),
        key: path("cli.key_file"),
    }
}

fn text(setting: &Setting) -> &str {
    setting.value.as_str().unwrap_or_default()
}

/// Returns the URL of a scheduler that listens on this address.
fn url_of(listen: &str) -> Result<Url, String> {
    let mut address: SocketAddr = listen
        .parse()
        .map_err(|_| "is not an address like \"127.0.0.1:8025\"".to_owned())?;
    if address.port() == 0 {
        return Err("has port 0, so the port is known only when the scheduler runs".to_owned());
    }
    // A scheduler that listens on all addresses also listens on loopback.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{address}")
        .parse()
        .map_err(|_| "is not an address that a URL can contain".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_that_listens_on_all_addresses_is_reached_on_loopback() {
        for (listen, url) in [
            ("127.0.0.1:8025", "http://127.0.0.1:8025/"),
            ("0.0.0.0:81", "http://127.0.0.1:81/"),
            ("[::]:8025", "http://[::1]:8025/"),
            ("192.0.2.1:8025", "http://192.0.2.1:8025/"),
        ] {
            assert_eq!(url_of(listen).unwrap().as_str(), url);
        }
        for wrong in ["", "localhost:8025", "127.0.0.1:0"] {
            assert!(url_of(wrong).is_err(), "{wrong}");
        }
    }
}
