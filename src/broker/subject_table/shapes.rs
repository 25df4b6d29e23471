//! The shapes of the wildcard filters in the table, each with how many filters have it.
//!
//! A shape is where a filter has its `*`, how many tokens it has, and whether it ends in `>`. There
//! are few shapes however many filters there are, because people write them: `orders.*.eu` and
//! `orders.*.us` share one. Given a subject, each shape leaves one text that a matching filter of
//! this shape must have.
//!
//! A match may stop at a place and go on later. As long as one is under way no shape changes its
//! place: one without filters stays where it is, where it matches nothing, and is dropped later, a
//! few with each change.

use std::cell::Cell;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::rc::Rc;

use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;

use super::filter_hash::wildcards_sum;
use super::shape::Shape;

/// Unused shapes whose room is kept once they are dropped.
const UNUSED_KEPT_MAX: usize = 64;

/// Shapes without filters that are dropped with each change: more than one can add.
const DROPPED_PER_CHANGE: usize = 2;

pub(super) struct Shapes {
    /// By ascending token count, none twice, none without a shape.
    groups: Vec<Group>,
    hash_state: SeedableRandomState,
    /// Matches under way.
    pins: Rc<Cell<usize>>,
}

/// Keeps every shape in its place.
pub(super) struct Pin(Rc<Cell<usize>>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A shape's place among those that fit a subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct ShapePlace {
    token_count: u32,
    index: u32,
}

impl ShapePlace {
    /// The place behind this one.
    pub(super) fn next(self) -> Self {
        Self { index: self.index + 1, ..self }
    }
}

struct Group {
    token_count: u32,
    /// The shapes without and with a final `>`.
    by_tail: [ShapeSet; 2],
}

/// Shapes that differ only in their stars.
#[derive(Default)]
struct ShapeSet {
    shapes: Vec<Counted>,
    /// The positions in `shapes`, by shape.
    positions: HashTable<u32>,
    /// The positions of shapes that lost their last filter and are not dropped yet. Some of them
    /// may have one again.
    unused: BinaryHeap<u32>,
}

pub(super) struct Counted {
    pub shape: Shape,
    pub wildcards_sum: u64,
    /// 0 for a shape that is to be dropped.
    filter_count: usize,
    /// It stands in `unused`.
    is_unused: bool,
}

impl Shapes {
    pub(super) fn new(hash_state: SeedableRandomState) -> Shapes {
        Shapes { groups: Vec::new(), hash_state, pins: Rc::default() }
    }

    /// For a match that stops and goes on later.
    pub(super) fn pin(&self) -> Pin {
        self.pins.set(self.pins.get() + 1);
        Pin(self.pins.clone())
    }

    /// Counts a filter of this shape in.
    pub(super) fn insert(&mut self, shape: &Shape) {
        let group = match self.group_of(shape) {
            Ok(index) => index,
            Err(index) => {
                let group = Group { token_count: shape.token_count, by_tail: Default::default() };
                self.groups.insert(index, group);
                index
            }
        };
        let hash = |shape: &Shape| self.hash_state.hash_one(shape);
        let set = &mut self.groups[group].by_tail[usize::from(shape.has_tail)];
        if let Some(position) = set.position(hash(shape), shape) {
            set.shapes[position].filter_count += 1;
            return;
        }
        let position = set.shapes.len() as u32;
        set.shapes.push(Counted {
            shape: shape.clone(),
            wildcards_sum: wildcards_sum(shape),
            filter_count: 1,
            is_unused: false,
        });
        let shapes = &set.shapes;
        set.positions.insert_unique(hash(shape), position, |&position| {
            hash(&shapes[position as usize].shape)
        });
    }

    /// Counts a filter of this shape out.
    pub(super) fn remove(&mut self, shape: &Shape) {
        let group = self.group_of(shape).expect("the shape was inserted");
        let hash = |shape: &Shape| self.hash_state.hash_one(shape);
        let by_tail = &mut self.groups[group].by_tail;
        let set = &mut by_tail[usize::from(shape.has_tail)];
        let position = set.position(hash(shape), shape).expect("the shape was inserted");
        let counted = &mut set.shapes[position];
        counted.filter_count -= 1;
        if counted.filter_count == 0 && !std::mem::replace(&mut counted.is_unused, true) {
            set.unused.push(position as u32);
        }
        if self.pins.get() > 0 {
            return;
        }
        for _ in 0..DROPPED_PER_CHANGE {
            set.drop_unused(hash);
        }
        if by_tail.iter().all(|set| set.shapes.is_empty()) {
            self.groups.remove(group);
        }
        if self.groups.is_empty() {
            self.groups = Vec::new();
        }
    }

