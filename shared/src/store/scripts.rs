//! All scripts, in one list. Each is a file of its own, with the prelude before it.

use std::sync::LazyLock;

use deadpool_redis::redis::{Script, ScriptInvocation};

use super::{Limits, Store};

macro_rules! script {
    ($($part:literal),+) => {
        LazyLock::new(|| Script::new(concat!($(include_str!($part), "\n"),+)))
    };
}

pub(super) static SCHEDULE: LazyLock<Script> = script!("lua/prelude.lua", "lua/pace.lua", "lua/schedule.lua");
pub(super) static CLAIM: LazyLock<Script> =
    script!("lua/prelude.lua", "lua/pace.lua", "lua/lapse.lua", "lua/claim.lua");
pub(super) static SETTLE: LazyLock<Script> = script!("lua/prelude.lua", "lua/pace.lua", "lua/settle.lua");
pub(super) static RELEASE: LazyLock<Script> =
    script!("lua/prelude.lua", "lua/pace.lua", "lua/lapse.lua", "lua/release.lua");
pub(super) static FACTS: LazyLock<Script> = script!("lua/prelude.lua", "lua/pace.lua", "lua/facts.lua");
pub(super) static EXTEND: LazyLock<Script> = script!("lua/prelude.lua", "lua/extend.lua");
pub(super) static HOLD: LazyLock<Script> = script!("lua/prelude.lua", "lua/pace.lua", "lua/hold.lua");
pub(super) static UNHOLD: LazyLock<Script> = script!("lua/prelude.lua", "lua/pace.lua", "lua/unhold.lua");
pub(super) static OVERRIDE: LazyLock<Script> = script!("lua/prelude.lua", "lua/pace.lua", "lua/override.lua");
pub(super) static LIMIT: LazyLock<Script> = script!("lua/prelude.lua", "lua/pace.lua", "lua/limit.lua");
pub(super) static PUT_BACK: LazyLock<Script> = script!("lua/prelude.lua", "lua/put_back.lua");
pub(super) static REINSTATE: LazyLock<Script> = script!("lua/prelude.lua", "lua/reinstate.lua");
pub(super) static REPAIR: LazyLock<Script> =
    script!("lua/prelude.lua", "lua/pace.lua", "lua/lapse.lua", "lua/repair.lua");
pub(super) static RECOUNT: LazyLock<Script> =
    script!("lua/prelude.lua", "lua/pace.lua", "lua/lapse.lua", "lua/recount.lua");
pub(super) static SWEEP: LazyLock<Script> = script!("lua/prelude.lua", "lua/sweep.lua");
pub(super) static TRIM_MARKS: LazyLock<Script> = script!("lua/prelude.lua", "lua/trim_marks.lua");

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
    let scripts = [
        ("schedule", &SCHEDULE),
        ("claim", &CLAIM),
        ("settle", &SETTLE),
        ("release", &RELEASE),
        ("extend", &EXTEND),
        ("facts", &FACTS),
        ("reinstate", &REINSTATE),
    ];
    scripts.into_iter().find(|(_, script)| script.get_hash() == hash).map(|(verb, _)| verb)
}
