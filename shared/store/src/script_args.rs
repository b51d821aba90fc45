//! The arguments of a call of a script: keys, and values that each have a name.

use deadpool_redis::redis::{ScriptInvocation, ToRedisArgs};

use crate::scripts::KnownScript;

/// The call of a script that is being put together. Values are added in the order of the lists in
/// the script's header (`argument_lists.rs`), each under its name there.
pub(crate) struct ScriptArgs<'s> {
    script: &'s KnownScript,
    invocation: ScriptInvocation<'s>,
    /// The names of all values so far. They are compared in debug builds only, which all tests use.
    #[cfg(debug_assertions)]
    names: Vec<&'static str>,
}

impl<'s> ScriptArgs<'s> {
    pub(crate) fn new(script: &'s KnownScript, keys: &[String]) -> Self {
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

    /// Returns the verb of the script.
    pub(crate) fn verb(&self) -> &'static str {
        self.script.verb
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
