//! A call of a script: the keys of a shard, and the settings that every script gets.

use deadpool_redis::redis::{Script, ScriptInvocation};

use crate::handle::{Limits, Store};
use crate::scripts::ms;

impl Store {
    /// Creates a call of `script` on one shard, with the keys and arguments that `prelude.lua`
    /// lists.
    pub(crate) fn call<'s>(&self, script: &'s Script, shard: u16) -> ScriptInvocation<'s> {
        let keys = self.keys.shard(shard);
        let mut call = script.prepare_invoke();
        for key in &keys.all {
            call.key(key);
        }
        match self.clock.instant_for_scripts() {
            Some(now) => call.arg(now.ms()),
            None => call.arg(""),
        };
        let Limits {
            max_messages,
            record_max,
            unavailable_for,
            unavailable_max,
            strikes,
            max_lapses,
            pace,
        } = &self.limits;
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
            .arg(pace.window_min)
            .arg(pace.window_new)
            .arg(ms(pace.answered_within));
        call
    }
}