    /// All shapes whose filters can match a subject of that many tokens, from a place on.
    #[inline]
    pub(super) fn fitting(
        &self,
        token_count: u32,
        from: ShapePlace,
    ) -> impl Iterator<Item = (ShapePlace, &Counted)> {
        let first = self.groups.partition_point(|group| group.token_count < from.token_count);
        let groups = &self.groups[first..];
        let groups = groups.iter().take_while(move |group| group.token_count <= token_count);
        groups.flat_map(move |group| {
            // A final `>` takes one token at least.
            let set = &group.by_tail[usize::from(group.token_count < token_count)];
            let is_first = group.token_count == from.token_count;
            let skipped = if is_first { from.index } else { 0 };
            let place = move |index| ShapePlace { token_count: group.token_count, index };
            (skipped..).map(place).zip(set.shapes.get(skipped as usize..).unwrap_or(&[]))
        })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self, expected: &std::collections::HashMap<Shape, usize>) {
        let sets = self.groups.iter().flat_map(|group| &group.by_tail);
        let used = |set: &ShapeSet| {
            let unused = set.shapes.iter().filter(|counted| counted.filter_count == 0);
            assert!(unused.clone().all(|counted| counted.is_unused));
            let noted = set.shapes.iter().filter(|counted| counted.is_unused).count();
            assert_eq!(noted, set.unused.len());
            assert_eq!(set.positions.len(), set.shapes.len());
            set.shapes.len() - unused.count()
        };
        assert_eq!(sets.map(used).sum::<usize>(), expected.len());
        for (shape, &filter_count) in expected {
            let group = self.group_of(shape).expect("a shape in use has its group");
            let set = &self.groups[group].by_tail[usize::from(shape.has_tail)];
            let position = set.position(self.hash_state.hash_one(shape), shape);
            let counted = position.map(|position| set.shapes[position].filter_count);
            assert_eq!(counted, Some(filter_count));
            let token_count = shape.token_count + u32::from(shape.has_tail);
            let fitting = self.fitting(token_count, ShapePlace::default());
            assert_eq!(fitting.filter(|(_, found)| found.shape == *shape).count(), 1);
        }
    }

    fn group_of(&self, shape: &Shape) -> Result<usize, usize> {
        self.groups.binary_search_by_key(&shape.token_count, |group| group.token_count)
    }
}

impl ShapeSet {
    fn position(&self, hash: u64, shape: &Shape) -> Option<usize> {
        let is_it = |&position: &u32| self.shapes[position as usize].shape == *shape;
        self.positions.find(hash, is_it).map(|&position| position as usize)
    }

    /// Drops one of the shapes without filters, if there is any. They go from the last position
    /// down: the one that takes the place of another is in use.
    fn drop_unused(&mut self, hash: impl Fn(&Shape) -> u64) {
        let Some(position) = self.unused.pop() else {
            // It has grown while a match was under way.
            if self.unused.capacity() > UNUSED_KEPT_MAX {
                self.unused = BinaryHeap::new();
            }
            return;
        };
        let counted = &mut self.shapes[position as usize];
        counted.is_unused = false;
        if counted.filter_count == 0 {
            self.drop_shape(position as usize, hash);
        }
    }

