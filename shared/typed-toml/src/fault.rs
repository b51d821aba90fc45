//! What is wrong in a file of settings: the file, the key, and what is allowed there.

use std::borrow::Cow;
use std::fmt;

/// One thing that is wrong in a file of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFault {
    /// The file, or the environment variable, that holds it.
    pub file: String,
    /// The key, with its section: `worker.lease`.
    pub key: String,
    /// What is wrong with it and what is allowed.
    pub text: String,
}

impl fmt::Display for SettingsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}",
            self.file,
            on_one_line(&self.key),
            on_one_line(&self.text)
        )
    }
}

/// The text with its control characters escaped, so that a name with a line end in it cannot
/// pretend to be another line of the log.
fn on_one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let shown = text.chars().map(|c| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    });
    shown.collect::<String>().into()
}

impl SettingsFault {
    /// The text of `file` is no TOML. Says where, and does not show the line, for it may hold a
    /// secret.
    pub fn syntax(file: &str, content: &str, err: &toml::de::Error) -> Self {
        let line = err.span().map_or(1, |span| {
            1 + content[..span.start.min(content.len())]
                .matches('\n')
                .count()
        });
        let text = format!("line {line} is no TOML: {}", err.message());
        Self {
            file: file.to_owned(),
            key: "syntax".to_owned(),
            text,
        }
    }
}

/// Everything that is wrong in a set of files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct SettingsFaults(pub Vec<SettingsFault>);
