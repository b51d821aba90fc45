//! Reads `[pace]`, `[breaker]` and `[[destination]]`.

use domain::destination::is_destination_name;
use domain::pace::{
    BURST_ALLOWED, Breaker, DestinationRule, Pace, PaceLimits, RATE_ALLOWED, WINDOW_ALLOWED,
};
use toml::{Table, Value};
use typed_toml::fault::SettingsFault;
use typed_toml::section::Section;
use typed_toml::set::{DAY, SECOND, set, set_number};

pub(crate) fn read_pace(pace: &mut Pace, section: &mut Section<'_, '_>) {
    read_limits(&mut pace.limits, section, "window_max");
    set_number(
        &mut pace.window_new,
        section.number("window_new", 1..=100_000),
    );
    set(
        &mut pace.answered_within,
        section.duration("answered_within", SECOND..=30 * DAY),
    );
    set_number(&mut pace.window, section.number("window", 1..=100_000));
    set_number(
        &mut pace.window_min,
        section.number("window_min", 1..=100_000),
    );
}

/// Reports windows that are larger than `window_max`, the upper limit for every destination. Only
/// `window` may be larger: it is the size at which the fast growth ends, and if it is larger, the
/// growth ends at `window_max`.
pub(crate) fn check_windows(pace: &Pace, faults: &mut Vec<SettingsFault>) {
    let Pace {
        window_new,
        window_min,
        ..
    } = *pace;
    let most = pace.limits.window;
    for (key, window) in [("window_new", window_new), ("window_min", window_min)] {
        if window > most {
            let (file, key) = ("all files".to_owned(), format!("pace.{key}"));
            let text = format!("is {window}, larger than pace.window_max, which is {most}");
            faults.push(SettingsFault { file, key, text });
        }
    }
}

pub(crate) fn read_breaker(breaker: &mut Breaker, section: &mut Section<'_, '_>) {
    set_number(
        &mut breaker.failures,
        section.number("failures", 1..=1_000_000),
    );
    set(&mut breaker.share, section.fraction("share", 0.01..=1.0));
    set_number(
        &mut breaker.samples,
        section.number("samples", 1..=1_000_000),
    );
    set(&mut breaker.over, section.duration("over", SECOND..=DAY));
    set(&mut breaker.open, section.duration("open", SECOND..=DAY));
    set(
        &mut breaker.open_max,
        section.duration("open_max", SECOND..=7 * DAY),
    );
}

/// Reads a `[[destination]]` section. It replaces a section with the same name from an earlier
/// layer. Keys that it leaves out have the values of `[pace]`. `named` contains the names that this
/// layer has used.
pub(crate) fn read_destination(
    rules: &mut Vec<DestinationRule>,
    pace: &Pace,
    file: &str,
    table: &Table,
    faults: &mut Vec<SettingsFault>,
    named: &mut Vec<String>,
) {
    let label = table
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut section = Section::new(file, format!("destination.{label}"), table, faults);
    let mut limits = pace.limits;
    read_limits(&mut limits, &mut section, "window");
    let name = section.text("name").unwrap_or_default().to_lowercase();
    let plain = name.strip_prefix("*.").unwrap_or(&name);
    if name != "*" && !is_destination_name(plain) {
        section.fault(
            "name",
            "every destination needs a name: \"example.com\", \"*.example.com\", the name of a \
             provider, or \"*\" for all",
        );
    } else if named.contains(&name) {
        section.fault(
            "name",
            "another [[destination]] in this file has this name; keep one of them",
        );
    } else {
        rules.retain(|rule| rule.name != name);
        named.push(name.clone());
        rules.push(DestinationRule { name, limits });
    }
    section.finish();
}

fn read_limits(limits: &mut PaceLimits, section: &mut Section<'_, '_>, window: &'static str) {
    set(&mut limits.rate, section.fraction("rate", RATE_ALLOWED));
    set(&mut limits.burst, section.fraction("burst", BURST_ALLOWED));
    let windows = u64::from(*WINDOW_ALLOWED.start())..=u64::from(*WINDOW_ALLOWED.end());
    set_number(&mut limits.window, section.number(window, windows));
}
