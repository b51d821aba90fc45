//! Cron expressions in the configuration.

use typed_toml::section::Section;
use typed_toml::set::SECOND;

/// The longest allowed time between two runs of a task, in seconds.
const YEAR: u32 = 366 * 86_400;

/// Reads a cron expression. An expression that fires less than once a year, such as one for 30
/// February, is a fault.
pub(crate) fn read_cron<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let expression = section.text(key)?;
    match expression.parse::<cron::Schedule>() {
        Err(_) => section.fault(key, why_invalid(expression)),
        Ok(schedule) => {
            let now = chrono::Utc::now();
            let fires = schedule.after(&now).next().is_some_and(|next| {
                next - now <= chrono::Duration::from_std(SECOND * YEAR).unwrap_or_default()
            });
            if fires {
                return Some(expression);
            }
            section.fault(
                key,
                format!("{expression:?} does not fire within a year; the task must run regularly"),
            );
        }
    }
    None
}

/// Returns why an expression is invalid. The parser's own message has several lines and carets, and
/// is not shown.
fn why_invalid(expression: &str) -> String {
    let fields = expression.split_whitespace().count();
    // A year may follow, and `@daily` is a single word.
    if matches!(fields, 6 | 7) || expression.trim_start().starts_with('@') {
        return format!(
            "{expression:?} is not a cron expression; its fields are second minute hour day month \
             weekday, and a year may follow"
        );
    }
    if fields == 5 {
        return format!(
            "{expression:?} has 5 fields; 6 are needed, the first is seconds: put 0 before it, \
             as in \"0 {}\"",
            expression.trim()
        );
    }
    let noun = if fields == 1 { "field" } else { "fields" };
    format!(
        "{expression:?} has {fields} {noun}; 6 are needed, the first is seconds (second minute \
         hour day month weekday)"
    )
}
