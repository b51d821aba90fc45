//! The destinations that are named in a label: all providers, and the busiest others. There may be
//! millions of destinations, and each named one makes some dozens of series.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

/// How many destinations are named in addition to the providers.
pub(super) const NAMED_MAX: usize = 50;

/// Of how many destinations the attempts are counted. If there are more, all counts are halved, and
/// those that become 0 are forgotten.
const COUNTED_MAX: usize = 1_024;

/// How many attempts a destination has had before it takes the place of another, at least.
const ENTER_MIN: u64 = 8;

/// What a destination without a label of its own is called.
pub(super) const OTHER: &str = "other";

/// Which destinations are named, and how busy each is. The hash is a fast one: of those that
/// clients choose, only a bounded number is kept.
#[derive(Debug)]
pub(super) struct Destinations {
    providers: HashSet<Arc<str>, RandomState>,
    /// How many attempts each had, a while back at most.
    counts: HashMap<Arc<str>, u64, RandomState>,
    named: HashSet<Arc<str>, RandomState>,
    /// A destination that is not named takes the place of another only with a count above this.
    /// That is at least twice the smallest count of those that are named, so that names change
    /// rarely.
    to_enter: u64,
    other: Arc<str>,
}

/// How a destination is called.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) name: Arc<str>,
    /// A destination that is no longer named, because this one took its place.
    pub(super) replaced: Option<Arc<str>>,
}

impl Default for Destinations {
    fn default() -> Self {
        Self {
            providers: HashSet::default(),
            counts: HashMap::default(),
            named: HashSet::default(),
            to_enter: 0,
            other: OTHER.into(),
        }
    }
}

impl Destinations {
    /// Adds destinations that are always named.
    pub(super) fn add_providers<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        let names = names.filter(|name| is_label(name)).map(Arc::from);
        self.providers.extend(names);
    }

    /// Counts an attempt at a destination, and returns its label.
    pub(super) fn count(&mut self, destination: &str) -> Label {
        let label = |name: &Arc<str>, replaced| Label {
            name: name.clone(),
            replaced,
        };
        if let Some(provider) = self.providers.get(destination) {
            return label(provider, None);
        }
        if !is_label(destination) {
            return label(&self.other, None);
        }
        let count = self.counted(destination);
        if let Some(named) = self.named.get(destination) {
            return label(named, None);
        }
        if self.named.len() < NAMED_MAX {
            let name: Arc<str> = destination.into();
            self.named.insert(name.clone());
            return label(&name, None);
        }
        // The smallest count is looked for only if it may matter, because that takes a while.
        if count > self.to_enter
            && let Some(least) = self.least_busy()
            && count > self.to_enter
        {
            let name: Arc<str> = destination.into();
            self.named.remove(&least);
            self.named.insert(name.clone());
            return label(&name, Some(least));
        }
        label(&self.other, None)
    }

    /// Counts an attempt and returns how many there were.
    fn counted(&mut self, destination: &str) -> u64 {
        if let Some(count) = self.counts.get_mut(destination) {
            *count += 1;
            return *count;
        }
        while self.counts.len() >= COUNTED_MAX {
            self.counts.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            self.to_enter /= 2;
        }
        self.counts.insert(destination.into(), 1);
        1
    }

    /// Returns the destination with the smallest count of those that are named, and sets the count
    /// that another needs to take its place.
    fn least_busy(&mut self) -> Option<Arc<str>> {
        let count = |name: &Arc<str>| self.counts.get(name).copied().unwrap_or_default();
        let least = self.named.iter().min_by_key(|name| count(name))?.clone();
        self.to_enter = ENTER_MIN.max(2 * count(&least));
        Some(least)
    }
}

/// Whether a name may be the value of a label as it is. The library does not escape values.
pub(super) fn is_label(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty() && name.len() <= 255 && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_and_the_busiest_destinations_are_named() {
        let mut destinations = Destinations::default();
        destinations.add_providers(["google"].into_iter());
        for n in 0..NAMED_MAX {
            let name = format!("host{n}.example");
            for _ in 0..=n {
                assert_eq!(&*destinations.count(&name).name, name);
            }
        }
        assert_eq!(&*destinations.count("google").name, "google");
        // The least busy one was tried once.
        for _ in 0..ENTER_MIN {
            assert_eq!(&*destinations.count("new.example").name, OTHER);
        }
        let entered = destinations.count("new.example");
        assert_eq!(&*entered.name, "new.example");
        assert_eq!(entered.replaced.as_deref(), Some("host0.example"));
        assert_eq!(&*destinations.count("host0.example").name, OTHER);
    }

    #[test]
    fn any_number_of_destinations_is_counted_in_bounded_memory() {
        let mut destinations = Destinations::default();
        for n in 0..20 * COUNTED_MAX {
            destinations.count(&format!("host{n}.example"));
            destinations.count("busy.example");
        }
        assert!(destinations.counts.len() <= COUNTED_MAX);
        assert_eq!(destinations.named.len(), NAMED_MAX);
        assert_eq!(&*destinations.count("busy.example").name, "busy.example");
    }

    #[test]
    fn what_is_no_plain_name_is_not_a_label() {
        let mut destinations = Destinations::default();
        for name in ["", "jo@example.com", "a\"b", "a b", &"x".repeat(256)] {
            assert_eq!(&*destinations.count(name).name, OTHER, "{name}");
        }
    }
}
