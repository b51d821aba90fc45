//! A mailbox such as `jo@example.com`, in the one canonical form that job ids, Redis keys and
//! standings use (RFC 5321, section 4.1.2; RFC 6531). Addresses are personal data: printing one
//! shows it redacted, and only [`Address::as_str`] returns it whole.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use icu_normalizer::ComposingNormalizer;
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod characters;

/// The longest local part, in octets. The 64 octets of RFC 5321, section 4.5.3.1.1 are what every
/// system must be able to handle, not a bound: return paths of forwarders and mail services are
/// longer.
pub const MAX_LOCAL: usize = 256;

/// The longest address, in octets: a local part, an `@`, and a domain of at most 253 octets.
pub const MAX_ADDRESS: usize = MAX_LOCAL + 1 + 253;

/// The longest text that is parsed at all, in bytes. It is larger than [`MAX_ADDRESS`] because a
/// domain in Unicode may take more octets than its ASCII form.
const MAX_INPUT: usize = 2048;

/// The characters that no domain may contain, besides upper-case letters, which are changed to
/// lower case. Underscores are allowed: host names do not have them, but domains in the DNS do, and
/// they receive mail.
const DENIED: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// A mailbox in canonical form. Two spellings of one mailbox are equal. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    text: Arc<str>,
    /// Byte position of the `@` between local part and domain. A quoted local part may contain
    /// more `@` characters.
    at: usize,
}

/// Why a text is not an [`Address`]. The messages never repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is empty, or there is nothing between its angle brackets.
    #[error("the address is empty: write local@domain")]
    Empty,
    /// It contains a control character, such as a line end, which could inject an SMTP command.
    #[error("the address has a control character, such as a line break: remove it")]
    ControlCharacter,
    /// It contains no `@`.
    #[error("the address has no @: write local@domain")]
    NoAt,
    /// It is longer than [`MAX_ADDRESS`].
    #[error("the address is too long: at most {MAX_ADDRESS} octets are allowed")]
    TooLong,
    /// The local part is longer than [`MAX_LOCAL`].
    #[error("the local part is too long: at most {MAX_LOCAL} octets are allowed before the @")]
    LocalTooLong,
    /// The local part contains an invisible character, or one that readers cannot distinguish from
    /// another.
    #[error(
        "the local part has a character that is invisible, is not assigned, or replaces bytes \
         that could not be decoded: letters, marks, digits, punctuation and symbols are allowed"
    )]
    Character,
    /// The local part is neither a dot-string nor a quoted string.
    #[error(
        "the local part is not valid: letters, digits, dots and !#$%&'*+-/=?^_`{{|}}~ are allowed; \
         anything else needs double quotes around the whole"
    )]
    Local,
    /// The domain is not a host name.
    #[error(
        "the domain is not valid: labels of letters, digits, underscores and inner hyphens are \
         allowed, with single dots between them, 63 octets each and 253 in all; an IP address \
         needs square brackets"
    )]
    Domain,
    /// The text in square brackets is not an IP address.
    #[error("the domain literal is not valid: [192.0.2.1] and [IPv6:2001:db8::1] are allowed")]
    Literal,
}

