//! `[content]`: where the content of messages may be read from, and how much of it stays in memory.

use std::path::PathBuf;
use std::time::Duration;

use domain::job::CONTENT_SCHEMES;
use typed_toml::names::{is_this_machine, parse_url};
use typed_toml::section::Section;
use typed_toml::set::{SECOND, set};
use url::Url;

/// `[content]`
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The folders that content files may be in.
    pub roots: Vec<PathBuf>,
    /// The beginnings that URLs of content may have.
    pub stores: Vec<Url>,
    /// The maximum size of one message's content, in bytes.
    pub max: usize,
    /// How many bytes of content may be in memory in all: in attempts and in the cache.
    pub memory: usize,
    /// How many of these bytes the cache keeps, for other messages with the same content.
    pub cache: usize,
    /// How long the cache keeps a content.
    pub cache_for: Duration,
    /// How long reading one content may take.
    pub timeout: Duration,
}

impl Content {
    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        if section.has("roots") {
            self.roots = section
                .texts("roots")
                .into_iter()
                .map(PathBuf::from)
                .collect();
            for root in self.roots.iter().filter(|root| !root.is_absolute()) {
                section.fault(
                    "roots",
                    format!(
                        "{:?} is not an absolute path like \"/srv/mail\"",
                        root.display()
                    ),
                );
            }
        }
        if section.has("stores") {
            self.stores.clear();
        }
        for text in section.texts("stores") {
            match parse_url(text) {
                Some(url) if url.scheme() == "http" && !is_this_machine(&url) => section.fault(
                    "stores",
                    format!(
                        "\"{text}\" does not use TLS; write https://, because http:// is only \
                         allowed for stores on this machine"
                    ),
                ),
                Some(url)
                    if CONTENT_SCHEMES.contains(&url.scheme()) && url.host_str().is_some() =>
                {
                    self.stores.push(url);
                }
                _ => section.fault(
                    "stores",
                    format!(
                        "{text:?} is not a URL like \"s3://bucket/folder\"; allowed schemes are {}",
                        CONTENT_SCHEMES.join(", ")
                    ),
                ),
            }
        }
        set(&mut self.max, section.size("max", 1 << 10..=1 << 30));
        set(&mut self.cache, section.size("cache", 0..=1 << 40));
        set(&mut self.memory, section.size("memory", 1 << 10..=1 << 40));
        // While a content is read, it needs up to 3 times its size in memory: once as it came, and
        // up to twice as much after every line end has become CRLF.
        let least = self.cache.saturating_add(self.max.saturating_mul(3));
        if self.memory < least {
            section.fault(
                "memory",
                format!("must be at least the cache plus 3 times max, {least} bytes"),
            );
        }
        set(
            &mut self.cache_for,
            section.duration("cache_for", SECOND..=86_400 * SECOND),
        );
        set(
            &mut self.timeout,
            section.duration("timeout", SECOND / 10..=3_600 * SECOND),
        );
    }
}
