//! Counts every message of a subscription: received, lost, doubled, out of order.
//!
//! Messages of one publisher carry its sequence. A subscription sees every `step`-th of them (one
//! of several subjects) and expects them in order. A gap is remembered: a message that fills it
//! later was out of order, one that comes again was doubled, and those still missing at the end
//! were lost.

use crate::findings::counts::Counts;
use crate::wire::frames::read_stamp;

/// Gaps remembered per stream. Beyond that the oldest is given up: its messages stay lost, and one
/// that arrives after all counts as doubled. The counts are then still not zero, which is what
/// matters.
const GAPS_MAX: usize = 65_536;

/// One publisher's messages on one subscription.
#[derive(Clone, Debug)]
struct Stream {
    /// The next sequence expected.
    expected: u64,
    step: u64,
    /// Half-open ranges of sequences not seen, ascending.
    gaps: Vec<(u64, u64)>,
}

impl Stream {
    #[cold]
    fn unexpected(&mut self, sequence: u64, counts: &mut Counts) {
        if sequence > self.expected {
            if self.gaps.len() == GAPS_MAX {
                let (begin, end) = self.gaps.remove(0);
                counts.lost += (end - begin) / self.step;
            }
            self.gaps.push((self.expected, sequence));
            self.expected = sequence + self.step;
            return;
        }
        let found = self.gaps.partition_point(|&(_, end)| end <= sequence);
        match self.gaps.get(found).copied() {
            Some((begin, end)) if begin <= sequence => {
                counts.out_of_order += 1;
                self.gaps.remove(found);
                if sequence + self.step < end {
                    self.gaps.insert(found, (sequence + self.step, end));
                }
                if begin < sequence {
                    self.gaps.insert(found, (begin, sequence));
                }
            }
            _ => counts.doubled += 1,
        }
    }
}

/// All streams of one subscriber that expects every message of its subjects.
#[derive(Clone, Debug)]
pub struct OrderTracker {
    streams: Vec<Stream>,
    /// Number of subjects that a publisher cycles over if this subscriber sees only some; else 1.
    subject_count: u64,
    /// The subjects that this subscriber has.
    subscribed: Vec<bool>,
    counts: Counts,
}

impl OrderTracker {
    /// `subscribed[i]` is true if this subscriber gets the messages with `sequence %
    /// subscribed.len() == i`.
    pub fn new(publisher_count: usize, subscribed: &[bool]) -> OrderTracker {
        // A subscriber of all subjects checks the order over all of them.
        let all = subscribed.iter().all(|&has| has);
        let subscribed = if all { vec![true] } else { subscribed.to_vec() };
        let subject_count = subscribed.len() as u64;
        let one = (0..subject_count).map(|subject_index| Stream {
            expected: subject_index,
            step: subject_count,
            gaps: Vec::new(),
        });
        let streams = (0..publisher_count).flat_map(|_| one.clone()).collect();
        OrderTracker { streams, subject_count, subscribed, counts: Counts::default() }
    }

    #[inline]
    pub fn record(&mut self, publisher: u16, sequence: u64) {
        self.counts.received += 1;
        let mut index = usize::from(publisher);
        if self.subject_count > 1 {
            let subject_index = (sequence % self.subject_count) as usize;
            if !self.subscribed[subject_index] {
                self.counts.foreign += 1;
                return;
            }
            index = index * self.subject_count as usize + subject_index;
        }
        let Some(stream) = self.streams.get_mut(index) else {
            self.counts.foreign += 1;
            return;
        };
        if stream.expected == sequence {
            stream.expected += stream.step;
        } else {
            stream.unexpected(sequence, &mut self.counts);
        }
    }

    /// Counts a message without a readable stamp.
    pub fn record_foreign(&mut self) {
        self.counts.received += 1;
        self.counts.foreign += 1;
    }

    pub fn received(&self) -> u64 {
        self.counts.received
    }

