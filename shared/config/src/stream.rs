//! `[intake.stream]`: whether bounces are read from a Redis stream, and how many at a time.

use typed_toml::section::Section;
use typed_toml::set::{set, set_number};

/// `[intake.stream]`
#[derive(Clone, Copy, Debug, Default)]
pub struct Stream {
    /// Whether this scheduler reads the stream.
    pub enabled: bool,
    /// How many entries it reads at a time.
    pub batch: usize,
}

impl Stream {
    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        set(&mut self.enabled, section.switch("enabled"));
        set_number(&mut self.batch, section.number("batch", 1..=10_000));
    }
}
