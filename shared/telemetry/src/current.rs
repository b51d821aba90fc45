//! The span that the current task works for. Lines of the log name it.

use crate::traceparent::TraceContext;

tokio::task_local! {
    static CURRENT: Option<TraceContext>;
}

/// Runs a future. What it logs belongs to this span.
pub(crate) async fn within<T>(span: Option<TraceContext>, future: impl Future<Output = T>) -> T {
    CURRENT.scope(span, future).await
}

/// Returns the span that the current task works for, if it is sent to a collector.
pub(crate) fn span() -> Option<TraceContext> {
    CURRENT.try_with(|span| *span).ok().flatten()
}
