//! Counters with exemplars: the last traced event of each keeps its trace id, however many events
//! without a trace come after it.

use std::collections::HashMap;
use std::fmt::{Debug, Error};
use std::hash::Hash;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::CounterWithExemplar;

/// The label of an exemplar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TraceLabel {
    pub(super) trace_id: String,
}

/// Counters by their labels. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct TracedCounters<L>(Arc<Mutex<Counters<L>>>);

type Counters<L> = HashMap<L, CounterWithExemplar<TraceLabel>>;

impl<L> Default for TracedCounters<L> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<L: Eq + Hash> TracedCounters<L> {
    /// Counts one event.
    pub(super) fn count(&self, labels: L, trace: Option<TraceLabel>) {
        let mut counters = self.lock();
        let counter = counters.entry(labels).or_default();
        match trace {
            Some(trace) => {
                counter.inc_by(1, Some(trace), Some(SystemTime::now()));
            }
            // `inc_by` without a trace would remove the exemplar.
            None => {
                counter.inner().fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Removes the counters whose labels are not to be kept.
    pub(super) fn retain(&self, mut is_kept: impl FnMut(&L) -> bool) {
        self.lock().retain(|labels, _| is_kept(labels));
    }

    fn lock(&self) -> MutexGuard<'_, Counters<L>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Eq + Hash + Debug + EncodeLabelSet + Send + 'static> EncodeMetric for TracedCounters<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        for (labels, counter) in &*self.lock() {
            counter.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}
