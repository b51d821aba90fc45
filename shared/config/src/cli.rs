//! `[cli]`: where the operator's commands find a scheduler. The scheduler and the workers check
//! this section and do not use it.

use std::path::PathBuf;

use typed_toml::names::parse_url;
use typed_toml::section::Section;
use typed_toml::set::set;
use url::Url;

/// `[cli]`
#[derive(Clone, Debug, Default)]
pub struct Cli {
    /// The URL of a scheduler. If it is absent, commands use `scheduler.listen`.
    pub api: Option<Url>,
    /// The file with the certificates of the trusted authorities, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The file with our own certificate, if the server asks for one.
    pub cert_file: Option<PathBuf>,
    /// The file with its key.
    pub key_file: Option<PathBuf>,
}

impl Cli {
    /// Reads the section. The files need not exist: only the machine of an operator has them.
    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        if let Some(text) = section.text("api") {
            match read_api(text) {
                Ok(url) => self.api = Some(url),
                Err(why) => section.fault("api", why),
            }
        }
        for (key, file) in [
            ("ca_file", &mut self.ca_file),
            ("cert_file", &mut self.cert_file),
            ("key_file", &mut self.key_file),
        ] {
            set(file, section.text(key).map(|path| Some(path.into())));
        }
    }
}

/// Reads the URL of a scheduler.
///
/// # Errors
/// If it is not one. The text shows an example.
pub fn read_api(text: &str) -> Result<Url, String> {
    let is_allowed = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let url = parse_url(text).filter(is_allowed);
    url.ok_or_else(|| {
        "is not the URL of a scheduler; write it like http://127.0.0.1:8025 or \
         https://redeliver.example.org"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_scheduler_has_http_or_https_and_no_password() {
        for text in [
            "http://127.0.0.1:8025",
            "https://redeliver.example.org",
            "https://mail.example.org/redeliver/",
        ] {
            assert!(read_api(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "localhost:8025",
            "127.0.0.1:8025",
            "unix:/socket",
            "https://",
            "https://jo:secret@mail.example.org",
            "http://mail.example.org?account=acme",
        ] {
            let why = read_api(text).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
