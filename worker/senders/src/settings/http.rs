//! The settings of a route whose sender is `http`: a platform that sends by itself.

use std::time::Duration;

use signing::webhook_signature::Signer;
use typed_toml::names::{is_this_machine, parse_url};
use typed_toml::secret::read_file;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set};
use url::Url;

/// How to create a secret that signs requests.
const CREATE_SECRET: &str = "create one with: echo whsec_$(openssl rand -base64 32)";

/// The settings of a platform that sends by itself when it is asked over HTTP.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The URL that attempts are posted to.
    pub url: Url,
    /// The keys that sign the requests.
    pub signer: Signer,
    /// Certificates (PEM) that are trusted in addition to those of the system.
    pub ca: Option<Vec<u8>>,
    /// Whether requests contain the message's content.
    pub content: bool,
    /// The time limit for connecting.
    pub connect_timeout: Duration,
    /// The time limit for one whole attempt.
    pub timeout: Duration,
    /// The maximum size of a request, in bytes.
    pub request_max: usize,
    /// The maximum size of an answer, in bytes.
    pub answer_max: usize,
}

pub(super) fn read_http(section: &mut Section<'_, '_>) -> Option<HttpSettings> {
    let cleartext = section.switch("cleartext").unwrap_or(false);
    let url = section.text("url").map(str::to_owned);
    if url.is_none() {
        section.fault(
            "url",
            "an http route needs the URL that attempts are posted to",
        );
    }
    let url = url.and_then(|text| match post_url(&text, cleartext) {
        Ok(url) => Some(url),
        Err(why) => {
            section.fault("url", why);
            None
        }
    });
    let secrets = read_file(section, "secret_file");
    if secrets.is_none() && !section.has("secret_file") {
        let text = format!(
            "an http route needs the file with the secret that signs its requests; {CREATE_SECRET}"
        );
        section.fault("secret_file", text);
    }
    let signer = secrets.and_then(|secrets| {
        match Signer::from_secrets(&String::from_utf8_lossy(&secrets)) {
            Ok(signer) => Some(signer),
            Err(why) => {
                section.fault("secret_file", format!("{why}; {CREATE_SECRET}"));
                None
            }
        }
    });
    let ca = read_file(section, "ca_file");
    let content = section.switch("content").unwrap_or(true);
    let (mut connect_timeout, mut timeout) = (10 * SECOND, 60 * SECOND);
    set(
        &mut connect_timeout,
        section.duration("connect_timeout", SECOND / 10..=600 * SECOND),
    );
    set(
        &mut timeout,
        section.duration("timeout", SECOND / 10..=3_600 * SECOND),
    );
    let (mut request_max, mut answer_max) = (32 << 20, 64 << 10);
    set(
        &mut request_max,
        section.size("request_max", 1 << 10..=1 << 30),
    );
    set(&mut answer_max, section.size("answer_max", 256..=16 << 20));
    let (url, signer) = (url?, signer?);
    Some(HttpSettings {
        url,
        signer,
        ca,
        content,
        connect_timeout,
        timeout,
        request_max,
        answer_max,
    })
}

/// Returns a URL that mail may be posted to. It must use TLS, unless it is on this machine or
/// `cleartext` allows it.
pub(super) fn post_url(text: &str, cleartext: bool) -> Result<Url, String> {
    let url = parse_url(text).ok_or("is not a URL like \"https://mail.example.com/redeliver\"")?;
    let is_local = is_this_machine(&url);
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err("must not contain a user or password; requests are signed instead".to_owned())
        }
        "https" => Ok(url),
        "http" if is_local || cleartext => Ok(url),
        "http" => Err(
            "does not use TLS; write https://, or set cleartext = true if the network is trusted"
                .to_owned(),
        ),
        other => Err(format!("\"{other}\" is not http or https")),
    }
}
