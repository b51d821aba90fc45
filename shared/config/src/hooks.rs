//! `[intake.hooks.<service>]`: which mail services may post their events, and how each one
//! authenticates its requests.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::account::Account;
use typed_toml::fault::SettingsFault;
use typed_toml::names::read_plain;
use typed_toml::secret::Secret;
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set};

/// The default of `window`. Some services retry for eight hours.
const WINDOW: Duration = Duration::from_secs(12 * 3_600);

/// The longest window. Seen requests are remembered for at least as long.
const WINDOW_MAX: Duration = Duration::from_secs(7 * 86_400);

/// A mail service that posts events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Amazon SES, by way of SNS.
    Ses,
    /// SendGrid's event webhook.
    SendGrid,
    /// Mailgun's webhooks.
    Mailgun,
    /// Postmark's webhooks.
    Postmark,
    /// SparkPost's event webhook.
    SparkPost,
    /// KumoMTA's log hooks.
    KumoMta,
}

/// The settings of one service's hook.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The tenant that its mail belongs to.
    pub account: Account,
    /// Whether a message that the service itself still retries starts a job.
    pub deferrals: bool,
    /// SES: the accepted topics. An entry that ends with `*` accepts every topic with that
    /// beginning.
    pub topics: Vec<String>,
    /// Postmark, SparkPost: the user in basic authentication.
    pub user: Option<String>,
    /// The secret that proves the service's requests: a public key, a signing key, a password or a
    /// token.
    pub secret: Option<Secret>,
    /// SES, SendGrid, Mailgun: how long a request is accepted after it was signed.
    pub window: Duration,
}

/// The hooks of all services that are configured.
#[derive(Clone, Debug, Default)]
pub struct Hooks(BTreeMap<Service, Hook>);

impl Service {
    /// Every service.
    pub const ALL: [Self; 6] = [
        Self::Ses,
        Self::SendGrid,
        Self::Mailgun,
        Self::Postmark,
        Self::SparkPost,
        Self::KumoMta,
    ];

    /// Returns its name in URLs, configuration keys and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ses => "ses",
            Self::SendGrid => "sendgrid",
            Self::Mailgun => "mailgun",
            Self::Postmark => "postmark",
            Self::SparkPost => "sparkpost",
            Self::KumoMta => "kumomta",
        }
    }

    /// Returns the service with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|service| service.as_str() == name)
    }

    /// Returns the key, with its section, that must be set before requests are accepted.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Ses => "intake.hooks.ses.topics",
            Self::SendGrid => "intake.hooks.sendgrid.public_key",
            Self::Mailgun => "intake.hooks.mailgun.signing_key_file",
            Self::Postmark => "intake.hooks.postmark.password_file",
            Self::SparkPost => "intake.hooks.sparkpost.password_file",
            Self::KumoMta => "intake.hooks.kumomta.token_file",
        }
    }

    /// Returns the keys of its secret: the key for the secret itself, and the key for its file.
    const fn secret_keys(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Ses => None,
            Self::SendGrid => Some(["public_key", "public_key_file"]),
            Self::Mailgun => Some(["signing_key", "signing_key_file"]),
            Self::Postmark | Self::SparkPost => Some(["password", "password_file"]),
            Self::KumoMta => Some(["token", "token_file"]),
        }
    }

    const fn has_user(self) -> bool {
        matches!(self, Self::Postmark | Self::SparkPost)
    }

    const fn is_signed(self) -> bool {
        matches!(self, Self::Ses | Self::SendGrid | Self::Mailgun)
    }
}

impl Default for Hook {
    fn default() -> Self {
        Self {
            account: Account::default(),
            deferrals: true,
            topics: Vec::new(),
            user: None,
            secret: None,
            window: WINDOW,
        }
    }
}

impl Hooks {
    /// Returns the hook of a service, if it is configured.
    pub fn get(&self, service: Service) -> Option<&Hook> {
        self.0.get(&service)
    }

    /// Sets the hook of a service.
    pub fn set(&mut self, service: Service, hook: Hook) {
        self.0.insert(service, hook);
    }

    /// Reads `[intake.hooks]`.
    pub(crate) fn read(&mut self, hooks: &mut Section<'_, '_>) {
        for service in Service::ALL {
            let mut hook = self.0.get(&service).cloned().unwrap_or_default();
            if hooks
                .within(service.as_str(), |section| hook.read(service, section))
                .is_some()
            {
                self.0.insert(service, hook);
            }
        }
    }

    /// Reports faults that can be found only after all layers are read.
    pub(crate) fn check(&self, faults: &mut Vec<SettingsFault>) {
        for (service, hook) in &self.0 {
            let is_incomplete = match service {
                Service::Ses => hook.topics.is_empty(),
                service => hook.secret.is_none() || (service.has_user() && hook.user.is_none()),
            };
            if is_incomplete {
                let user = if service.has_user() {
                    "; this key and user are both needed"
                } else {
                    ""
                };
                let text = format!("is not set, so forged requests could not be detected{user}");
                faults.push(SettingsFault {
                    file: "all files".to_owned(),
                    key: service.key().to_owned(),
                    text,
                });
            }
        }
    }
}

