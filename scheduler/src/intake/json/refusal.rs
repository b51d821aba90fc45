//! Why an item is refused, with what its sender needs to correct it.

use domain::account::{Account, Accounts};
use serde_json::{Value, json};

/// How many characters of a refused value and of its field's name a refusal contains.
pub(super) const VALUE_CHARS: usize = 80;

/// Why an item is not a bounce or fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The wrong field, if only one field is wrong.
    pub field: Option<String>,
    /// The value of the field, shortened.
    pub value: Option<String>,
    /// What is wrong, and what is allowed.
    pub reason: String,
    /// The number of the item's line, if it was sent as one of many lines.
    pub line: Option<u64>,
}

impl Refusal {
    /// Returns a refusal of the whole item.
    pub fn whole(reason: impl Into<String>) -> Self {
        Self {
            field: None,
            value: None,
            reason: reason.into(),
            line: None,
        }
    }

    /// Returns a refusal of one field.
    pub(in crate::intake) fn of_field(
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

    /// Returns a refusal of an item of this account, because its client may only act for these
    /// accounts.
    pub(crate) fn of_account(account: &Account, accounts: &Accounts) -> Self {
        let hint = if *account == Account::default() {
            "; without an account it is \"default\""
        } else {
            ""
        };
        let reason = format!("the token is only for {accounts}{hint}");
        Self::of_field("account", Some(&account.as_str().into()), reason)
    }

    /// Returns the same refusal, but its field is now a field within `outer`.
    pub(in crate::intake) fn within(self, outer: &str) -> Self {
        let field = self
            .field
            .map_or_else(|| outer.to_owned(), |inner| format!("{outer}.{inner}"));
        Self {
            field: Some(field),
            ..self
        }
    }

    /// Returns field and reason as text. Leaves out the value, because it may name a person.
    pub fn without_value(&self) -> String {
        self.field.as_ref().map_or_else(
            || self.reason.clone(),
            |field| format!("{field}: {}", self.reason),
        )
    }

    /// Returns the refusal in the form of the API.
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
