//! Connects to stores directly, without redirects or proxies. A redirect could lead out of the
//! stores that the configuration lists. A proxy from the environment would see what is fetched with
//! our credentials.

use std::time::Duration;

use object_store::client::{HttpClient, HttpConnector};
use object_store::{ClientConfigKey, ClientOptions, Error, Result};
use reqwest::Client;
use reqwest::redirect::Policy;

/// How long connecting to a store may take. `content.timeout` limits everything else.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Connects without redirects and proxies.
#[derive(Debug)]
pub(super) struct DirectConnector;

impl HttpConnector for DirectConnector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let allows_http = options
            .get_config_value(&ClientConfigKey::AllowHttp)
            .is_some_and(|value| is_true(&value));
        let client = Client::builder()
            .user_agent(concat!("redeliver/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .https_only(!allows_http)
            .connect_timeout(CONNECT_MAX)
            .build()
            .map_err(|err| Error::Generic {
                store: "content",
                source: Box::new(err),
            })?;
        Ok(HttpClient::new(client))
    }
}

/// Whether the value of a variable such as `AWS_ALLOW_HTTP=1` means true, by the rules of the crate
/// `object_store`.
fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"]
        .iter()
        .any(|yes| yes.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_is_written_in_several_ways() {
        for (value, expected) in [
            ("true", true),
            ("TRUE", true),
            ("1", true),
            ("On", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(is_true(value), expected, "{value:?}");
        }
    }
}
