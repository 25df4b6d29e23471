//! The hash map of the subject table: from a 32-bit hash to the numbers of the entries that have it.
//!
//! Made for the case that nothing of it is in the processor's caches. A lookup that finds, and one that does
//! not, reads one cache line, rarely two: eight hashes and eight numbers lie in a line, and a full line
//! continues in the next. `touch` reads that line and nothing more, so that the lines of several lookups
//! arrive together.
//!
//! It never moves all its items at once: one array that doubles would stop the shard for milliseconds at a
//! million items. The items lie in segments, and the number of segments follows the number of items one by
//! one (linear hashing): a new last segment takes its share of exactly one older segment, and one that is
//! given up returns to it. A segment has as many lines as it needs, no power of two. So one insert or remove
//! moves the items of two segments at most, and memory follows the number of items, up and down.

/// Items of a line; with eight, hashes and numbers fill a cache line.
const LINE_ITEM_COUNT: usize = 8;

/// Items per segment, over all segments, at which one more segment is added. A segment not yet split
/// since the number of segments last doubled has up to twice as many.
const SEGMENT_ITEMS_MEAN_MAX: usize = 3_200;

/// Below this mean a segment is given up. Well under the other bound, so that a change back and forth
/// moves nothing.
const SEGMENT_ITEMS_MEAN_MIN: usize = 1_600;

/// Percent of a segment's places in use: above `MAX` it grows, below `MIN` it shrinks, to `FRESH`.
const FILL_PERCENT_MAX: usize = 80;
const FILL_PERCENT_FRESH: usize = 64;
const FILL_PERCENT_MIN: usize = 40;

/// A place without an item.
const EMPTY: u32 = u32::MAX;

/// The items are in front; so a line is full if its last place is.
#[derive(Clone)]
#[repr(align(64))]
struct Line {
    hashes: [u32; LINE_ITEM_COUNT],
    entries: [u32; LINE_ITEM_COUNT],
}

const _: () = assert!(size_of::<Line>() == 64, "a line is a cache line");

/// Items lie in the line their hash names, or in a later one if all between are full.
#[derive(Default)]
struct Segment {
    lines: Vec<Line>,
    item_count: usize,
}

pub struct LineTable {
    /// Never empty.
    segments: Vec<Segment>,
    item_count: usize,
}

/// The segment whose items a segment's items came from, and return to.
fn parent_of(segment_index: usize) -> usize {
    segment_index - (segment_index + 1).next_power_of_two() / 2
}

/// Chooses by the low bits of the hash; the high ones choose the line.
#[inline]
fn segment_of(hash: u32, segment_count: usize) -> usize {
    let doubled = segment_count.next_power_of_two();
    let index = hash as usize & (doubled - 1);
    if index < segment_count { index } else { index - doubled / 2 }
}

#[inline]
fn line_of(hash: u32, line_count: usize) -> usize {
    ((u64::from(hash) * line_count as u64) >> 32) as usize
}

impl LineTable {
    pub fn new() -> LineTable {
        LineTable { segments: vec![Segment::default()], item_count: 0 }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.item_count
    }

    #[inline]
    fn segment(&self, hash: u32) -> &Segment {
        &self.segments[segment_of(hash, self.segments.len())]
    }

    fn segment_mut(&mut self, hash: u32) -> &mut Segment {
        let index = segment_of(hash, self.segments.len());
        &mut self.segments[index]
    }

    /// Reads the line where a lookup begins. The result means nothing; it is there to be waited for.
    #[inline]
    pub fn touch(&self, hash: u32) -> u32 {
        let lines = &self.segment(hash).lines;
        lines.get(line_of(hash, lines.len())).map_or(0, |line| line.entries[0])
    }

    /// The first entry with this hash in the line where a lookup begins, or any number. It looks without a
    /// branch: a wrong guess of the processor would wait for the line before it does anything else.
    #[inline]
    pub fn first_in_line(&self, hash: u32) -> u32 {
        let lines = &self.segment(hash).lines;
        let Some(line) = lines.get(line_of(hash, lines.len())) else { return 0 };
        let equal = line.equal_places(hash);
        let entry = line.entries[equal.trailing_zeros() as usize % LINE_ITEM_COUNT];
        entry & 0_u32.wrapping_sub(u32::from(equal != 0))
    }

