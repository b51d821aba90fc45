//! Cron expressions in the configuration.

use typed_toml::section::Section;
use typed_toml::set::SECOND;

/// How seldom a periodic task may run: once within this.
const YEAR: u32 = 366 * 86_400;

/// Reads a cron expression. One that fires less than once a year is a mistake, such as 30 February.
pub(crate) fn read_cron<'a>(section: &mut Section<'a, '_>, key: &'static str) -> Option<&'a str> {
    let expression = section.text(key)?;
    match expression.parse::<cron::Schedule>() {
        Err(_) => section.fault(key, why_no_cron(expression)),
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
                format!(
                    "{expression:?} does not fire within a year; the task has to run now and then"
                ),
            );
        }
    }
    None
}

/// Why an expression is none. What the parser says of it has lines and carets, and is not shown.
fn why_no_cron(expression: &str) -> String {
    let fields = expression.split_whitespace().count();
    // A year may follow, and `@daily` is one word.
    if matches!(fields, 6 | 7) || expression.trim_start().starts_with('@') {
        return format!(
            "{expression:?} is no cron expression; its fields are second minute hour day month \
             weekday, and a year may follow"
        );
    }
    let noun = if fields == 1 { "field" } else { "fields" };
    format!(
        "{expression:?} has {fields} {noun}; 6 are needed, the first is seconds (second minute \
         hour day month weekday)"
    )
}