impl Address {
    /// Reads an address and returns it in canonical form:
    ///
    /// - Spaces around it and one pair of angle brackets are removed. Nothing else is repaired.
    /// - The local part keeps its case (RFC 5321, section 2.4), is normalized to NFC, and is quoted
    ///   only if it needs quotes. Dots in places that a dot-string does not allow (`jo..doe`,
    ///   `jo.`) need quotes, but some providers gave out such addresses without them. So they are
    ///   read as the quoted form of the same mailbox.
    /// - The domain becomes lower-case ASCII by UTS 46, without a trailing dot, or is an IP address
    ///   in brackets.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_INPUT {
            return Err(AddressError::TooLong);
        }
        if text.contains(char::is_control) {
            return Err(AddressError::ControlCharacter);
        }
        let text = text.trim_matches(' ');
        let text = text
            .strip_prefix('<')
            .and_then(|inner| inner.strip_suffix('>'))
            .unwrap_or(text);
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        // A domain contains no @, but a quoted local part may.
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NoAt)?;
        let local = canonical_local(local)?;
        let domain = match domain.strip_prefix('[') {
            Some(literal) => canonical_literal(literal)
                .ok_or(AddressError::Literal)?
                .into(),
            None if is_plain_host(domain) => Cow::Borrowed(domain),
            None => canonical_domain(domain).ok_or(AddressError::Domain)?.into(),
        };
        let text = format!("{local}@{domain}");
        if text.len() > MAX_ADDRESS {
            return Err(AddressError::TooLong);
        }
        Ok(Self {
            text: text.into(),
            at: local.len(),
        })
    }

    /// Reads an address that this program wrote, so it is already in canonical form. This is much
    /// cheaper than [`Self::parse`], but still rejects everything that could inject an SMTP
    /// command.
    pub fn from_canonical(text: &str) -> Result<Self, AddressError> {
        if text.bytes().any(|b| b.is_ascii_control()) {
            return Err(AddressError::ControlCharacter);
        }
        let at = text.rfind('@').ok_or(AddressError::NoAt)?;
        Ok(Self {
            text: text.into(),
            at,
        })
    }

    /// Returns the whole address, `local@domain`: for SMTP and the store, never for logs.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the part before the `@`, with quotes if it needs them.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// Returns the domain in lower-case ASCII, or the IP address with its square brackets.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// Whether mail can be sent to the address without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

/// Returns the local part as a dot-string if possible, else as a quoted string with as few escapes
/// as possible.
fn canonical_local(local: &str) -> Result<Cow<'_, str>, AddressError> {
    // Fast path: nearly all local parts are canonical ASCII dot-strings already.
    if local.is_ascii() && is_dot_string(local) {
        return if local.len() > MAX_LOCAL {
            Err(AddressError::LocalTooLong)
        } else {
            Ok(local.into())
        };
    }
    let content = match local.strip_prefix('"') {
        Some(quoted) => Cow::Owned(unquote(quoted).ok_or(AddressError::Local)?),
        None => Cow::Borrowed(local),
    };
    // NFC turns some characters into ASCII (U+037E into a semicolon), so characters are checked
    // after normalization.
    let content = ComposingNormalizer::new_nfc().normalize(&content);
    if !characters::are_visible(&content) {
        return Err(AddressError::Character);
    }
    let canonical = if is_dot_string(&content) {
        content.into_owned()
    } else if local.starts_with('"') || is_dotted(&content) {
        format!("\"{}\"", content.replace('\\', r"\\").replace('"', r#"\""#))
    } else {
        return Err(AddressError::Local);
    };
    if canonical.len() > MAX_LOCAL {
        Err(AddressError::LocalTooLong)
    } else {
        Ok(canonical.into())
    }
}

/// Returns the content of a quoted string, given the text after its opening quote. Returns `None`
/// unless the text ends with the closing quote.
fn unquote(quoted: &str) -> Option<String> {
    let mut content = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(content),
            '\\' => content.push(chars.next().filter(char::is_ascii)?),
            c => content.push(c),
        }
    }
}

