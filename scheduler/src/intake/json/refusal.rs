//! Why an item that came in is refused, with what whoever sent it needs to mend it.

use serde_json::{Value, json};

/// How much of a refused value is given back, in characters.
pub(super) const VALUE_CHARS: usize = 80;

/// Why something is not a bounce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The field, where one is to blame.
    pub field: Option<String>,
    /// Its value, shortened.
    pub value: Option<String>,
    /// What is wrong, and what is allowed.
    pub reason: String,
    /// The line that it stood on, where it came as one of many lines.
    pub line: Option<u64>,
}

impl Refusal {
    /// A refusal of a whole item.
    pub fn whole(reason: impl Into<String>) -> Self {
        Self {
            field: None,
            value: None,
            reason: reason.into(),
            line: None,
        }
    }

    pub(in crate::intake) fn of(
        field: &str,
        value: Option<&Value>,
        reason: impl Into<String>,
    ) -> Self {
        let value = value.map(|value| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            text.chars().take(VALUE_CHARS).collect()
        });
        Self {
            field: Some(field.chars().take(VALUE_CHARS).collect()),
            value,
            reason: reason.into(),
            line: None,
        }
    }

    /// The same, of something that is within this field.
    pub(in crate::intake) fn within(self, outer: &str) -> Self {
        let field = self
            .field
            .map_or_else(|| outer.to_owned(), |inner| format!("{outer}.{inner}"));
        Self {
            field: Some(field),
            ..self
        }
    }

    /// What is wrong, without the value, which may name a person.
    pub fn without_value(&self) -> String {
        self.field.as_ref().map_or_else(
            || self.reason.clone(),
            |field| format!("{field}: {}", self.reason),
        )
    }

    /// The refusal as the API gives it.
    pub fn to_wire(&self) -> Value {
        let mut wire = json!({"answer": "refused", "reason": self.reason});
        for (key, part) in [("field", &self.field), ("value", &self.value)] {
            if let Some(text) = part {
                wire[key] = text.as_str().into();
            }
        }
        if let Some(line) = self.line {
            wire["line"] = line.into();
        }
        wire
    }
}
