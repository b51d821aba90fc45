//! A call of a script on a shard: the shard's keys and the settings, which every script gets. Its
//! caller adds the values of the script itself.

use crate::handle::{Limits, Store};
use crate::script_args::ScriptArgs;
use crate::scripts::{KnownScript, ms};

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
