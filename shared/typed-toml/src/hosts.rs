//! Rules that match hosts: one host by its name or address, or all hosts below a name.

use std::fmt;
use std::str::FromStr;

use url::Host;

use crate::section::Section;

/// A rule: `mail.example.com`, `192.0.2.1`, or `*.example.com` for all hosts below `example.com`,
/// but not `example.com` itself. Names are stored in lower case, and in Punycode if they are not
/// ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// The host. If the rule is a wildcard, the name above all its hosts.
    host: String,
    /// Whether the rule matches all hosts below the name.
    is_wildcard: bool,
}

/// The error for a text that is not a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a host like \"mail.example.com\", nor \"*.example.com\" for all hosts below a name"
)]
pub struct NotAHostRule;

impl HostRule {
    /// Whether the rule matches this host. The host must be in the form in which rules store names:
    /// in lower case, and in Punycode if it is not ASCII.
    pub fn covers(&self, host: &str) -> bool {
        if !self.is_wildcard {
            return host == self.host;
        }
        host.strip_suffix(&self.host)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|labels| !labels.is_empty())
    }

    /// Reads a list of rules. Each text that is not a rule is a fault.
    pub fn read_all(section: &mut Section<'_, '_>, key: &'static str) -> Vec<Self> {
        let mut rules = Vec::new();
        for text in section.texts(key) {
            match text.parse() {
                Ok(rule) => rules.push(rule),
                Err(NotAHostRule) => section.fault(key, format!("\"{text}\" {NotAHostRule}")),
            }
        }
        rules
    }
}

impl FromStr for HostRule {
    type Err = NotAHostRule;

    fn from_str(text: &str) -> Result<Self, NotAHostRule> {
        let (name, is_wildcard) = text
            .strip_prefix("*.")
            .map_or((text, false), |name| (name, true));
        match Host::parse(name).map_err(|_| NotAHostRule)? {
            Host::Domain(name) if name.contains('*') || name.split('.').any(str::is_empty) => {
                Err(NotAHostRule)
            }
            Host::Ipv4(_) | Host::Ipv6(_) if is_wildcard => Err(NotAHostRule),
            host => Ok(Self {
                host: host.to_string(),
                is_wildcard,
            }),
        }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            if self.is_wildcard { "*." } else { "" },
            self.host
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_matches_one_host_or_all_hosts_below_a_name() {
        for (rule, host, covered) in [
            ("mail.example.com", "mail.example.com", true),
            ("MAIL.example.com", "mail.example.com", true),
            ("mail.example.com", "a.mail.example.com", false),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", ".example.org", false),
            ("*.example.org", "notexample.org", false),
            ("*.example.org", "example.org.evil.example", false),
            ("bücher.example", "xn--bcher-kva.example", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("[2001:db8::1]", "[2001:db8::1]", true),
            ("localhost", "localhost", true),
        ] {
            assert_eq!(
                rule.parse::<HostRule>().unwrap().covers(host),
                covered,
                "{rule} {host}"
            );
        }
    }

    #[test]
    fn a_text_that_is_not_a_host_is_not_a_rule() {
        for text in [
            "",
            "*",
            "*.",
            "*example.org",
            "a.*.example.org",
            "*.*.example.org",
            "example.org.",
            "*.192.0.2.1",
            "mail.example.com:443",
            "https://mail.example.com",
            "jo@example.com",
            "a b",
            ".example.org",
        ] {
            assert_eq!(text.parse::<HostRule>(), Err(NotAHostRule), "{text}");
        }
        for rule in ["mail.example.com", "*.example.org"] {
            assert_eq!(rule.parse::<HostRule>().unwrap().to_string(), rule);
        }
    }
}
