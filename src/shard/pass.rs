//! A walk over all connections of a shard, some per turn.

use slab::Slab;

/// A walk over all places of a slab, in steps. Entries inserted meanwhile may be visited or not.
#[derive(Debug, Default)]
pub(super) struct Pass {
    next_key: usize,
}

impl Pass {
    /// Looks at up to `places_max` places, including vacant ones, and visits their entries. True if
    /// there are more.
    pub(super) fn step<E>(
        &mut self,
        slab: &Slab<E>,
        places_max: usize,
        mut visit: impl FnMut(usize, &E),
    ) -> bool {
        let end = slab.capacity().min(self.next_key.saturating_add(places_max));
        for key in self.next_key..end {
            if let Some(entry) = slab.get(key) {
                visit(key, entry);
            }
        }
        self.next_key = end;
        end < slab.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_takes_steps_of_bounded_length_and_visits_each_entry_once() {
        let mut slab: Slab<usize> = Slab::new();
        for number in 0..1000 {
            slab.insert(number);
        }
        // Most places are vacant.
        for number in (0..1000).filter(|number| number % 10 != 3) {
            slab.remove(number);
        }
        let mut pass = Pass::default();
        let mut visited = Vec::new();
        let mut steps = 0;
        loop {
            let before = (pass.next_key, visited.len());
            let more = pass.step(&slab, 64, |key, number| {
                assert_eq!(key, *number);
                visited.push(*number);
            });
            steps += 1;
            assert!(pass.next_key - before.0 <= 64, "places looked at in one step");
            assert!(visited.len() - before.1 <= 7);
            if !more {
                break;
            }
        }
        let expected: Vec<usize> = (0..1000).filter(|number| number % 10 == 3).collect();
        assert_eq!(visited, expected);
        assert_eq!(steps, slab.capacity().div_ceil(64));
    }

    #[test]
    fn a_pass_over_nothing_ends() {
        assert!(!Pass::default().step(&Slab::<u8>::new(), 64, |_, _| panic!("nothing is there")));
    }
}
