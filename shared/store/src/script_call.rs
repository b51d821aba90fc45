//! A call of a script: the keys of a shard, the settings that every script gets, and the values
//! that its caller adds, each with its name.

use deadpool_redis::redis::{ScriptInvocation, ToRedisArgs};

use crate::handle::{Limits, Store};
use crate::scripts::{KnownScript, ms};

/// The call of a script that is being put together. Values are added in the order of the lists in
/// the script's header (`script_arguments.rs`), each under its name there.
pub(crate) struct ScriptArgs<'s> {
    script: &'s KnownScript,
    invocation: ScriptInvocation<'s>,
    /// The names of all values so far. They are compared in debug builds only, which all tests use.
    #[cfg(debug_assertions)]
    names: Vec<&'static str>,
}

impl<'s> ScriptArgs<'s> {
    fn new(script: &'s KnownScript, keys: &[String]) -> Self {
        let mut invocation = script.script.prepare_invoke();
        for key in keys {
            invocation.key(key);
        }
        Self {
            script,
            invocation,
            #[cfg(debug_assertions)]
            names: Vec::new(),
        }
    }

    /// Adds one value.
    pub(crate) fn arg(&mut self, name: &'static str, value: impl ToRedisArgs) -> &mut Self {
        #[cfg(debug_assertions)]
        self.names.push(name);
        #[cfg(not(debug_assertions))]
        let _ = name;
        self.invocation.arg(value);
        self
    }

    /// Returns the complete call.
    ///
    /// # Panics
    /// In debug builds if the values are not those that the script's header lists.
    pub(crate) fn invocation(&self) -> &ScriptInvocation<'s> {
        #[cfg(debug_assertions)]
        assert!(
            self.script.arguments.accept(&self.names),
            "{} does not take these values: {:?}",
            self.script.verb,
            self.names
        );
        #[cfg(not(debug_assertions))]
        let _ = self.script;
        &self.invocation
    }
}

impl Store {
    /// Starts a call of `script` on one shard, with the shard's keys and the settings.
    pub(crate) fn call<'s>(&self, script: &'s KnownScript, shard: u16) -> ScriptArgs<'s> {
        let keys = self.keys.shard(shard);
        let Limits {
            max_messages,
            record_max,
            unavailable_for,
            unavailable_max,
            strikes,
            max_lapses,
            pace,
        } = &self.limits;
        let given_now = self
            .clock
            .instant_for_scripts()
            .map(|now| now.ms().to_string());
        let mut call = ScriptArgs::new(script, &keys.all);
        call.arg("GIVEN_NOW", given_now.unwrap_or_default())
            .arg("PREFIX", &keys.prefix)
            .arg("MAX_MESSAGES", *max_messages)
            .arg("RECORD_MAX", *record_max)
            .arg("UNAVAILABLE_FOR", ms(*unavailable_for))
            .arg("UNAVAILABLE_MAX", ms(*unavailable_max))
            .arg("STRIKES", *strikes)
            .arg("MAX_LAPSES", *max_lapses)
            .arg("RATE", pace.limits.rate)
            .arg("BURST", pace.limits.burst)
            .arg("WINDOW", pace.window)
            .arg("WINDOW_MAX", pace.limits.window)
            .arg("FAILURES", pace.breaker.failures)
            .arg("SHARE", pace.breaker.share)
            .arg("SAMPLES", pace.breaker.samples)
            .arg("PERIOD_MS", ms(pace.breaker.over))
            .arg("OPEN_MS", ms(pace.breaker.open))
            .arg("OPEN_MAX_MS", ms(pace.breaker.open_max))
            .arg("WINDOW_MIN", pace.window_min)
            .arg("WINDOW_NEW", pace.window_new)
            .arg("ANSWERED_WITHIN_MS", ms(pace.answered_within));
        call
    }
}
