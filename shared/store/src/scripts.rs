//! All scripts, in one list. Each is a file of its own, with the prelude before it.

use std::sync::LazyLock;

use deadpool_redis::redis::Script;

use crate::argument_lists::Arguments;

/// What a script does when memory is full: when Redis uses more than `maxmemory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Redis refuses it before it starts. For scripts that take work in or hand it out, and for
    /// those that can be repeated later.
    Refused,
    /// It runs in any case. For scripts that end, give back, extend or correct something, and for
    /// those that an operator or upkeep needs. The header of each states how much
    /// memory it can take.
    Runs,
    /// It runs, because it writes nothing.
    Reads,
}

/// The first line of a script. With it, Redis checks memory, disk, replicas and role once, before
/// the script runs. Without it, a script would fail at its first write that needs memory, after all
/// earlier writes were made.
macro_rules! shebang {
    (Refused) => {
        "#!lua\n"
    };
    (Runs) => {
        "#!lua flags=allow-oom\n"
    };
    (Reads) => {
        "#!lua flags=no-writes\n"
    };
}

/// The text of a script: `prelude.lua` comes first, then the parts that it shares with others, then
/// the file of its verb.
macro_rules! text {
    ($when_full:ident, $verb:literal, $($part:literal),*) => {
        concat!(
            shebang!($when_full),
            include_str!("lua/prelude.lua"), "\n",
            $(include_str!(concat!("lua/", $part, ".lua")), "\n",)*
            include_str!(concat!("lua/", $verb, ".lua")), "\n",
        )
    };
}

/// Returns what Redis gets of a script: its code without indentation and without lines that are
/// only a comment. These are a third of the text. The declarations of its arguments come where
/// their lists are. The other lines keep their numbers.
fn code(text: &str, arguments: &Arguments) -> String {
    let lines = text.lines().map(str::trim_start);
    let code = lines.map(|line| if line.starts_with("--") { "" } else { line });
    let mut code: Vec<&str> = code.collect();
    let declarations = arguments.declarations();
    for (line, declaration) in &declarations {
        code[*line] = declaration;
    }
    code.join("\n")
}

/// A script, its verb, what it takes, and what it does when memory is full.
pub(crate) struct KnownScript {
    pub(crate) verb: &'static str,
    pub(crate) when_full: WhenFull,
    pub(crate) arguments: Arguments,
    pub(crate) script: Script,
    code: String,
}

impl KnownScript {
    fn new(verb: &'static str, when_full: WhenFull, text: &'static str) -> Self {
        let arguments = Arguments::read(text);
        let code = code(text, &arguments);
        Self {
            verb,
            when_full,
            arguments,
            script: Script::new(&code),
            code,
        }
    }
}

/// Each script as a static of its own, and all of them as one list. Each entry declares what the
/// script does when memory is full.
macro_rules! scripts {
    ($($name:ident = $verb:literal $when_full:ident $(after $($part:literal),+)?;)+) => {
        $(pub(crate) static $name: LazyLock<KnownScript> = LazyLock::new(|| {
            let text = text!($when_full, $verb, $($($part),+)?);
            KnownScript::new($verb, WhenFull::$when_full, text)
        });)+

        static ALL: &[&LazyLock<KnownScript>] = &[$(&$name),+];
    };
}

scripts! {
    SCHEDULE = "schedule" Refused after "due", "lease", "pace_fields", "pace";
    CLAIM = "claim" Refused after "due", "lease", "pace_fields", "pace", "lapse", "first_due";
    SETTLE = "settle" Runs after "due", "lease", "pace_fields", "pace", "tally";
    REFUTE = "refute" Refused after "due", "lease", "pace_fields", "pace", "tally";
    RELEASE = "release" Runs after "due", "lease", "pace_fields", "pace", "lapse";
    SILENT = "silent" Refused after "due", "lease", "pace_fields", "pace";
    FACTS = "facts" Refused after "due", "lease", "pace_fields", "pace";
    EXTEND = "extend" Runs after "lease";
    UNDER_WAY = "under_way" Runs after "lease";
    HOLD = "hold" Runs after "due", "lease", "pace_fields", "pace";
    UNHOLD = "unhold" Runs after "due", "lease", "pace_fields", "pace";
    OVERRIDE = "override" Runs after "due", "lease", "pace_fields", "pace";
    LIMIT = "limit" Runs after "due", "lease", "pace_fields", "pace";
    NOTE = "note" Refused;
    NOTE_FINDINGS = "note_findings" Refused;
    CLOCK = "clock" Reads;
    LOOK_UP = "look_up" Reads after "due";
    WAITING = "waiting" Reads after "due";
    CLAIM_OCCURRENCE = "claim_occurrence" Runs;
    RELEASE_REQUEST = "release_request" Runs;
    RELEASE_ROUTE = "release_route" Runs after "due";
    HISTORY = "history" Runs;
    PUT_BACK = "put_back" Runs after "due";
    REINSTATE = "reinstate" Refused;
    REPAIR = "repair" Runs after "due", "lease", "pace_fields", "pace", "lapse", "first_due";
    RECOUNT = "recount" Runs after "due", "lease", "pace_fields", "pace", "lapse";
    SWEEP = "sweep" Runs after "lease";
    TRIM_MARKS = "trim_marks" Runs;
    TRIM_TROUBLE = "trim_trouble" Runs after "due", "lease", "pace_fields", "pace";
}