    /// Returns the number of messages that this subscriber should have got if publisher `i` sent
    /// `published[i]`.
    pub fn expected_count(&self, published: &[u64]) -> u64 {
        let per_publisher = |&count: &u64| -> u64 {
            (0..self.subject_count)
                .filter(|&subject_index| self.subscribed[subject_index as usize])
                .map(|subject_index| members_below(count, subject_index, self.subject_count))
                .sum()
        };
        published.iter().map(per_publisher).sum()
    }

    /// Returns the counts; what never came counts as lost.
    pub fn finish(mut self, published: &[u64]) -> Counts {
        for (index, stream) in self.streams.iter().enumerate() {
            let subject_index = index as u64 % self.subject_count;
            if !self.subscribed[subject_index as usize] {
                continue;
            }
            let publisher = index / self.subject_count as usize;
            let sent = published.get(publisher).copied().unwrap_or(0);
            let in_gaps: u64 =
                stream.gaps.iter().map(|(begin, end)| (end - begin) / stream.step).sum();
            let tail = members_below(sent, subject_index, self.subject_count)
                .saturating_sub((stream.expected - subject_index) / self.subject_count);
            self.counts.lost += in_gaps + tail;
        }
        self.counts
    }
}

/// Returns how many numbers below `limit` leave `remainder` when divided by `divisor`.
fn members_below(limit: u64, remainder: u64, divisor: u64) -> u64 {
    (limit + divisor - 1 - remainder) / divisor
}

/// One member of a queue group: each message goes to one member, so only the union of all is
/// complete.
#[derive(Clone, Debug, Default)]
pub struct GroupTracker {
    /// Per publisher: one bit per sequence.
    seen: Vec<Vec<u64>>,
    /// Per publisher: the sequence after the last one.
    next: Vec<u64>,
    counts: Counts,
}

impl GroupTracker {
    pub fn new(publisher_count: usize) -> GroupTracker {
        GroupTracker {
            seen: vec![Vec::new(); publisher_count],
            next: vec![0; publisher_count],
            counts: Counts::default(),
        }
    }

    #[inline]
    pub fn record(&mut self, publisher: u16, sequence: u64) {
        self.counts.received += 1;
        let index = usize::from(publisher);
        if index >= self.seen.len() {
            self.counts.foreign += 1;
            return;
        }
        let (word, bit) = ((sequence / 64) as usize, 1u64 << (sequence % 64));
        let words = &mut self.seen[index];
        if word >= words.len() {
            words.resize(word + 1, 0);
        }
        if words[word] & bit != 0 {
            self.counts.doubled += 1;
        } else if sequence < self.next[index] {
            self.counts.out_of_order += 1;
        }
        words[word] |= bit;
        self.next[index] = self.next[index].max(sequence + 1);
    }

    pub fn record_foreign(&mut self) {
        self.counts.received += 1;
        self.counts.foreign += 1;
    }

    /// Returns the counts of the whole group: a message that two members got was doubled, one that
    /// nobody got was lost.
    pub fn finish_group(members: Vec<GroupTracker>, published: &[u64]) -> Counts {
        let mut total = Counts::default();
        for member in &members {
            total.add(&member.counts);
        }
        for (publisher, &sent) in published.iter().enumerate() {
            let mut distinct = 0;
            for word in 0..sent.div_ceil(64) as usize {
                let mut union = 0u64;
                for member in &members {
                    let bits = member.seen[publisher].get(word).copied().unwrap_or(0);
                    total.doubled += u64::from((union & bits).count_ones());
                    union |= bits;
                }
                distinct += u64::from(union.count_ones());
            }
            total.lost += sent.saturating_sub(distinct);
        }
        total
    }
}

/// A subscriber's record of the messages that it has received.
pub enum Tracker {
    Order(OrderTracker),
    Group(GroupTracker),
    /// Payloads too short for a stamp: only their number is known.
    Number(u64),
}

impl Tracker {
    #[inline]
    pub fn record(&mut self, payload: &[u8]) {
        match self {
            Tracker::Order(tracker) => match read_stamp(payload) {
                Some((publisher, sequence)) => tracker.record(publisher, sequence),
                None => tracker.record_foreign(),
            },
            Tracker::Group(tracker) => match read_stamp(payload) {
                Some((publisher, sequence)) => tracker.record(publisher, sequence),
                None => tracker.record_foreign(),
            },
            Tracker::Number(count) => *count += 1,
        }
    }
}