    fn drop_shape(&mut self, position: usize, hash: impl Fn(&Shape) -> u64) {
        let find = |positions: &mut HashTable<u32>, shape: &Shape, position: usize| {
            let is_it = |&found: &u32| found as usize == position;
            positions
                .find_entry(hash(shape), is_it)
                .expect("every shape has its position")
                .remove();
        };
        find(&mut self.positions, &self.shapes[position].shape, position);
        let last = self.shapes.len() - 1;
        if position != last {
            find(&mut self.positions, &self.shapes[last].shape, last);
        }
        self.shapes.swap_remove(position);
        let shapes = &self.shapes;
        let hash_at = |&position: &u32| hash(&shapes[position as usize].shape);
        if position != last {
            let moved = hash_at(&(position as u32));
            self.positions.insert_unique(moved, position as u32, hash_at);
        }
        if self.positions.capacity() > 16 && shapes.len() < self.positions.capacity() / 4 {
            self.positions.shrink_to(2 * shapes.len(), hash_at);
            self.shapes.shrink_to(2 * self.shapes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(stars: &[u32], token_count: u32, has_tail: bool) -> Shape {
        Shape { stars: stars.into(), token_count, has_tail }
    }

    fn fitting(shapes: &Shapes, token_count: u32) -> Vec<Shape> {
        let fitting = shapes.fitting(token_count, ShapePlace::default());
        fitting.map(|(_, counted)| counted.shape.clone()).collect()
    }

    #[test]
    fn shapes_fit_by_their_token_count() {
        let mut shapes = Shapes::new(SeedableRandomState::fixed());
        let [tail, star, pair, long] = [
            shape(&[], 0, true),
            shape(&[0], 1, false),
            shape(&[1], 2, false),
            shape(&[0], 2, true),
        ];
        for each in [&long, &pair, &star, &tail] {
            shapes.insert(each);
        }
        assert!(fitting(&shapes, 0).is_empty());
        assert_eq!(fitting(&shapes, 1), [tail.clone(), star]);
        assert_eq!(fitting(&shapes, 2), [tail.clone(), pair]);
        assert_eq!(fitting(&shapes, 3), [tail, long]);
    }

    #[test]
    fn a_shape_stays_until_its_last_filter_goes() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut shapes = Shapes::new(SeedableRandomState::fixed());
        let mut live: Vec<Shape> = Vec::new();
        for step in 0..3_000 {
            if live.is_empty() || random.u32(..10) < if step < 1_500 { 7 } else { 3 } {
                let stars: Vec<u32> = (0..8).filter(|_| random.bool()).collect();
                live.push(shape(&stars, 8, random.bool()));
                shapes.insert(&live[live.len() - 1]);
            } else {
                let removed = live.swap_remove(random.usize(..live.len()));
                shapes.remove(&removed);
            }
            for (token_count, has_tail) in [(8, false), (9, true)] {
                let mut expected: Vec<Shape> =
                    live.iter().filter(|each| each.has_tail == has_tail).cloned().collect();
                let mut found = fitting(&shapes, token_count);
                expected.sort_by(|left, right| left.stars.cmp(&right.stars));
                expected.dedup();
                found.sort_by(|left, right| left.stars.cmp(&right.stars));
                assert_eq!(found, expected);
            }
        }
        live.drain(..).for_each(|each| shapes.remove(&each));
        assert!(shapes.is_empty());
    }

    #[test]
    fn while_pinned_every_shape_keeps_its_place_and_none_is_missed() {
        let mut random = fastrand::Rng::with_seed(6);
        for round in 0..200 {
            let mut shapes = Shapes::new(SeedableRandomState::fixed());
            let all: Vec<Shape> =
                (0..24).map(|bits| shape(&[bits % 6, 6 + bits / 6], 12, false)).collect();
            let mut live: Vec<Shape> = all.iter().take(random.usize(1..24)).cloned().collect();
            live.iter().for_each(|each| shapes.insert(each));
            let lasting: Vec<Shape> = live.iter().filter(|_| random.bool()).cloned().collect();
            let pin = shapes.pin();
            let (mut place, mut seen) = (ShapePlace::default(), Vec::new());
            loop {
                let next = shapes.fitting(12, place).next();
                let Some((found, counted)) = next else { break };
                seen.push(counted.shape.clone());
                place = found.next();
                for _ in 0..random.usize(..4) {
                    let goes = random.usize(..live.len().max(1));
                    if live.get(goes).is_some_and(|shape| !lasting.contains(shape)) {
                        shapes.remove(&live.swap_remove(goes));
                    } else if let Some(comes) = all.iter().find(|shape| !live.contains(shape)) {
                        shapes.insert(comes);
                        live.push(comes.clone());
                    }
                }
            }
            for shape in &lasting {
                assert_eq!(seen.iter().filter(|found| *found == shape).count(), 1, "{round}");
            }
            drop(pin);
            let counts = live.iter().cloned().map(|shape| (shape, 1)).collect();
            shapes.check_invariants(&counts);
            live.iter().for_each(|each| shapes.remove(each));
            // Each further change drops what is left of those that went meanwhile.
            for _ in 0..24 {
                shapes.insert(&all[0]);
                shapes.remove(&all[0]);
            }
            assert!(shapes.is_empty());
        }
    }
}
