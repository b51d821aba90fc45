//! The open streams of events, and how far each is behind, for metrics. The readers keep their
//! places themselves, so only an open stream shows where its reader is.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::clock::{Clock, Timestamp};
use telemetry::metrics::Metrics;
use telemetry::metrics::readers::OpenStream;

/// The time of a stream that has sent everything.
const SENT_ALL: i64 = i64::MIN;

/// The open streams of events of this process. There are at most as many as connections.
pub struct EventReaders {
    clock: Arc<dyn Clock>,
    open: Mutex<Vec<Arc<Progress>>>,
}

/// How far one stream has come.
#[derive(Debug)]
struct Progress {
    reader: Arc<str>,
    /// When the first event happened that is not sent yet, in ms; or [`SENT_ALL`].
    next_ms: AtomicI64,
    sent: AtomicU64,
}

/// One open stream. It counts as closed when this is dropped.
#[derive(Debug)]
pub struct EventReader {
    readers: Arc<EventReaders>,
    progress: Arc<Progress>,
}

impl EventReaders {
    /// Returns the readers of a process, which has none yet. They are reported in `metrics`.
    pub fn new(clock: Arc<dyn Clock>, metrics: &Metrics) -> Arc<Self> {
        let readers = Arc::new(Self {
            clock,
            open: Mutex::default(),
        });
        let reported = readers.clone();
        metrics.before_write(move |metrics| metrics.event_streams(&reported.streams()));
        readers
    }

    /// Opens a stream for a reader of this name.
    pub fn open(self: &Arc<Self>, reader: &str) -> EventReader {
        let progress = Arc::new(Progress {
            reader: reader.into(),
            next_ms: AtomicI64::new(SENT_ALL),
            sent: AtomicU64::default(),
        });
        self.lock().push(progress.clone());
        EventReader {
            readers: self.clone(),
            progress,
        }
    }

    fn streams(&self) -> Vec<OpenStream> {
        let now = self.clock.now();
        let stream = |progress: &Arc<Progress>| OpenStream {
            reader: progress.reader.clone(),
            lag: match progress.next_ms.load(Ordering::Relaxed) {
                SENT_ALL => Duration::ZERO,
                next_ms => now.since(Timestamp::from_ms(next_ms)),
            },
            sent: progress.sent.load(Ordering::Relaxed),
        };
        self.lock().iter().map(stream).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Progress>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventReader {
    /// Records that events which happened at this time are sent next.
    pub fn sends_next(&self, time: Timestamp) {
        self.progress.next_ms.store(time.ms(), Ordering::Relaxed);
    }

    /// Records that the reader has all events that there are.
    pub fn has_all(&self) {
        self.progress.next_ms.store(SENT_ALL, Ordering::Relaxed);
    }

    /// Records that this many events were sent.
    pub fn sent(&self, events: usize) {
        self.progress
            .sent
            .fetch_add(events as u64, Ordering::Relaxed);
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        let mut open = self.readers.lock();
        open.retain(|progress| !Arc::ptr_eq(progress, &self.progress));
    }
}

impl fmt::Debug for EventReaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReaders").finish_non_exhaustive()
    }
}