/// Returns the counts of all subscribers of a run if publisher `i` sent `published[i]`.
pub fn finish_all(trackers: Vec<Tracker>, published: &[u64]) -> Counts {
    let mut total = Counts::default();
    let mut group = Vec::new();
    for tracker in trackers {
        match tracker {
            Tracker::Order(tracker) => total.add(&tracker.finish(published)),
            Tracker::Group(tracker) => group.push(tracker),
            Tracker::Number(received) => {
                let sent: u64 = published.iter().sum();
                total.received += received;
                total.lost += sent.saturating_sub(received);
                total.doubled += received.saturating_sub(sent);
            }
        }
    }
    if !group.is_empty() {
        total.add(&GroupTracker::finish_group(group, published));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(sequences: &[u64], published: u64) -> Counts {
        let mut tracker = OrderTracker::new(1, &[true]);
        for &sequence in sequences {
            tracker.record(0, sequence);
        }
        tracker.finish(&[published])
    }

    #[test]
    fn a_clean_stream_counts_nothing_wrong() {
        let counts = track(&[0, 1, 2, 3], 4);
        assert!(counts.all_good());
        assert_eq!(counts.received, 4);
    }

    #[test]
    fn losses_doubles_and_swaps_are_told_apart() {
        let counts = track(&[0, 1, 1, 3, 2, 6, 6, 5], 9);
        // Lost: 4, 7 and 8. Doubled: 1 and 6. Out of order: 2 and 5.
        assert_eq!((counts.lost, counts.doubled, counts.out_of_order), (3, 2, 2));
    }

    #[test]
    fn random_damage_agrees_with_a_naive_twin() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..300 {
            let published = random.u64(1..60);
            let mut sequences = Vec::new();
            for sequence in 0..published {
                for _ in 0..[0, 1, 1, 1, 2][random.usize(0..5)] {
                    let place = sequences.len() - random.usize(0..3).min(sequences.len());
                    sequences.insert(place, sequence);
                }
            }
            let (mut seen, mut highest, mut twin) = (Vec::new(), None, Counts::default());
            for &sequence in &sequences {
                twin.received += 1;
                if seen.contains(&sequence) {
                    twin.doubled += 1;
                } else if highest > Some(sequence) {
                    twin.out_of_order += 1;
                }
                highest = highest.max(Some(sequence));
                seen.push(sequence);
            }
            twin.lost = (0..published).filter(|sequence| !seen.contains(sequence)).count() as u64;
            assert_eq!(track(&sequences, published), twin, "{sequences:?} of {published}");
        }
    }

    #[test]
    fn a_subscriber_of_some_subjects_expects_only_those() {
        let mut tracker = OrderTracker::new(2, &[false, true, true]);
        for sequence in [1, 2, 4, 8] {
            tracker.record(0, sequence);
        }
        tracker.record(1, 1);
        tracker.record(1, 3);
        tracker.record(9, 1);
        assert_eq!(tracker.expected_count(&[9, 3]), 6 + 2);
        let counts = tracker.finish(&[9, 3]);
        // Publisher 0: 5 and 7 are missing; publisher 1: 2 is. Sequence 3 and publisher 9 are
        // foreign.
        assert_eq!((counts.received, counts.lost, counts.foreign), (7, 3, 2));
        assert_eq!((counts.doubled, counts.out_of_order), (0, 0));
    }

    #[test]
    fn a_queue_group_is_complete_only_together() {
        let mut members = vec![GroupTracker::new(1), GroupTracker::new(1)];
        for sequence in 0..200 {
            members[(sequence % 3 == 0) as usize].record(0, sequence);
        }
        assert!(GroupTracker::finish_group(members.clone(), &[200]).all_good());
        members[0].record(0, 3); // The other member had it already: doubled, and late for this one.
        members[1].record(0, 199);
        let counts = GroupTracker::finish_group(members, &[202]);
        assert_eq!((counts.lost, counts.doubled, counts.out_of_order), (2, 2, 1));
    }
}