/// Whether `local` is a Dot-string (RFC 5321, section 4.1.2, with the atext of RFC 6531, section
/// 3.3).
fn is_dot_string(local: &str) -> bool {
    local
        .split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// Whether `local` would be a Dot-string if its dots were in other places.
fn is_dotted(local: &str) -> bool {
    local.contains(is_atext) && local.chars().all(|c| c == '.' || is_atext(c))
}

fn is_atext(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

/// Whether a domain is a host name that [`canonical_domain`] would not change: labels of lower-case
/// letters, digits, underscores and inner hyphens, no label in Punycode, and a last label that is
/// not all digits. Nearly all domains are such names.
fn is_plain_host(domain: &str) -> bool {
    let is_plain = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
            && !label.starts_with("xn--")
    };
    let is_numeric = domain
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    domain.len() <= 253 && !is_numeric && domain.split('.').all(is_plain)
}

/// Returns the host name in lower-case ASCII (UTS 46, non-transitional), without the root's dot.
fn canonical_domain(domain: &str) -> Option<String> {
    let ascii = Uts46::new()
        .to_ascii(
            domain.as_bytes(),
            DENIED,
            Hyphens::CheckFirstLast,
            DnsLength::VerifyAllowRootDot,
        )
        .ok()?;
    let host = ascii.strip_suffix('.').unwrap_or(&ascii);
    // Top-level domains are not numeric (RFC 1123, section 2.1), so this is an IP address without
    // its brackets.
    let last = host.rsplit('.').next()?;
    (!last.bytes().all(|b| b.is_ascii_digit())).then(|| host.to_owned())
}

/// Returns the address literal (RFC 5321, section 4.1.3) with its IP address in standard spelling,
/// given the text after the opening bracket.
fn canonical_literal(literal: &str) -> Option<String> {
    const IPV6_TAG: &str = "IPv6:";
    let ip = literal.strip_suffix(']')?;
    match ip.split_at_checked(IPV6_TAG.len()) {
        Some((tag, ip)) if tag.eq_ignore_ascii_case(IPV6_TAG) => ip
            .parse()
            .ok()
            .map(|ip: Ipv6Addr| format!("[{IPV6_TAG}{ip}]")),
        _ => ip.parse().ok().map(|ip: Ipv4Addr| format!("[{ip}]")),
    }
}

/// Redacted: `j…@example.com`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self
            .local()
            .chars()
            .find(|&c| c != '"')
            .map(String::from)
            .unwrap_or_default();
        write!(f, "{first}…@{}", self.domain())
    }
}

/// Redacted: `j…@example.com`.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Serde functions for addresses that are already in canonical form, as in the records in Redis.
pub mod canonical {
    use super::{Address, Deserialize, Deserializer, Serializer, de};

