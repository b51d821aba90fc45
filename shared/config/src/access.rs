//! `[access]`: which tokens the API accepts.

use std::path::PathBuf;

use signing::api_token::Grant;
use typed_toml::section::Section;
use typed_toml::set::set;

/// `[access]`
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Whether requests without a token may do everything, on any address that the scheduler
    /// listens on.
    pub open: bool,
    /// The file with one grant per line. It is read again when it changes.
    pub tokens_file: Option<PathBuf>,
    /// Grants in the configuration itself or in the environment.
    pub tokens: Vec<Grant>,
    /// Requests per second for each token without a limit of its own. If `None`, there is no limit.
    pub rate: Option<f64>,
}

impl Access {
    pub(crate) fn read(&mut self, section: &mut Section<'_, '_>) {
        set(&mut self.open, section.switch("open"));
        set(
            &mut self.tokens_file,
            section.text("tokens_file").map(|path| Some(path.into())),
        );
        if section.has("tokens") {
            let text = section.texts("tokens").join("\n");
            match Grant::parse_all(&text) {
                Ok(grants) => self.tokens = grants,
                Err(faults) => faults
                    .into_iter()
                    .for_each(|why| section.fault("tokens", why)),
            }
        }
        if let Some(rate) = section.fraction("rate", 0.0..=1_000_000.0) {
            self.rate = Some(rate).filter(|rate| *rate > 0.0);
        }
    }

    /// Whether any tokens are configured.
    pub fn has_tokens(&self) -> bool {
        self.tokens_file.is_some() || !self.tokens.is_empty()
    }
}
