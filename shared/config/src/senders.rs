//! `[[route]]` with `sender = "http"` or `"command"`: what the senders that are somebody else's
//! program need.

use std::path::PathBuf;
use std::time::Duration;

use signing::webhook_signature::Signer;
use typed_toml::secret::read_file;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set};
use url::Url;

use crate::names::{is_this_machine, parse_url};

/// What stands for the envelope in a command's arguments.
pub const PLACEHOLDERS: [&str; 3] = ["{sender}", "{recipient}", "{message_id}"];

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

/// The settings of a program that sends.
#[derive(Clone, Debug)]
pub struct CommandSettings {
    /// The program's file.
    pub program: PathBuf,
    /// Whether it gets lines that end with CRLF, as in mail on the wire; else with LF, as programs
    /// of Unix expect.
    pub crlf: bool,
    /// Its arguments, with [`PLACEHOLDERS`] in them.
    pub arguments: Vec<String>,
    /// What it finds as `PATH`; it finds no other variable.
    pub path: String,
    /// How long it may run.
    pub timeout: Duration,
    /// Bytes of its output that are read at most.
    pub output_max: usize,
}

pub(crate) fn read_http(section: &mut Section<'_, '_>) -> Option<HttpSettings> {
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
fn post_url(text: &str, cleartext: bool) -> Result<Url, String> {
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

pub(crate) fn read_command(section: &mut Section<'_, '_>) -> Option<CommandSettings> {
    let program = section.text("program").map(PathBuf::from);
    match &program {
        None => section.fault(
            "program",
            "a command route needs the program that sends, like \"/usr/sbin/sendmail\"",
        ),
        Some(path) if !path.is_absolute() => section.fault("program", "must be an absolute path"),
        Some(_) => {}
    }
    let arguments: Vec<String> = section
        .texts("arguments")
        .into_iter()
        .map(str::to_owned)
        .collect();
    if section.text("path").is_some_and(|path| path.contains('\0')) {
        section.fault("path", "cannot hold a null character");
    }
    for argument in &arguments {
        if let Err(unknown) = check_placeholders(argument) {
            let known = PLACEHOLDERS.join(", ");
            section.fault(
                "arguments",
                format!("there is no {unknown}; placeholders are {known}"),
            );
        }
        if argument.contains('\0') {
            section.fault("arguments", "an argument cannot hold a null character");
        }
    }
    if !arguments
        .iter()
        .any(|argument| argument.contains("{recipient}"))
    {
        section.fault(
            "arguments",
            "must have {recipient} among them, for the program gets the envelope here and the content on its standard input: \
             [\"-i\", \"-f\", \"{sender}\", \"--\", \"{recipient}\"]",
        );
    }
    let crlf = section
        .choice("line_ends", &[("lf", false), ("crlf", true)])
        .unwrap_or(false);
    let path = section
        .text("path")
        .unwrap_or("/usr/local/bin:/usr/bin:/bin")
        .to_owned();
    let (mut timeout, mut output_max) = (60 * SECOND, 16 << 10);
    set(
        &mut timeout,
        section.duration("timeout", SECOND / 10..=3_600 * SECOND),
    );
    set(&mut output_max, section.size("output_max", 256..=16 << 20));
    Some(CommandSettings {
        program: program?,
        crlf,
        arguments,
        path,
        timeout,
        output_max,
    })
}

/// What stands in braces has to be a placeholder.
fn check_placeholders(argument: &str) -> Result<(), &str> {
    let mut rest = argument;
    while let Some(start) = rest.find('{') {
        let end = rest[start..]
            .find('}')
            .map_or(rest.len(), |length| start + length + 1);
        if !PLACEHOLDERS.contains(&&rest[start..end]) {
            return Err(&rest[start..end]);
        }
        rest = &rest[end..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::DEFAULT;
    use crate::model::Config;
    use crate::route::{Route, SenderSettings, check_http_hosts};

    #[test]
    fn mail_is_posted_by_tls_or_on_this_machine() {
        for (url, cleartext, good) in [
            ("https://mail.example.com/redeliver", false, true),
            ("http://127.0.0.1:8080/", false, true),
            ("http://[::1]/", false, true),
            ("http://localhost/x", false, true),
            ("http://mail.example.com/", false, false),
            ("http://mail.example.com/", true, true),
            ("https://user:word@mail.example.com/", false, false),
            ("ftp://mail.example.com/", true, false),
            ("mail.example.com", false, false),
        ] {
            assert_eq!(post_url(url, cleartext).is_ok(), good, "{url}");
        }
    }

    #[test]
    fn an_http_route_posts_to_a_host_of_the_list_and_nowhere_else() {
        let route = |url: &str| Route {
            name: "platform".to_owned(),
            confirm: Duration::ZERO,
            sender: SenderSettings::Http(Box::new(HttpSettings {
                url: Url::parse(url).unwrap(),
                signer: Signer::from_secrets("whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY").unwrap(),
                ca: None,
                content: false,
                connect_timeout: SECOND,
                timeout: SECOND,
                request_max: 1,
                answer_max: 1,
            })),
        };
        let hosts = ["mail.example.com", "*.example.org"].map(|rule| rule.parse().unwrap());
        for (hosts, url, good) in [
            (&hosts[..], "https://mail.example.com/redeliver", true),
            (&hosts, "https://MAIL.example.com:8443/", true),
            (&hosts, "https://a.b.example.org/", true),
            (&hosts, "https://example.org/", false),
            (&hosts, "https://mail.example.com.evil.example/", false),
            (&hosts, "https://notexample.org/", false),
            (&hosts, "https://192.0.2.1/", false),
            (&[], "https://anywhere.example/", true),
        ] {
            let mut faults = Vec::new();
            check_http_hosts(hosts, &[route(url)], &mut faults);
            assert_eq!(faults.is_empty(), good, "{url}: {faults:?}");
        }
    }

    #[test]
    fn a_route_that_lacks_something_is_told_how_to_make_it() {
        for (text, key, says) in [
            (
                "sender = \"http\"\nurl = \"http://localhost/\"",
                "route.r.secret_file",
                "openssl rand",
            ),
            (
                "sender = \"http\"\nsecret_file = \"/dev/null\"",
                "route.r.secret_file",
                "a device",
            ),
            (
                "sender = \"http\"\nsecret_file = \"Cargo.toml\"",
                "route.r.secret_file",
                "openssl rand",
            ),
            (
                "sender = \"command\"\nprogram = \"/bin/true\"",
                "route.r.arguments",
                "{recipient}",
            ),
            (
                "sender = \"command\"\nprogram = \"/bin/true\"",
                "route.r.arguments",
                "standard input",
            ),
        ] {
            let file = format!("[worker]\nhttp_hosts = [\"*\"]\n[[route]]\nname = \"r\"\n{text}");
            let faults =
                Config::from_layers(&[("default.toml", DEFAULT), ("mine.toml", &file)], &[])
                    .unwrap_err();
            let said = |key: &str, says: &str| {
                faults
                    .0
                    .iter()
                    .any(|fault| fault.key == key && fault.text.contains(says))
            };
            assert!(said(key, says), "{text}: {faults}");
            assert!(
                said("worker.http_hosts", "\"*\" is no host like"),
                "{faults}"
            );
        }
    }

    #[test]
    fn only_placeholders_stand_in_braces() {
        for (argument, unknown) in [
            ("--", None),
            ("-f{sender}", None),
            ("{recipient}{message_id}", None),
            ("{from}", Some("{from}")),
            ("{sender}{", Some("{")),
        ] {
            assert_eq!(check_placeholders(argument).err(), unknown, "{argument}");
        }
    }
}
