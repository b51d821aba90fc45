//! All scripts, in one list. Each is a file of its own, with the prelude before it.

use std::sync::LazyLock;

use deadpool_redis::redis::{Script, ScriptInvocation};

use super::{Limits, Store};

/// Each script as a static of its own, and all of them as one list by their verbs. `prelude.lua` stands before each, then the
/// parts that it shares with others, then the file of its verb.
macro_rules! scripts {
    ($($name:ident = $verb:literal $(after $($part:literal),+)?;)+) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("lua/prelude.lua"), "\n",
                $($(include_str!(concat!("lua/", $part, ".lua")), "\n",)+)?
                include_str!(concat!("lua/", $verb, ".lua")), "\n",
            ))
        });)+

        static ALL: &[(&str, &LazyLock<Script>)] = &[$(($verb, &$name)),+];
    };
}

scripts! {
    SCHEDULE = "schedule" after "lease", "pace";
    CLAIM = "claim" after "lease", "pace", "lapse";
    SETTLE = "settle" after "lease", "pace", "tally";
    REFUTE = "refute" after "lease", "pace", "tally";
    RELEASE = "release" after "lease", "pace", "lapse";
    FACTS = "facts" after "lease", "pace";
    EXTEND = "extend" after "lease";
    UNDER_WAY = "under_way" after "lease";
    HOLD = "hold" after "lease", "pace";
    UNHOLD = "unhold" after "lease", "pace";
    OVERRIDE = "override" after "lease", "pace";
    LIMIT = "limit" after "lease", "pace";
    NOTE = "note";
    END_HEARING = "end_hearing";
    PUT_BACK = "put_back";
    REINSTATE = "reinstate";
    REPAIR = "repair" after "lease", "pace", "lapse";
    RECOUNT = "recount" after "lease", "pace", "lapse";
    SWEEP = "sweep" after "lease";
    TRIM_MARKS = "trim_marks";
    TRIM_TROUBLE = "trim_trouble" after "lease", "pace";
}

impl Store {
    /// A call of `script` on one shard, with the keys and arguments that `prelude.lua` names.
    pub(super) fn call<'s>(&self, script: &'s Script, shard: u16) -> ScriptInvocation<'s> {
        let keys = self.keys.shard(shard);
        let mut call = script.prepare_invoke();
        for key in &keys.all {
            call.key(key);
        }
        match self.clock.passed_in() {
            Some(now) => call.arg(now.ms()),
            None => call.arg(""),
        };
        let Limits { max_messages, record_max, unavailable_for, unavailable_max, strikes, max_lapses, pace } =
            &self.limits;
        call.arg(&keys.prefix)
            .arg(*max_messages)
            .arg(*record_max)
            .arg(ms(*unavailable_for))
            .arg(ms(*unavailable_max))
            .arg(*strikes)
            .arg(*max_lapses)
            .arg(pace.limits.rate)
            .arg(pace.limits.burst)
            .arg(pace.window)
            .arg(pace.limits.window)
            .arg(pace.breaker.failures)
            .arg(pace.breaker.share)
            .arg(pace.breaker.samples)
            .arg(ms(pace.breaker.over))
            .arg(ms(pace.breaker.open))
            .arg(ms(pace.breaker.open_max))
            .arg(pace.window_min);
        call
    }
}

/// A span in whole milliseconds, as the scripts take it.
pub(super) fn ms(span: std::time::Duration) -> u64 {
    span.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The verb of the script that Redis knows by this hash: for those who read what goes to Redis.
pub fn verb_of(hash: &str) -> Option<&'static str> {
    hashes().find(|(_, known)| *known == hash).map(|(verb, _)| verb)
}

/// Each script's verb, and the hash that Redis knows it by.
pub fn hashes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALL.iter().map(|(verb, script)| (*verb, script.get_hash()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_known_by_the_verb_of_its_file() {
        for (verb, script) in ALL {
            assert_eq!(verb_of(script.get_hash()), Some(*verb));
        }
        assert_eq!(verb_of(""), None);
        let parts = ["lapse", "lease", "pace", "prelude", "tally"];
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/lua")).unwrap();
        let mut files: Vec<String> = files
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| !parts.contains(&name.as_str()))
            .collect();
        let mut verbs: Vec<&str> = ALL.iter().map(|(verb, _)| *verb).collect();
        files.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(files, verbs);
    }
}
