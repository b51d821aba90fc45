//! What a script takes, as the comments of its Lua file list it. These lists are the only
//! description of the arguments: the locals of the script are made from them, and so are the names
//! that its callers use.
//!
//! A list follows one of these lines, with one line per value: its name, `(number)` if it is one,
//! and what it means.
//!
//! ```text
//! -- Settings                     values that every call gets first
//! -- Takes:                       values that come once
//! -- Takes for each JOB:          values that are repeated until the arguments end
//! -- Takes for each JOB (N):      values that are repeated N times, N being a value from before
//! ```
//!
//! A value that comes once becomes a local of the script. For values that are repeated the script
//! gets `JOB_AT`, the place of the first in `ARGV`, and `JOB_WIDTH`, how many there are per job.

use std::fmt::Write;
use std::sync::LazyLock;

/// The values that every call of a script gets, in the order of `ARGV`. A script that does not use
/// the pace gets its settings too.
static SETTINGS: LazyLock<Vec<Argument>> = LazyLock::new(|| {
    let texts = [
        include_str!("lua/prelude.lua"),
        include_str!("lua/pace.lua"),
    ];
    let mut settings = Vec::new();
    for text in texts {
        for list in lists(text) {
            settings.extend(list.arguments);
        }
    }
    settings
});

/// A value that a script takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Argument {
    name: &'static str,
    is_number: bool,
}

/// What the values of a list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Settings, which every call gets.
    Settings,
    /// Values that come once.
    Once,
    /// Values that come once per item, and which value is the number of the items. Without one they
    /// are repeated until the arguments end.
    PerItem(&'static str, Option<&'static str>),
}

/// A list of values in a comment, and the number of its first line in the text, from 0.
#[derive(Debug)]
struct List {
    line: usize,
    kind: Kind,
    arguments: Vec<Argument>,
}

/// Returns what a list that starts with this line lists. `None` if no list starts with it.
fn kind_of(line: &'static str) -> Option<Kind> {
    let line = line.strip_prefix("-- ")?;
    if line.starts_with("Settings") {
        return Some(Kind::Settings);
    }
    let rest = line.strip_prefix("Takes")?;
    if rest == ":" {
        return Some(Kind::Once);
    }
    let rest = rest.strip_prefix(" for each ")?;
    let item = rest.split(|c: char| !c.is_ascii_uppercase()).next()?;
    let count = rest[item.len()..]
        .strip_prefix(" (")
        .and_then(|rest| rest.split(')').next());
    Some(Kind::PerItem(item, count))
}

/// Reads the line of a value. Other lines with a value's meaning are indented further.
fn argument(line: &'static str) -> Option<Argument> {
    let line = line.strip_prefix("--   ")?;
    let name = line.split([' ', '\n']).next()?;
    (!name.is_empty()).then(|| Argument {
        name,
        is_number: line[name.len()..].starts_with(" (number)"),
    })
}

fn lists(text: &'static str) -> Vec<List> {
    let mut lists = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((line, start)) = lines.next() {
        let Some(kind) = kind_of(start) else { continue };
        let mut arguments = Vec::new();
        while let Some((_, next)) = lines.next_if(|(_, next)| next.starts_with("--   ")) {
            arguments.extend(argument(next));
        }
        lists.push(List {
            line,
            kind,
            arguments,
        });
    }
    lists
}

/// What one script takes.
#[derive(Debug)]
pub(crate) struct Arguments {
    lists: Vec<List>,
}

impl Arguments {
    /// Reads the lists in the text of a script.
    pub(crate) fn read(text: &'static str) -> Self {
        Self { lists: lists(text) }
    }

    /// Returns the declarations of the script's locals: the number of the line of the text that
    /// each replaces, from 0, and its code.
    pub(crate) fn declarations(&self) -> Vec<(usize, String)> {
        let mut declarations = Vec::new();
        // Where the next value is: a place in ARGV, from 1, after lists whose length only the call
        // knows.
        let mut place = SETTINGS.len() + 1;
        let mut after = String::new();
        for list in &self.lists {
            let mut code = String::new();
            match list.kind {
                Kind::Settings => {
                    let first = list.arguments.first().map_or("", |argument| argument.name);
                    let before = SETTINGS.iter().position(|setting| setting.name == first);
                    code.push_str(&locals(&list.arguments, before.unwrap_or_default() + 1));
                }
                Kind::Once => {
                    code.push_str(&locals(&list.arguments, place));
                    place += list.arguments.len();
                }
                Kind::PerItem(item, count) => {
                    let width = list.arguments.len();
                    let _ = write!(
                        code,
                        "local {item}_AT, {item}_WIDTH = {place}{after}, {width} "
                    );
                    match count {
                        Some(count) => {
                            let _ = write!(after, "+{width}*{count}");
                        }
                        None if width > 1 => {
                            let _ = write!(
                                code,
                                "assert((#ARGV+1-{item}_AT)%{width}==0,'a wrong number of values')"
                            );
                        }
                        None => {}
                    }
                }
            }
            declarations.push((list.line, code));
        }
        let is_open = self
            .lists
            .iter()
            .any(|list| matches!(list.kind, Kind::PerItem(_, None)));
        let takes = self.lists.iter().rfind(|list| list.kind != Kind::Settings);
        if let (Some((_, code)), Some(_), false) = (declarations.last_mut(), takes, is_open) {
            let end = place - 1;
            let _ = write!(
                code,
                " assert(#ARGV=={end}{after},'a wrong number of values')"
            );
        }
        declarations
    }

