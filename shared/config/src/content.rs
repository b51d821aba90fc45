//! `[content]`: where the content of messages may be read from, and how much of it is kept.

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
    /// Folders that files may lie in.
    pub roots: Vec<PathBuf>,
    /// What the URLs of content may begin with.
    pub stores: Vec<Url>,
    /// Bytes of one message's content.
    pub max: usize,
    /// Bytes that content takes in memory in all: what attempts hold, and what is kept.
    pub memory: usize,
    /// Bytes of it that are kept for other messages that have the same content.
    pub cache: usize,
    /// For how long.
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
                        "{:?} is no absolute path like \"/srv/mail\"",
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
                    format!("\"{text}\" has no TLS; write https://, for http:// is for stores on this machine alone"),
                ),
                Some(url) if CONTENT_SCHEMES.contains(&url.scheme()) && url.host_str().is_some() => {
                    self.stores.push(url);
                }
                _ => section.fault(
                    "stores",
                    format!(
                        "{text:?} is no URL like \"s3://bucket/folder\"; schemes are {}",
                        CONTENT_SCHEMES.join(", ")
                    ),
                ),
            }
        }
        set(&mut self.max, section.size("max", 1 << 10..=1 << 30));
        set(&mut self.cache, section.size("cache", 0..=1 << 40));
        set(&mut self.memory, section.size("memory", 1 << 10..=1 << 40));
        // While content is read it may be there three times: as it came, and as it goes out.
        let least = self.cache.saturating_add(self.max.saturating_mul(3));
        if self.memory < least {
            section.fault(
                "memory",
                format!("has to be at least cache and 3 times max, which are {least} bytes"),
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
