//! Those who read the stream of events: how far behind each is. The busiest have a name of their
//! own in labels.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::catalog::register;
use super::destinations::{OTHER, is_label};

/// How many readers are named.
pub(super) const NAMED_MAX: usize = 20;

/// The state of one stream of events.
#[derive(Clone, Debug)]
pub struct OpenStream {
    /// The name of the token that it was opened with.
    pub reader: Arc<str>,
    /// How old the first event is that was not sent to the reader yet; zero if all were.
    pub lag: Duration,
    /// How many events it has sent.
    pub sent: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReaderLabels {
    reader: Arc<str>,
}

/// What is known of the streams of one reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reader {
    streams: u64,
    lag: Duration,
    sent: u64,
}

/// The gauges of the readers. A reader without an open stream has none.
#[derive(Clone, Debug, Default)]
pub(super) struct ReaderGauges {
    streams: Family<ReaderLabels, Gauge<f64, AtomicU64>>,
    lag: Family<ReaderLabels, Gauge<f64, AtomicU64>>,
}

impl ReaderGauges {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self::default();
        let Self { streams, lag } = new.clone();
        register(registry, "redeliver_event_streams", streams);
        register(registry, "redeliver_journal_lag_seconds", lag);
        new
    }

    /// Sets the gauges to these streams.
    pub(super) fn set(&self, open: &[OpenStream]) {
        self.streams.clear();
        self.lag.clear();
        for (reader, of_reader) in named(open) {
            let labels = ReaderLabels { reader };
            self.streams
                .get_or_create(&labels)
                .set(of_reader.streams as f64);
            self.lag
                .get_or_create(&labels)
                .set(of_reader.lag.as_secs_f64());
        }
    }
}

/// Returns the readers of these streams. Those that are not among the busiest are one reader, and
/// so are those whose names cannot be in a label.
fn named(open: &[OpenStream]) -> Vec<(Arc<str>, Reader)> {
    let mut readers = HashMap::<Arc<str>, Reader>::new();
    let add = |reader: &mut Reader, more: Reader| {
        reader.streams += more.streams;
        reader.lag = reader.lag.max(more.lag);
        reader.sent += more.sent;
    };
    for OpenStream { reader, lag, sent } in open {
        let (name, lag, sent) = (reader.clone(), *lag, *sent);
        let streams = 1;
        add(
            readers.entry(name).or_default(),
            Reader { streams, lag, sent },
        );
    }
    let mut readers: Vec<_> = readers.into_iter().collect();
    readers.sort_by(|(a, of_a), (b, of_b)| {
        let is_named = is_label(b).cmp(&is_label(a));
        is_named.then(of_b.sent.cmp(&of_a.sent)).then(a.cmp(b))
    });
    let count = readers.iter().filter(|(name, _)| is_label(name)).count();
    let rest = readers.split_off(count.min(NAMED_MAX));
    if !rest.is_empty() {
        let mut other = Reader::default();
        for (_, reader) in rest {
            add(&mut other, reader);
        }
        readers.retain(|(name, reader)| {
            let is_other = &**name == OTHER;
            if is_other {
                add(&mut other, *reader);
            }
            !is_other
        });
        readers.push((OTHER.into(), other));
    }
    readers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(reader: &str, lag_s: u64, sent: u64) -> OpenStream {
        OpenStream {
            reader: reader.into(),
            lag: Duration::from_secs(lag_s),
            sent,
        }
    }

    #[test]
    fn a_reader_is_as_far_behind_as_the_last_of_its_streams() {
        let open = [
            stream("crm", 5, 1),
            stream("crm", 90, 1),
            stream("bi", 0, 9),
        ];
        let named = named(&open);
        let readers: Vec<(&str, u64, u64)> = named
            .iter()
            .map(|(name, reader)| (&**name, reader.streams, reader.lag.as_secs()))
            .collect();
        assert_eq!(readers, [("bi", 1, 0), ("crm", 2, 90)]);
    }

    #[test]
    fn the_busiest_readers_are_named_and_all_others_are_one() {
        let mut open: Vec<OpenStream> = (0..100)
            .map(|n| stream(&format!("reader{n}"), n, n))
            .collect();
        open.push(stream("a\"} 1\n", 500, 1_000));
        open.push(stream(OTHER, 0, 2_000));
        let named = named(&open);
        assert_eq!(named.len(), NAMED_MAX);
        for (name, reader) in named {
            match &*name {
                OTHER => assert_eq!((reader.streams, reader.lag.as_secs()), (83, 500)),
                name => assert!(reader.sent >= 81, "{name}: {reader:?}"),
            }
        }
    }
}
