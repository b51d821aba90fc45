//! How stores are reached: straight, and nowhere else. A redirect would lead out of the places that
//! the configuration lists, and a proxy of the environment would see what is fetched with our
//! credentials.

use std::time::Duration;

use object_store::client::{HttpClient, HttpConnector};
use object_store::{ClientConfigKey, ClientOptions, Error, Result};
use reqwest::Client;
use reqwest::redirect::Policy;

/// How long a connection to a store may take; all the rest has `content.timeout`.
const CONNECT: Duration = Duration::from_secs(5);

/// Connects without redirects and proxies.
#[derive(Debug)]
pub(super) struct Straight;

impl HttpConnector for Straight {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let allows_http = options
            .get_config_value(&ClientConfigKey::AllowHttp)
            .is_some_and(|value| is_yes(&value));
        let client = Client::builder()
            .user_agent(concat!("redeliver/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .https_only(!allows_http)
            .connect_timeout(CONNECT)
            .build()
            .map_err(|err| Error::Generic {
                store: "content",
                source: Box::new(err),
            })?;
        Ok(HttpClient::new(client))
    }
}

/// Whether a value of the environment says yes, as the library reads it: `AWS_ALLOW_HTTP=1`.
fn is_yes(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"]
        .iter()
        .any(|yes| yes.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_is_said_in_several_ways() {
        for (value, yes) in [
            ("true", true),
            ("TRUE", true),
            ("1", true),
            ("On", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(is_yes(value), yes, "{value:?}");
        }
    }
}
