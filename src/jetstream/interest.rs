//! The subjects that the consumers of a stream want: for streams that keep a message only while
//! somebody does.

use std::collections::BTreeMap;

use crate::auth::subject_set::SubjectSet;

/// Filters of consumers, each with the number of those that have it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interest {
    filters: BTreeMap<Box<[u8]>, usize>,
    set: SubjectSet,
}

impl Interest {
    /// Adds the filters of a consumer; none = it wants everything.
    pub(crate) fn add(&mut self, filters: &[String]) {
        for filter in filters_or_all(filters) {
            let count = self.filters.entry(filter.into()).or_default();
            *count += 1;
            if *count == 1 {
                self.set.insert(filter);
            }
        }
    }

    /// Removes the filters that a consumer was added with.
    pub(crate) fn remove(&mut self, filters: &[String]) {
        let mut is_changed = false;
        for filter in filters_or_all(filters) {
            let Some(count) = self.filters.get_mut(filter) else { continue };
            *count -= 1;
            if *count == 0 {
                self.filters.remove(filter);
                is_changed = true;
            }
        }
        if is_changed {
            self.set = SubjectSet::default();
            self.filters.keys().for_each(|filter| self.set.insert(filter));
        }
    }

    /// True if some consumer wants a message with this subject.
    pub(crate) fn wants(&self, subject: &[u8]) -> bool {
        self.set.matches(subject)
    }
}

fn filters_or_all(filters: &[String]) -> impl Iterator<Item = &[u8]> {
    let all = filters.is_empty().then_some(&b">"[..]);
    filters.iter().map(String::as_bytes).chain(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_wanted_while_some_consumer_has_a_filter_for_them() {
        let mut interest = Interest::default();
        let filters =
            |filters: &[&str]| filters.iter().map(|one| (*one).into()).collect::<Vec<_>>();
        assert!(!interest.wants(b"a.b"));
        interest.add(&filters(&["a.*", "c"]));
        interest.add(&filters(&["a.*"]));
        assert!(interest.wants(b"a.b") && interest.wants(b"c") && !interest.wants(b"d"));
        interest.remove(&filters(&["a.*", "c"]));
        assert!(interest.wants(b"a.b") && !interest.wants(b"c"));
        interest.add(&[]);
        assert!(interest.wants(b"d"));
        interest.remove(&[]);
        interest.remove(&filters(&["a.*"]));
        assert!(!interest.wants(b"a.b") && !interest.wants(b"d"));
    }
}