/// Returns a duration in whole milliseconds, as the scripts take it.
pub(crate) fn ms(span: std::time::Duration) -> u64 {
    span.as_millis().try_into().unwrap_or(u64::MAX)
}

fn known(hash: &str) -> Option<&'static KnownScript> {
    ALL.iter()
        .map(|known| &***known)
        .find(|known| known.script.get_hash() == hash)
}

/// Returns the verb of the script that Redis knows by this hash, for readers of the traffic to
/// Redis.
pub fn verb_of(hash: &str) -> Option<&'static str> {
    known(hash).map(|known| known.verb)
}

/// Returns the name of each value of a call of the script with this hash, for readers of the
/// traffic to Redis. `None` if the script does not take these values.
pub fn names_of(hash: &str, values: &[String]) -> Option<Vec<&'static str>> {
    known(hash)?.arguments.names_of(values)
}

/// Returns each script's verb, and the hash that Redis knows it by.
pub fn hashes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALL.iter()
        .map(|known| (known.verb, known.script.get_hash()))
}

/// Returns the code that Redis gets of the script with this hash.
pub(crate) fn text_of(hash: &str) -> Option<&'static str> {
    known(hash).map(|known| known.code.as_str())
}

/// Returns each script's verb, and what it does when the server's memory is full.
pub fn when_full() -> impl Iterator<Item = (&'static str, WhenFull)> {
    ALL.iter().map(|known| (known.verb, known.when_full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_header_states_what_it_does_when_memory_is_full() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lua");
        for (verb, when_full) in when_full() {
            let text = std::fs::read_to_string(format!("{folder}/{verb}.lua")).unwrap();
            let stated = text
                .lines()
                .find_map(|line| line.strip_prefix("-- Full memory: "))
                .expect(verb);
            let word = match when_full {
                WhenFull::Refused => "refused",
                WhenFull::Runs => "runs",
                WhenFull::Reads => "reads",
            };
            assert!(stated.starts_with(word), "{verb}: {stated}");
        }
    }

    #[test]
    fn comments_are_left_out_and_lines_keep_their_numbers() {
        let text = "#!lua\n-- Why.\nlocal a = 1 -- b\n    return a\n";
        let code = code(text, &Arguments::read(text));
        assert_eq!(code, "#!lua\n\nlocal a = 1 -- b\nreturn a");
    }

    /// Lines of a script that give names to the values of an item must use those of its list.
    #[test]
    fn values_of_an_item_have_the_names_of_their_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lua");
        let mut named = 0;
        for (verb, _) in when_full() {
            let text = std::fs::read_to_string(format!("{folder}/{verb}.lua")).unwrap();
            for line in text.lines() {
                let Some((names, rest)) = line.trim().split_once(" = unpack(ARGV, i, i + ") else {
                    continue;
                };
                named += 1;
                let item = rest.strip_suffix("_WIDTH - 1)").expect(line);
                let list = text
                    .split(&format!("-- Takes for each {item}"))
                    .nth(1)
                    .expect(line);
                let listed: Vec<&str> = list
                    .lines()
                    .skip(1)
                    .map_while(|line| line.strip_prefix("--   "))
                    .filter_map(|line| line.split(' ').next().filter(|name| !name.is_empty()))
                    .collect();
                assert_eq!(names, format!("local {}", listed.join(", ")), "{verb}.lua");
            }
        }
        assert!(named > 4, "{named}");
    }

    #[test]
    fn every_script_is_known_by_the_verb_of_its_file() {
        for known in ALL {
            assert_eq!(verb_of(known.script.get_hash()), Some(known.verb));
        }
        assert_eq!(verb_of(""), None);
        let parts = [
            "due",
            "first_due",
            "lapse",
            "lease",
            "pace_fields",
            "pace",
            "prelude",
            "tally",
        ];
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lua")).unwrap();
        let mut files: Vec<String> = files
            .map(|file| {
                file.unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .filter(|name| !parts.contains(&name.as_str()))
            .collect();
        let mut verbs: Vec<&str> = ALL.iter().map(|known| known.verb).collect();
        files.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(files, verbs);
    }
}
