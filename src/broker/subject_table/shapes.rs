//! The shapes of the wildcard filters in the table, each with how many filters have it.
//!
//! A shape is where a filter has its `*`, how many tokens it has, and whether it ends in `>`. There are few
//! shapes however many filters there are, because people write them: `orders.*.eu` and `orders.*.us` share
//! one. Given a subject, each shape leaves one text that a matching filter of this shape must have.

use std::hash::BuildHasher;

use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::filter_hash::wildcards_sum;

/// The shape of one filter.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Shape {
    /// Where there is a `*`, ascending.
    pub stars: SmallVec<[u32; 4]>,
    /// Tokens, without the final `>`.
    pub token_count: u32,
    pub has_tail: bool,
}

impl Shape {
    pub fn has_wildcard(&self) -> bool {
        self.has_tail || !self.stars.is_empty()
    }
}

pub struct Shapes {
    /// By ascending token count, none twice, none without a shape.
    groups: Vec<Group>,
    hash_state: SeedableRandomState,
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
}

pub struct Counted {
    pub shape: Shape,
    pub wildcards_sum: u64,
    filter_count: usize,
}

impl Shapes {
    pub fn new(hash_state: SeedableRandomState) -> Shapes {
        Shapes { groups: Vec::new(), hash_state }
    }

    /// Counts a filter of this shape in.
    pub fn insert(&mut self, shape: &Shape) {
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
        });
        let shapes = &set.shapes;
        set.positions.insert_unique(hash(shape), position, |&position| {
            hash(&shapes[position as usize].shape)
        });
    }

    /// Counts a filter of this shape out.
    pub fn remove(&mut self, shape: &Shape) {
        let group = self.group_of(shape).expect("the shape was inserted");
        let hash = |shape: &Shape| self.hash_state.hash_one(shape);
        let by_tail = &mut self.groups[group].by_tail;
        let set = &mut by_tail[usize::from(shape.has_tail)];
        let position = set.position(hash(shape), shape).expect("the shape was inserted");
        set.shapes[position].filter_count -= 1;
        if set.shapes[position].filter_count > 0 {
            return;
        }
        set.drop_shape(position, hash);
        if by_tail.iter().all(|set| set.shapes.is_empty()) {
            self.groups.remove(group);
        }
        if self.groups.is_empty() {
            self.groups = Vec::new();
        }
    }

    /// All shapes whose filters can match a subject of that many tokens.
    #[inline]
    pub fn fitting(&self, token_count: u32) -> impl Iterator<Item = &Counted> {
        let groups = self.groups.iter().take_while(move |group| group.token_count <= token_count);
        // A final `>` takes one token at least.
        let sets =
            groups.map(move |group| &group.by_tail[usize::from(group.token_count < token_count)]);
        sets.flat_map(|set| &set.shapes)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    #[cfg(test)]
    pub fn check_invariants(&self, expected: &std::collections::HashMap<Shape, usize>) {
        let sets = self.groups.iter().flat_map(|group| &group.by_tail);
        assert_eq!(sets.map(|set| set.shapes.len()).sum::<usize>(), expected.len());
        for (shape, &filter_count) in expected {
            let group = self.group_of(shape).expect("a shape in use has its group");
            let set = &self.groups[group].by_tail[usize::from(shape.has_tail)];
            let position = set.position(self.hash_state.hash_one(shape), shape);
            assert_eq!(set.shapes[position.unwrap()].filter_count, filter_count);
            let token_count = shape.token_count + u32::from(shape.has_tail);
            assert_eq!(self.fitting(token_count).filter(|found| found.shape == *shape).count(), 1);
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
        shapes.fitting(token_count).map(|counted| counted.shape.clone()).collect()
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
}
