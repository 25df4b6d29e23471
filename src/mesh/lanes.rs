//! The rings of all ordered pairs of shards, made before the shards' threads start.

use std::time::Instant;

use crate::base::ids::{ClientKey, ShardId};
use crate::base::limits::{
    INTEREST_LANE_SLOTS, INTEREST_ROOM_MIN, INTEREST_SLOTS_PER_SHARD, MESSAGE_LANE_SLOTS,
    PASSED_ON_SLOTS, QUEUE_HOPS_MAX, RETURNED_BATCHES_MAX, RETURNED_BATCHES_PER_SHARD,
};
use crate::base::ring::{ParkFlag, RingSource, RingTarget, Signal, Watermark, Watermarks, ring};
use crate::broker::link::{InterestChange, Target, Unheard};

/// A note on an interest lane, which keeps their order.
#[derive(Clone, Debug)]
pub enum Note {
    Interest(InterestChange),
    /// A consumer here asks a publisher there to pause, or lets it go on.
    Pace {
        client: ClientKey,
        paused: bool,
    },
    /// Nobody here got a request from there.
    Unheard(Box<Unheard>),
}

impl Note {
    /// Bytes of the texts in it.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Interest(change) => change.filter().len() + change.queue().len(),
            Self::Pace { .. } => 0,
            Self::Unheard(unheard) => unheard.subject.len() + unheard.reply.len(),
        }
    }
}

/// Classes of messages on a lane: by the times that they were passed on.
pub(super) const CLASSES: usize = QUEUE_HOPS_MAX as usize + 1;

/// Slots on each lane of all classes but that of messages which come from their publishers.
pub(super) const PASSED_ON_SLOTS_SUM: usize = (CLASSES - 1) * PASSED_ON_SLOTS;

/// The times that the messages of a batch were passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneClass(u8);

