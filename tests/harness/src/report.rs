//! Delivery reports as mail systems write them (RFC 3464), and the configuration for returned mail.

use std::fs;
use std::time::Duration;

use config::model::Config;
use signing::return_path::Verp;
use tempfile::TempDir;

/// The domain of return paths in tests.
pub const DOMAIN: &str = "bounce.example.org";

/// The key that signs return paths in tests.
pub const KEY: &str = "a key that only the tests have";

/// The content type of a report that is posted as a mail message.
pub const MAIL: &str = "message/rfc822";

/// A delivery report. It can be changed before it is written.
#[derive(Clone, Debug, Default)]
pub struct DeliveryReport {
    /// Header fields in addition to those that every report has.
    pub fields: Vec<String>,
    /// The fields about the message.
    pub about: Vec<String>,
    /// One group of fields per recipient.
    pub recipients: Vec<String>,
    /// Header fields of the original message.
    pub original: Vec<String>,
}

impl DeliveryReport {
    /// A report that delivery to one recipient failed with this reply.
    pub fn failed(recipient: &str, reply: &str) -> Self {
        Self::default().with_recipient(recipient, "failed", reply)
    }

    /// Adds another recipient, with its action and reply.
    pub fn with_recipient(mut self, recipient: &str, action: &str, reply: &str) -> Self {
        let status = reply.split(' ').nth(1).unwrap_or("5.0.0");
        self.recipients.push(format!(
            "Final-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {status}\r\n\
             Remote-MTA: dns; mx.example.com\r\nDiagnostic-Code: smtp; {reply}\r\n"
        ));
        self
    }

    /// Sets the address that the report came to.
    pub fn delivered_to(mut self, address: &str) -> Self {
        self.fields.push(format!("Delivered-To: {address}"));
        self
    }

    /// Sets the envelope id of the message that the report is about.
    pub fn with_envelope_id(mut self, id: &str) -> Self {
        self.about.push(format!("Original-Envelope-Id: {id}"));
        self
    }

    /// Adds a header field of the original message.
    pub fn with_original_field(mut self, field: &str) -> Self {
        self.original.push(field.to_owned());
        self
    }

    /// Returns the report as a mail message.
    pub fn mail(&self) -> String {
        let lines = |fields: &[String]| {
            fields
                .iter()
                .map(|field| format!("{field}\r\n"))
                .collect::<String>()
        };
        format!(
            "{}From: MAILER-DAEMON@out.example.net\r\n\
             Subject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=\"=_r\"\r\n\r\n\
             --=_r\r\n\r\nYour mail did not get through.\r\n\
             --=_r\r\nContent-Type: message/delivery-status\r\n\r\n\
             Reporting-MTA: dns; out.example.net\r\n{}\r\n{}\r\n\
             --=_r\r\nContent-Type: text/rfc822-headers\r\n\r\n{}\r\n--=_r--\r\n",
            lines(&self.fields),
            lines(&self.about),
            self.recipients.join("\r\n"),
            lines(&self.original),
        )
    }
}

/// Returns the default configuration, changed by these sections.
pub fn config(sections: &str) -> Config {
    let folder = TempDir::with_prefix("redeliver-test-").expect("a folder can be made");
    let file = folder.path().join("redeliver.toml");
    fs::write(&file, sections).expect("the folder can be written to");
    Config::load(Some(&file)).expect("the test's configuration has no faults")
}

/// Returns the section of the configuration that makes Redeliver sign return paths.
pub fn verp_section() -> String {
    format!("[verp]\ndomain = \"{DOMAIN}\"\nkey = \"{KEY}\"\n")
}

/// Returns the signer of return paths that [`verp_section`] configures.
pub fn verp() -> Verp {
    Verp::new(DOMAIN, KEY.as_bytes(), Duration::from_secs(30 * 86_400))
}
