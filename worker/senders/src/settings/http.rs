//! The settings of a route whose sender is `http`: a platform that sends by itself.

use std::time::Duration;

use signing::webhook_signature::Signer;
use typed_toml::names::{is_this_machine, parse_url};
use typed_toml::secret::read_file;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set};
use url::Url;

/// How to make a secret that signs requests.
const MAKE_SECRET: &str = "make one with: echo whsec_$(openssl rand -base64 32)";

/// The settings of a platform that sends by itself, asked over HTTP.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Where attempts are posted.
    pub url: Url,
    /// What signs them.
    pub signer: Signer,
    /// Certificates (PEM) that are trusted beside those of the system.
    pub ca: Option<Vec<u8>>,
    /// Whether the content goes along.
    pub content: bool,
    /// For connecting.
    pub connect_timeout: Duration,
    /// For the whole of one attempt.
    pub timeout: Duration,
    /// Bytes of a request at most.
    pub request_max: usize,
    /// Bytes of an answer at most.
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
            "an http route needs the file of the secret that signs its requests; {MAKE_SECRET}"
        );
        section.fault("secret_file", text);
    }
    let signer = secrets.and_then(|secrets| {
        match Signer::from_secrets(&String::from_utf8_lossy(&secrets)) {
            Ok(signer) => Some(signer),
            Err(why) => {
                section.fault("secret_file", format!("{why}; {MAKE_SECRET}"));
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

/// A URL that mail may be posted to: by TLS, or without it where that is on this machine, or wanted
/// so.
pub(super) fn post_url(text: &str, cleartext: bool) -> Result<Url, String> {
    let url = parse_url(text).ok_or("is no URL like \"https://mail.example.com/redeliver\"")?;
    let here = is_this_machine(&url);
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err("has a user or password in it; requests are signed instead".to_owned())
        }
        "https" => Ok(url),
        "http" if here || cleartext => Ok(url),
        "http" => Err(
            "has no TLS; write https://, or set cleartext = true where the network is trusted"
                .to_owned(),
        ),
        other => Err(format!("\"{other}\" is not http or https")),
    }
}
