//! The SMTP senders work with a real Postfix, both as a relay and as the mail host of a recipient.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::certificates::Certificates;
use harness::postfix::Settings;
use tempfile::TempDir;

mod encrypted;
mod mail_host;
mod relay;

/// The body of a mail that a careless transfer would damage: it has dots, octets beyond ASCII, and
/// white space at the end of a line.
const BODY: &str = ".\r\n..two\r\nGrüße \r\n\t\r\n.\r\nQUIT\r\n";

fn content() -> String {
    format!(
        "From: news@news.example.org\r\nMessage-ID: <m1@news.example.org>\r\nSubject: Hello\r\n\
         \r\n{BODY}"
    )
}

/// The settings of a Postfix with these lines of `main.cf`.
fn main_cf(lines: &[&str]) -> Settings {
    Settings {
        main: lines.iter().map(|line| (*line).to_owned()).collect(),
        ..Settings::default()
    }
}

/// Certificates for a mail host, in a folder that Postfix's processes can read.
struct Tls {
    files: Certificates,
    _folder: TempDir,
}

impl Tls {
    /// Makes certificates for a host with this name or address.
    fn of(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            files: Certificates::make_for(folder.path(), name),
            _folder: folder,
        }
    }

    /// The lines of `main.cf` that make Postfix offer STARTTLS with them.
    fn main_cf(&self) -> Vec<String> {
        let [certificate, key] =
            [&self.files.certificate, &self.files.key].map(|file| file.display());
        vec![
            "smtpd_tls_security_level = may".to_owned(),
            format!("smtpd_tls_cert_file = {certificate}"),
            format!("smtpd_tls_key_file = {key}"),
            "smtpd_tls_loglevel = 1".to_owned(),
        ]
    }

    /// The certificate of the authority, as a sender's `tls_ca_file` contains it.
    fn authority(&self) -> Option<Vec<u8>> {
        Some(fs::read(&self.files.authority).unwrap())
    }
}
