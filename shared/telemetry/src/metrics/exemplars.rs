//! Counters with exemplars: the last traced event of each keeps its trace id, however many events
//! without a trace come after it.

use std::collections::HashMap;
use std::fmt::{Debug, Error};
use std::hash::Hash;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use foldhash::fast::RandomState;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::CounterWithExemplar;

use crate::traceparent::TraceContext;

/// The label of an exemplar.
#[derive(Clone, Copy, Debug)]
pub(super) struct TraceLabel(pub(super) TraceContext);

impl EncodeLabelSet for TraceLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        [("trace_id", self.0.trace_id())].encode(encoder)
    }
}

/// Counters by their labels. Clones share them. They are found with a faster hash than the one of
/// the standard library, because no client chooses a label.
#[derive(Clone, Debug)]
pub(super) struct TracedCounters<L>(Arc<Mutex<Counters<L>>>);

type Counters<L> = HashMap<L, CounterWithExemplar<TraceLabel>, RandomState>;

impl<L> Default for TracedCounters<L> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<L: Eq + Hash> TracedCounters<L> {
    /// Counts one event. If it has a trace, it was at this time.
    pub(super) fn count(&self, labels: L, trace: Option<(TraceLabel, SystemTime)>) {
        let mut counters = self.lock();
        let counter = counters.entry(labels).or_default();
        match trace {
            Some((trace, at)) => {
                counter.inc_by(1, Some(trace), Some(at));
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
