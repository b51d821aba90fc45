//! Side fields: a bounce or fact is of use without them. One that cannot be used is left out, with
//! a warning in the answer.

use domain::bounce::Warning;

use super::refusal::Refusal;

/// Reads the side fields of one item, and collects the warnings about them.
#[derive(Debug)]
pub(in crate::intake) struct SideFields {
    /// Whether the item is the report of another system. Nobody can correct it and send it again,
    /// so more of its fields are side fields.
    is_reported: bool,
    warnings: Vec<Warning>,
}

impl SideFields {
    /// Continues with the warnings that there are already.
    pub(in crate::intake) fn new(is_reported: bool, warnings: Vec<Warning>) -> Self {
        Self {
            is_reported,
            warnings,
        }
    }

    /// Returns the value of a side field. If it cannot be used, adds a warning and returns nothing.
    pub(in crate::intake) fn read<T>(&mut self, field: Result<Option<T>, Refusal>) -> Option<T> {
        field.unwrap_or_else(|refusal| {
            self.warnings.push(Warning::from(refusal));
            None
        })
    }

    /// The same for a field that is a side field only in the report of another system.
    ///
    /// # Errors
    /// If it cannot be used, and the item is no such report.
    pub(in crate::intake) fn read_reported<T>(
        &mut self,
        field: Result<Option<T>, Refusal>,
    ) -> Result<Option<T>, Refusal> {
        if self.is_reported {
            Ok(self.read(field))
        } else {
            field
        }
    }

    /// Returns the warnings.
    pub(in crate::intake) fn into_warnings(self) -> Vec<Warning> {
        self.warnings
    }
}

/// The value is left out, because it may name a person.
impl From<Refusal> for Warning {
    fn from(refusal: Refusal) -> Self {
        Self {
            field: refusal.field.unwrap_or_default(),
            reason: refusal.reason,
        }
    }
}