impl LaneClass {
    pub(super) fn of(target: &Target<'_>) -> Self {
        Self(target.hops)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A batch on a message lane: messages as `frame` lays them out.
#[derive(Debug)]
pub struct Batch {
    pub bytes: Vec<u8>,
    /// The work of its delivery, as far as its source knows.
    pub work: usize,
    /// The turn in which the first of them was read, on whatever shard that was.
    pub read_at: Instant,
    /// The time just before it was pushed, by the lanes' clock.
    pub stamp: u64,
    pub class: LaneClass,
}

/// The clock of all lanes of a server, in nanoseconds from 1 on: what is read after something else
/// that happened, on whatever shard, is later.
pub(super) type LaneClock = Box<dyn Fn() -> u64 + Send>;

/// Wakes a shard if it sleeps; true if it had to.
pub(super) type Wake = Box<dyn Fn() -> bool + Send>;

/// The source's ends of one ordered pair.
pub struct SourceEnd {
    pub notes: RingSource<Note>,
    pub messages: RingSource<Batch>,
    pub returned: RingTarget<Vec<u8>>,
    /// Batches of each class that the target has delivered since the start.
    pub delivered: Watermarks<CLASSES>,
    /// Tells the target that there is something, awake or not.
    pub target_waiting: Signal,
    pub wake_target: Wake,
    /// Set while the source has something staged.
    pub waiting: ParkFlag,
}

/// The target's ends of one ordered pair.
pub struct TargetEnd {
    pub notes: RingTarget<Note>,
    pub messages: RingTarget<Batch>,
    pub returned: RingSource<Vec<u8>>,
    /// The stamp up to which the source has pushed all batches, on all its lanes.
    pub complete: Watermark,
    /// Batches of each class from this source that were delivered since the start.
    pub delivered: Watermarks<CLASSES>,
    pub wake_source: Wake,
    pub waiting: ParkFlag,
}

/// Both directions between this shard and one peer.
pub struct PeerEnds {
    pub source: SourceEnd,
    pub target: TargetEnd,
}

/// One shard's ends, peers in shard order, itself left out.
pub struct LaneEnds {
    pub shard: ShardId,
    pub peers: Vec<PeerEnds>,
    /// Raised by peers that pushed something.
    pub inbound_waiting: Signal,
    /// The stamp up to which this shard has pushed all batches.
    pub complete: Watermark,
    pub clock: LaneClock,
}

/// Sizes of the rings, smaller in tests.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    pub note_slots: usize,
    pub message_slots: usize,
    /// Empty batches on their way back to the shard that made them.
    pub returned_slots: usize,
}

impl Lanes {
    /// Sizes of the lanes of a server with `count` shards: the more there are, the smaller, so that
    /// the memory of all lanes does not grow with the square of their number.
    pub fn of(count: usize) -> Self {
        let peers = count.saturating_sub(1).max(1);
        Self {
            note_slots: (INTEREST_SLOTS_PER_SHARD / peers)
                .clamp(4 * INTEREST_ROOM_MIN, INTEREST_LANE_SLOTS),
            message_slots: MESSAGE_LANE_SLOTS,
            returned_slots: (RETURNED_BATCHES_PER_SHARD / peers).clamp(1, RETURNED_BATCHES_MAX),
        }
    }
}

const _: () = assert!(size_of::<Note>() <= 56, "as the limits say");

/// The ends for `count` shards; `wake(from, to)` gives shard `from` what wakes shard `to`.
pub fn lanes(count: usize, sizes: Lanes, wake: impl Fn(usize, usize) -> Wake) -> Vec<LaneEnds> {
    let signals: Vec<Signal> = (0..count).map(|_| Signal::default()).collect();
    let watermarks: Vec<Watermark> = (0..count).map(|_| Watermark::default()).collect();
    let began = Instant::now();
    let mut sources: Vec<Vec<Option<SourceEnd>>> = Vec::new();
    let mut targets: Vec<Vec<Option<TargetEnd>>> =
        (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
    for from in 0..count {
        let mut row = Vec::new();
        for (to, targets) in targets.iter_mut().enumerate() {
            if from == to {
                row.push(None);
                continue;
            }
            let (note_source, note_target) = ring(sizes.note_slots);
            let (message_source, message_target) = ring(sizes.message_slots + PASSED_ON_SLOTS_SUM);
            let (return_source, return_target) = ring(sizes.returned_slots);
            let (waiting, delivered) = (ParkFlag::default(), Watermarks::default());
            row.push(Some(SourceEnd {
                notes: note_source,
                messages: message_source,
                returned: return_target,
                delivered: delivered.clone(),
                target_waiting: signals[to].clone(),
                wake_target: wake(from, to),
                waiting: waiting.clone(),
            }));
            targets[from] = Some(TargetEnd {
                notes: note_target,
                messages: message_target,
                returned: return_source,
                complete: watermarks[from].clone(),
                delivered,
                wake_source: wake(to, from),
                waiting,
            });
        }
        sources.push(row);
    }
    sources
        .into_iter()
        .zip(targets)
        .zip(signals.into_iter().zip(watermarks))
        .enumerate()
        .map(|(index, ((sources, targets), (inbound_waiting, complete)))| {
            let pairs = sources.into_iter().zip(targets);
            let peers = pairs
                .filter_map(|(source, target)| Some(PeerEnds { source: source?, target: target? }))
                .collect();
            let clock = Box::new(move || 1 + began.elapsed().as_nanos() as u64);
            let shard = ShardId(u16::try_from(index).expect("few shards"));
            LaneEnds { shard, peers, inbound_waiting, complete, clock }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_get_smaller_with_the_number_of_shards() {
        let sizes = |count| {
            let Lanes { note_slots, returned_slots, .. } = Lanes::of(count);
            (note_slots, returned_slots)
        };
        assert_eq!([1, 2, 4].map(sizes), [(1024, 8); 3]);
        assert_eq!(sizes(8), (438, 4));
        assert_eq!(sizes(16), (256, 2));
        assert_eq!(sizes(64), (256, 1));
    }
}
