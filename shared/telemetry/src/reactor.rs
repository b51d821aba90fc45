//! The thread that telemetry is sent on.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

/// A runtime with one thread that can be dropped anywhere: it waits for nothing that still runs on
/// it.
#[derive(Debug)]
pub(crate) struct Reactor(Option<Runtime>);

impl Reactor {
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start() -> Result<Arc<Self>, String> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .enable_all()
            .build()
            .map_err(|err| format!("the thread of telemetry cannot be started: {err}"))?;
        Ok(Arc::new(Self(Some(runtime))))
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