    /// Whether values that were given under these names, in this order, are what the script takes.
    /// It does not compare how often values are repeated: the script does.
    pub(crate) fn accept(&self, names: &[&str]) -> bool {
        let mut rest = names;
        let mut take = |list: &[Argument]| {
            let is_next = rest.len() >= list.len()
                && list
                    .iter()
                    .zip(rest)
                    .all(|(argument, name)| argument.name == *name);
            if is_next {
                rest = &rest[list.len()..];
            }
            is_next
        };
        if !take(&SETTINGS) {
            return false;
        }
        for list in &self.lists {
            match list.kind {
                Kind::Settings => {}
                Kind::Once if take(&list.arguments) => {}
                Kind::Once => return false,
                Kind::PerItem(..) => while take(&list.arguments) {},
            }
        }
        rest.is_empty()
    }

    /// Returns the name of each of a call's values, settings included. `None` if the values are not
    /// what the script takes.
    pub(crate) fn names_of(&self, values: &[String]) -> Option<Vec<&'static str>> {
        let mut names: Vec<&'static str> = SETTINGS.iter().map(|setting| setting.name).collect();
        for list in &self.lists {
            let times = match list.kind {
                Kind::Settings => 0,
                Kind::Once => 1,
                Kind::PerItem(_, Some(count)) => {
                    let place = names.iter().position(|name| *name == count)?;
                    values.get(place)?.parse().ok()?
                }
                Kind::PerItem(_, None) => {
                    values.len().checked_sub(names.len())? / list.arguments.len()
                }
            };
            for _ in 0..times {
                names.extend(list.arguments.iter().map(|argument| argument.name));
            }
        }
        (names.len() == values.len()).then_some(names)
    }
}

/// Returns the declaration of locals for values that start at this place in ARGV.
fn locals(arguments: &[Argument], place: usize) -> String {
    let names: Vec<&str> = arguments.iter().map(|argument| argument.name).collect();
    let values: Vec<String> = (place..)
        .zip(arguments)
        .map(|(at, argument)| {
            if argument.is_number {
                format!("tonumber(ARGV[{at}])")
            } else {
                format!("ARGV[{at}]")
            }
        })
        .collect();
    format!("local {} = {}", names.join(","), values.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
-- Does something.
--
-- Takes:
--   n (number)  how many
--   name        a name that needs
--               two lines
-- Takes for each JOB (n):
--   id
-- Takes for each EXTRA, one per job that needs one:
--   delay
--   record
-- Reply: now.
return n
";

    fn given<'n>(own: &[&'n str]) -> Vec<&'n str> {
        let settings = SETTINGS.iter().map(|setting| setting.name);
        settings.chain(own.iter().copied()).collect()
    }

    #[test]
    fn a_script_gets_a_local_per_value_and_the_places_of_repeated_values() {
        let first = SETTINGS.len() + 1;
        let (second, third) = (first + 1, first + 2);
        assert_eq!(
            Arguments::read(TEXT).declarations(),
            [
                (
                    2,
                    format!("local n,name = tonumber(ARGV[{first}]),ARGV[{second}]")
                ),
                (6, format!("local JOB_AT, JOB_WIDTH = {third}, 1 ")),
                (
                    8,
                    format!(
                        "local EXTRA_AT, EXTRA_WIDTH = {third}+1*n, 2 \
                         assert((#ARGV+1-EXTRA_AT)%2==0,'a wrong number of values')"
                    )
                ),
            ]
        );
    }

    #[test]
    fn a_script_without_open_lists_refuses_a_wrong_number_of_values() {
        let first = SETTINGS.len() + 1;
        let fixed = Arguments::read("-- Takes:\n--   id\n").declarations();
        let refuses = |end: String| format!("assert(#ARGV=={end},'a wrong number of values')");
        assert!(
            fixed[0].1.ends_with(&refuses(first.to_string())),
            "{fixed:?}"
        );
        let counted = Arguments::read("-- Takes:\n--   n\n-- Takes for each ID (n):\n--   id\n");
        let counted = counted.declarations();
        assert!(
            counted[1].1.ends_with(&refuses(format!("{first}+1*n"))),
            "{counted:?}"
        );
    }

    #[test]
    fn values_are_accepted_only_under_their_names_and_in_their_order() {
        let arguments = Arguments::read(TEXT);
        for own in [
            &["n", "name"][..],
            &["n", "name", "id", "id", "delay", "record"],
            &["n", "name", "id", "delay", "record", "delay", "record"],
        ] {
            assert!(arguments.accept(&given(own)), "{own:?}");
        }
        for own in [
            &["n"][..],
            &["name", "n"],
            &["n", "name", "delay", "record", "id"],
            &["n", "name", "id", "record", "delay"],
            &["n", "name", "id", "delay"],
        ] {
            assert!(!arguments.accept(&given(own)), "{own:?}");
        }
        assert!(
            !arguments.accept(&["n", "name"]),
            "the settings are missing"
        );
    }

    #[test]
    fn each_value_of_a_call_has_a_name() {
        let arguments = Arguments::read(TEXT);
        let mut values = vec![String::new(); SETTINGS.len()];
        values.extend(["2", "a name", "first", "second", "7", "a record"].map(str::to_owned));
        assert_eq!(
            arguments.names_of(&values),
            Some(given(&["n", "name", "id", "id", "delay", "record"]))
        );
        values.pop();
        assert_eq!(arguments.names_of(&values), None);
    }
}