impl Hook {
    fn read(&mut self, service: Service, section: &mut Section<'_, '_>) {
        if let Some(name) = section.text("account") {
            match Account::parse(name) {
                Ok(account) => self.account = account,
                Err(why) => section.fault("account", why.to_string()),
            }
        }
        set(&mut self.deferrals, section.switch("deferrals"));
        if service == Service::Ses {
            let topics: Vec<String> = section
                .texts("topics")
                .into_iter()
                .map(str::to_owned)
                .collect();
            for topic in topics.iter().filter(|topic| !is_topic(topic)) {
                let text = format!(
                    "{topic:?} is not a topic like \"arn:aws:sns:eu-west-1:123456789012:bounces\""
                );
                section.fault("topics", text);
            }
            if section.has("topics") {
                self.topics = topics;
            }
        }
        if service.has_user() {
            let user = read_plain(section, "user");
            if user.is_some_and(|user| user.contains(':')) {
                section.fault(
                    "user",
                    "must not contain a colon, which ends the user in basic authentication",
                );
            }
            set(&mut self.user, user.map(|user| Some(user.to_owned())));
        }
        if service.is_signed() {
            set(
                &mut self.window,
                section.duration("window", 60 * SECOND..=WINDOW_MAX),
            );
        }
        let secret = service
            .secret_keys()
            .and_then(|keys| Secret::read(section, keys));
        if let Some((key, secret)) = secret {
            if secret.reveal().trim_ascii().is_empty() {
                section.fault(key, "is empty");
            }
            self.secret = Some(secret);
        }
    }
}

/// Whether a text can be the name of a topic, or the beginning of one followed by a star.
fn is_topic(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    name.starts_with("arn:")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::DEFAULT;
    use crate::model::Config;
    use typed_toml::fault::SettingsFaults;

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Config, SettingsFaults> {
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        Config::from_layers(
            &[("default.toml", DEFAULT), ("mine.toml", file)],
            &variables,
        )
    }

    #[test]
    fn secrets_come_from_files_or_the_environment_and_are_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "geheim\n").unwrap();
        let text = format!(
            "[intake.hooks.mailgun]\naccount = \"acme\"\nsigning_key_file = \"{}\"\n\
             [intake.hooks.postmark]\nuser = \"pm\"",
            file.display()
        );
        let config = read(
            &text,
            &[("REDELIVER_INTAKE__HOOKS__POSTMARK__PASSWORD", "wachsam")],
        )
        .unwrap();
        let mailgun = config.hooks.get(Service::Mailgun).unwrap();
        assert_eq!(
            (
                mailgun.account.as_str(),
                &*mailgun.secret.as_ref().unwrap().reveal_text()
            ),
            ("acme", "geheim")
        );
        let postmark = config.hooks.get(Service::Postmark).unwrap();
        assert_eq!(
            (
                postmark.user.as_deref(),
                &*postmark.secret.as_ref().unwrap().reveal_text()
            ),
            (Some("pm"), "wachsam")
        );
        assert!(config.hooks.get(Service::Ses).is_none());
        assert!(
            !format!("{config:?}").contains("geheim") && !format!("{config:?}").contains("wachsam")
        );
    }

    #[test]
    fn a_hook_whose_requests_could_be_forged_is_a_fault() {
        for (text, key) in [
            ("[intake.hooks.ses]\ntopics = []", "intake.hooks.ses.topics"),
            (
                "[intake.hooks.mailgun]\naccount = \"acme\"",
                "intake.hooks.mailgun.signing_key_file",
            ),
            (
                "[intake.hooks.mailgun]\nsigning_key = \" \"",
                "intake.hooks.mailgun.signing_key",
            ),
            (
                "[intake.hooks.postmark]\npassword = \"x\"",
                "intake.hooks.postmark.password_file",
            ),
            (
                "[intake.hooks.kumomta]\ntoken = \"x\"\ntoken_file = \"/dev/null\"",
                "intake.hooks.kumomta.token_file",
            ),
            (
                "[intake.hooks.kumomta]\nuser = \"x\"",
                "intake.hooks.kumomta.user",
            ),
            (
                "[intake.hooks.mailgun]\nsigning_key = \"x\"\nwindow = \"30d\"",
                "intake.hooks.mailgun.window",
            ),
            (
                "[intake.hooks.mailjet]\ntoken = \"x\"",
                "intake.hooks.mailjet",
            ),
        ] {
            let faults = read(text, &[]).unwrap_err();
            assert!(
                faults.0.iter().any(|fault| fault.key == key),
                "{text}: {faults}"
            );
        }
    }
}