    /// An entry that has this hash and for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: u32, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let segment = self.segment(hash);
        let (line, place) = segment.find(hash, is_it)?;
        Some(segment.lines[line].entries[place])
    }

    /// Adds an entry; the caller knows that it is not there yet.
    pub fn insert(&mut self, hash: u32, entry: u32) {
        assert!(entry != EMPTY);
        self.item_count += 1;
        if self.item_count > self.segments.len() * SEGMENT_ITEMS_MEAN_MAX {
            self.add_segment();
        }
        let segment = self.segment_mut(hash);
        segment.resize_if_needed(segment.item_count + 1);
        segment.insert(hash, entry);
    }

    pub fn remove(&mut self, hash: u32, entry: u32) {
        let segment = self.segment_mut(hash);
        segment.remove(hash, entry);
        segment.resize_if_needed(segment.item_count);
        self.item_count -= 1;
        if self.item_count < (self.segments.len() - 1) * SEGMENT_ITEMS_MEAN_MIN {
            self.drop_segment();
        }
    }

    /// An entry has got another number.
    pub fn renumber(&mut self, hash: u32, old: u32, new: u32) {
        let segment = self.segment_mut(hash);
        let (line, place) =
            segment.find(hash, |entry| entry == old).expect("the caller inserted this entry");
        segment.lines[line].entries[place] = new;
    }

    fn add_segment(&mut self) {
        let segment_count = self.segments.len() + 1;
        let parent = std::mem::take(&mut self.segments[parent_of(segment_count - 1)]);
        self.segments.push(Segment::default());
        self.distribute(parent, segment_count);
    }

    fn drop_segment(&mut self) {
        let dropped = self.segments.pop().expect("there is always a segment");
        let segment_count = self.segments.len();
        let parent = std::mem::take(&mut self.segments[parent_of(segment_count)]);
        self.distribute(parent, segment_count);
        self.distribute(dropped, segment_count);
        if self.segments.capacity() > 4 * segment_count {
            self.segments.shrink_to(2 * segment_count);
        }
    }

    fn distribute(&mut self, source: Segment, segment_count: usize) {
        let mut counts = [0; 2];
        let target_of = |hash| segment_of(hash, segment_count);
        let last = segment_count - 1;
        source.items().for_each(|(hash, _)| counts[usize::from(target_of(hash) == last)] += 1);
        for (hash, entry) in source.items() {
            let target = target_of(hash);
            let segment = &mut self.segments[target];
            if segment.lines.is_empty() {
                segment.resize(counts[usize::from(target == last)]);
            }
            segment.resize_if_needed(segment.item_count + 1);
            segment.insert(hash, entry);
        }
    }
}

impl Segment {
    fn items(&self) -> impl Iterator<Item = (u32, u32)> {
        let places = |line: &Line| {
            std::iter::zip(line.hashes, line.entries).filter(|&(_, entry)| entry != EMPTY)
        };
        self.lines.iter().flat_map(places)
    }

    /// The line and the place in it.
    #[inline]
    fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<(usize, usize)> {
        let mut index = line_of(hash, self.lines.len());
        loop {
            let line = self.lines.get(index)?;
            let mut equal = line.equal_places(hash);
            while equal != 0 {
                let place = equal.trailing_zeros() as usize;
                if line.entries[place] != EMPTY && is_it(line.entries[place]) {
                    return Some((index, place));
                }
                equal &= equal - 1;
            }
            if line.entries[LINE_ITEM_COUNT - 1] == EMPTY {
                return None;
            }
            index = self.after(index);
        }
    }

    fn after(&self, index: usize) -> usize {
        if index + 1 == self.lines.len() { 0 } else { index + 1 }
    }

    /// There is room: a fifth of all places is empty at least.
    fn insert(&mut self, hash: u32, entry: u32) {
        let mut index = line_of(hash, self.lines.len());
        loop {
            let line = &mut self.lines[index];
            if let Some(place) = line.entries.iter().position(|&found| found == EMPTY) {
                line.hashes[place] = hash;
                line.entries[place] = entry;
                self.item_count += 1;
                return;
            }
            index = self.after(index);
        }
    }

    fn remove(&mut self, hash: u32, entry: u32) {
        let (mut hole, place) =
            self.find(hash, |found| found == entry).expect("the caller inserted this entry");
        self.item_count -= 1;
        // A lookup stops at the first line that is not full, so an item that had to pass the line with the
        // hole must move into it, which leaves a hole where it was.
        let mut was_full = self.lines[hole].take(place);
        let mut index = hole;
        while was_full {
            index = self.after(index);
            if index == hole {
                return;
            }
            let Some(place) = self.passed(hole, index) else {
                if self.lines[index].entries[LINE_ITEM_COUNT - 1] == EMPTY {
                    return;
                }
                continue;
            };
            let line = &mut self.lines[index];
            let moved = (line.hashes[place], line.entries[place]);
            was_full = line.take(place);
            let line = &mut self.lines[hole];
            (line.hashes[LINE_ITEM_COUNT - 1], line.entries[LINE_ITEM_COUNT - 1]) = moved;
            hole = index;
        }
    }

    /// The place in a line of an item whose lookup passes an earlier line.
    fn passed(&self, earlier: usize, index: usize) -> Option<usize> {
        let line_count = self.lines.len();
        let distance = |from: usize| (index + line_count - from) % line_count;
        let line = &self.lines[index];
        (0..LINE_ITEM_COUNT).find(|&place| {
            line.entries[place] != EMPTY
                && distance(line_of(line.hashes[place], line_count)) >= distance(earlier)
        })
    }

