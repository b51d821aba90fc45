//! The placements that were used recently, in two generations. When the young generation is full it
//! becomes the old one. What was not used since then is forgotten with the previous old one. So the
//! memory is bounded, without keeping the order of use.

use std::collections::HashMap;
use std::mem;

use domain::destination::Destination;

/// A bounded memory of placements.
pub(crate) struct Recent {
    young: HashMap<Box<str>, Destination>,
    old: HashMap<Box<str>, Destination>,
    generation_max: usize,
}

impl Recent {
    /// Creates a memory that holds about `max` placements at most.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: (max / 2).max(1),
        }
    }

    /// Returns the destination of a domain, if it is remembered.
    pub(crate) fn get(&mut self, domain: &str) -> Option<Destination> {
        if let Some(destination) = self.young.get(domain) {
            return Some(destination.clone());
        }
        let destination = self.old.remove(domain)?;
        self.put(domain, &destination);
        Some(destination)
    }

    /// Forgets the domains that `is_forgotten` selects, and returns them with their destinations.
    pub(crate) fn forget(
        &mut self,
        is_forgotten: impl Fn(&str) -> bool,
    ) -> Vec<(Box<str>, Destination)> {
        let young = self.young.extract_if(|domain, _| is_forgotten(domain));
        let old = self.old.extract_if(|domain, _| is_forgotten(domain));
        young.chain(old).collect()
    }

    /// Remembers the destination of a domain.
    pub(crate) fn put(&mut self, domain: &str, destination: &Destination) {
        if self.young.len() >= self.generation_max {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(domain.into(), destination.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_and_keeps_what_is_used() {
        let mut recent = Recent::new(100);
        let used = Destination::named("google");
        recent.put("gmail.com", &used);
        for n in 0..10_000 {
            recent.put(&format!("d{n}.example"), &Destination::named("elsewhere"));
            assert_eq!(
                recent.get("gmail.com"),
                Some(used.clone()),
                "after {n} others"
            );
            assert!(recent.young.len() + recent.old.len() <= 100);
        }
        assert_eq!(recent.get("d0.example"), None);
        assert!(recent.get("d9999.example").is_some());
    }
}
