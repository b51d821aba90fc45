//! Replaces default values with values that were read.

use std::time::Duration;

/// One second. The bounds of settings are multiples of it.
pub const SECOND: Duration = Duration::from_secs(1);

/// One day.
pub const DAY: Duration = Duration::from_secs(86_400);

/// Sets `target` if there is a value.
pub fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

/// Sets `target` if there is a number that fits into the type.
pub fn set_number<T: TryFrom<u64>>(target: &mut T, value: Option<u64>) {
    set(target, value.and_then(|number| T::try_from(number).ok()));
}
