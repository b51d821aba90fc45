//! Faults in a file of settings. Each names the file, the key, and what is allowed there.

use std::borrow::Cow;
use std::fmt;

/// One fault in a file of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFault {
    /// The file, or the environment variable, that contains it.
    pub file: String,
    /// The key with its section, for example `worker.lease`.
    pub key: String,
    /// What is wrong, and what is allowed.
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

/// Returns the text with its control characters escaped. Otherwise a name that contains a line end
/// could look like another line of the log.
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
    /// The fault of a `file` that is not TOML. It contains the number of the line, but not the line
    /// itself, which may contain a secret.
    pub fn syntax(file: &str, content: &str, err: &toml::de::Error) -> Self {
        let line = err.span().map_or(1, |span| {
            1 + content[..span.start.min(content.len())]
                .matches('\n')
                .count()
        });
        let text = format!("line {line} is not TOML: {}", err.message());
        Self {
            file: file.to_owned(),
            key: "syntax".to_owned(),
            text,
        }
    }
}

/// All faults of a set of files. It is displayed with one line per fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct SettingsFaults(pub Vec<SettingsFault>);