    fn resize_if_needed(&mut self, item_count: usize) {
        let places = self.lines.len() * LINE_ITEM_COUNT;
        let is_sparse = item_count * 100 < places * FILL_PERCENT_MIN && self.lines.len() > 1;
        if item_count * 100 > places * FILL_PERCENT_MAX || is_sparse {
            self.resize(item_count);
        }
    }

    /// Gives the segment as many lines as that many items want.
    fn resize(&mut self, item_count: usize) {
        let places = item_count * 100 / FILL_PERCENT_FRESH;
        let line = Line { hashes: [0; LINE_ITEM_COUNT], entries: [EMPTY; LINE_ITEM_COUNT] };
        let fresh = Segment { lines: vec![line; places / LINE_ITEM_COUNT + 1], item_count: 0 };
        let old = std::mem::replace(self, fresh);
        for (hash, entry) in old.items() {
            self.insert(hash, entry);
        }
    }
}

impl Line {
    /// A bit for each place with this hash, also for empty ones. Nearly always none or one.
    #[inline]
    fn equal_places(&self, hash: u32) -> u32 {
        // The compiler makes a few vector instructions of it.
        let mut equal = 0;
        for place in 0..LINE_ITEM_COUNT {
            equal |= u32::from(self.hashes[place] == hash) << place;
        }
        equal
    }

    /// Empties a place, keeps the items in front, and tells whether the line was full.
    fn take(&mut self, place: usize) -> bool {
        let count = self.entries.iter().take_while(|&&entry| entry != EMPTY).count();
        self.hashes[place] = self.hashes[count - 1];
        self.entries[place] = self.entries[count - 1];
        self.entries[count - 1] = EMPTY;
        count == LINE_ITEM_COUNT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(number: u32) -> u32 {
        fastrand::Rng::with_seed(u64::from(number)).u32(..)
    }

    fn contains(table: &LineTable, hash: u32, entry: u32) -> bool {
        table.find(hash, |found| found == entry).is_some()
    }

    fn place_count(table: &LineTable) -> usize {
        table.segments.iter().map(|segment| segment.lines.len() * LINE_ITEM_COUNT).sum()
    }

    #[test]
    fn items_stay_findable_while_segments_come_and_go() {
        let count = 80_000;
        let mut table = LineTable::new();
        for number in 0..count {
            table.insert(hash_of(number), number);
            assert!(table.segments.len() * SEGMENT_ITEMS_MEAN_MAX >= table.len());
        }
        assert!(table.segments.len() > 20);
        let most = table.segments.iter().map(|segment| segment.item_count).max();
        assert!(most < Some(3 * SEGMENT_ITEMS_MEAN_MAX), "{most:?}");
        assert!(place_count(&table) * FILL_PERCENT_MIN <= table.len() * 100);
        assert!((0..count).all(|number| contains(&table, hash_of(number), number)));
        assert!(!contains(&table, hash_of(count), count));

        table.renumber(hash_of(5), 5, count + 7);
        assert!(!contains(&table, hash_of(5), 5));
        table.renumber(hash_of(5), count + 7, 5);

        for number in 0..count {
            table.remove(hash_of(number), number);
            assert!(!contains(&table, hash_of(number), number));
            if number % 4_999 == 0 {
                assert!((number + 1..count).all(|rest| contains(&table, hash_of(rest), rest)));
            }
        }
        assert_eq!((table.len(), table.segments.len()), (0, 1));
        assert!(place_count(&table) <= 64);
    }

    #[test]
    fn crowded_lines_agree_with_a_list() {
        // Few different hashes: lines overflow into each other all the time, also around the end.
        let mut random = fastrand::Rng::with_seed(9);
        for round in 0..60 {
            let hashes: Vec<u32> = (0..1 + round % 20).map(|_| random.u32(..)).collect();
            let mut table = LineTable::new();
            let mut twin: Vec<(u32, u32)> = Vec::new();
            for entry in 0..600 {
                if random.u32(..10) < if entry < 300 { 8 } else { 3 } {
                    let hash = hashes[random.usize(..hashes.len())];
                    table.insert(hash, entry);
                    twin.push((hash, entry));
                } else if !twin.is_empty() {
                    let (hash, entry) = twin.swap_remove(random.usize(..twin.len()));
                    table.remove(hash, entry);
                    assert!(!contains(&table, hash, entry));
                }
                assert_eq!(table.len(), twin.len());
                assert!(twin.iter().all(|&(hash, entry)| contains(&table, hash, entry)));
            }
        }
    }

    #[test]
    fn a_segment_and_its_parent_agree_about_every_hash() {
        for segment_count in 1..200 {
            for hash in 0..1_000 {
                let before = segment_of(hash, segment_count);
                let after = segment_of(hash, segment_count + 1);
                assert!(before < segment_count);
                assert!(
                    before == after
                        || (after == segment_count && before == parent_of(segment_count))
                );
            }
        }
    }
}