    /// Writes the address, if there is one.
    pub fn serialize<S: Serializer>(
        address: &Option<Address>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.serialize_some(address.as_str()),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the address, if there is one.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Address>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| Address::from_canonical(&text))
            .transpose()
            .map_err(de::Error::custom)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_brought_into_canonical_form() {
        for (text, canonical) in [
            ("jo@example.com", "jo@example.com"),
            ("  <Jo.Doe+tag@EXAMPLE.com.> ", "Jo.Doe+tag@example.com"),
            (
                "o'neil!#$%&*/=?^_`{|}~-@a-b.example",
                "o'neil!#$%&*/=?^_`{|}~-@a-b.example",
            ),
            ("postmaster@localhost", "postmaster@localhost"),
            ("jo@xn--bcher-kva.example", "jo@xn--bcher-kva.example"),
            ("jo@BÜCHER.example", "jo@xn--bcher-kva.example"),
            ("jo@例え。テスト。", "jo@xn--r8jz45g.xn--zckzah"),
            ("jo@r3---sn.example", "jo@r3---sn.example"),
            ("用户@example.com", "用户@example.com"),
            ("re\u{301}mi@example.com", "rémi@example.com"),
            (r#""jo"@example.com"#, "jo@example.com"),
            (r#""j\o.d"@example.com"#, "jo.d@example.com"),
            (r#""jo doe"@example.com"#, r#""jo doe"@example.com"#),
            (r#""a@b"@example.com"#, r#""a@b"@example.com"#),
            (r#""a\"\\\ b"@example.com"#, r#""a\"\\ b"@example.com"#),
            (r#""jo."@example.com"#, r#""jo."@example.com"#),
            ("jo.@example.com", r#""jo."@example.com"#),
            (".jo@example.com", r#"".jo"@example.com"#),
            ("Jo..Doe@example.com", r#""Jo..Doe"@example.com"#),
            ("用户..@example.com", "\"用户..\"@example.com"),
            ("jo@mail_host.example", "jo@mail_host.example"),
            ("jo@_Mail.BÜCHER.example", "jo@_mail.xn--bcher-kva.example"),
            (r#"""@example.com"#, r#"""@example.com"#),
            ("jo@[192.0.2.1]", "jo@[192.0.2.1]"),
            ("jo@[ipv6:2001:0DB8:0:0::1]", "jo@[IPv6:2001:db8::1]"),
            ("jo@[IPv6:::ffff:192.0.2.1]", "jo@[IPv6:::ffff:192.0.2.1]"),
        ] {
            let address = Address::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(address.as_str(), canonical);
            assert_eq!(
                format!("{}@{}", address.local(), address.domain()),
                canonical
            );
            assert_eq!(address.is_ascii(), canonical.is_ascii());
            assert_eq!(
                Address::parse(canonical),
                Ok(address.clone()),
                "{canonical} is not stable"
            );
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), canonical);
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }
    }

    #[test]
    fn a_text_that_is_not_an_address_is_rejected() {
        use AddressError::*;
        for (text, error) in [
            ("", Empty),
            (" <> ", Empty),
            ("jo", NoAt),
            (
                "jo@example.com\r\nRCPT TO:<eve@example.com>",
                ControlCharacter,
            ),
            ("jo@example.com\n", ControlCharacter),
            ("j\0o@example.com", ControlCharacter),
            ("j\to@example.com", ControlCharacter),
            ("\"j\u{85}o\"@example.com", ControlCharacter),
            ("@example.com", Local),
            (".@example.com", Local),
            ("jo. doe@example.com", Local),
            ("jo doe@example.com", Local),
            ("Jo <jo@example.com", Local),
            ("< jo@example.com>", Local),
            ("a@b@example.com", Local),
            ("a;b@example.com", Local),
            ("a\u{37e}b@example.com", Local),
            ("jo\u{a0}@example.com", Character),
            ("\"jo\u{202e}\"@example.com", Character),
            ("\u{feff}jo@example.com", Character),
            (r#""jo@example.com"#, Local),
            (r#""jo\"@example.com"#, Local),
            (r#""jo"doe@example.com"#, Local),
            (r#"jo"doe"@example.com"#, Local),
            (r#""j\é"@example.com"#, Local),
            ("jo@", Domain),
            ("jo@.", Domain),
            ("jo@.example", Domain),
            ("jo@example..com", Domain),
            ("jo@example.com..", Domain),
            ("jo@-a.example", Domain),
            ("jo@a*b.example", Domain),
            ("jo@exa mple.com", Domain),
            ("jo@example.com>", Domain),
            ("<<jo@example.com>>", Local),
            ("jo@192.0.2.1", Domain),
            ("jo@xn--a.example", Domain),
            ("jo@a\u{ff20}b.example", Domain),
            ("jo@[192.0.2.1", Literal),
            ("jo@[192.0.2.256]", Literal),
            ("jo@[192.0.2.01]", Literal),
            ("jo@[2001:db8::1]", Literal),
            ("jo@[IPv6:fe80::1%eth0]", Literal),
            ("jo@[IPv6:]", Literal),
            ("jo@[éééé]", Literal),
            ("jo@[x400:c=de]", Literal),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn lengths_are_bounded_in_octets() {
        let domain = |len: usize| vec!["a".repeat(62); 4].join(".")[..len].to_owned();
        for (local, domain, error) in [
            ("a".repeat(256), domain(251), None),
            (
                "a".repeat(257),
                "example.com".to_owned(),
                Some(AddressError::LocalTooLong),
            ),
            (
                "é".repeat(129),
                "example.com".to_owned(),
                Some(AddressError::LocalTooLong),
            ),
            (
                "a".to_owned(),
                format!("{}.example", "a".repeat(64)),
                Some(AddressError::Domain),
            ),
            (
                "a".to_owned(),
                "é.".repeat(9_000),
                Some(AddressError::TooLong),
            ),
        ] {
            assert_eq!(
                Address::parse(&format!("{local}@{domain}")).err(),
                error,
                "{local}@{domain}"
            );
        }
    }

    #[test]
    fn printing_shows_only_the_first_character_and_the_domain() {
        for (text, redacted) in [
            ("jo.doe@example.com", "j…@example.com"),
            ("用户@example.com", "用…@example.com"),
            (r#""jo doe"@example.com"#, "j…@example.com"),
            (r#"""@example.com"#, "…@example.com"),
            ("jo@[192.0.2.1]", "j…@[192.0.2.1]"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(
                format!("{address} {address:?}"),
                format!("{redacted} {redacted}")
            );
        }
        for text in ["secret", "secret@", "sec ret@example.com", "secret@[1]"] {
            let error = Address::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
    }
}
