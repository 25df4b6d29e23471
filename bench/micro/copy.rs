//! Re-framing: payloads copied from a read buffer into an outbox's chunk, at any offset.
//!
//! For each size the worst pair of offsets counts, as a multiple of a plain copy between payloads
//! that both begin on cache lines and lie alike in their pages. Some processors copy an order of
//! magnitude slower when source and target differ by a few bytes modulo a page, which is what
//! turning PUB into MSG does. Source and target are as large as the largest buffers of a connection
//! and are walked through, as a busy server does: they come from the second level of cache, not
//! from the first.

use std::hint::black_box;
use std::time::Duration;

use midge::testing::base::limits::READ_BUFFER_BYTES;
use midge::testing::protocol::nats::encode::copy_payload;

use super::baseline::{Figure, Unit};
use super::cpu_time;

const PAGE_BYTES: usize = 4096;

const LINE_BYTES: usize = 64;

const SIZES: [usize; 15] = [
    1, 16, 100, 512, 1_024, 2_000, 2_001, 3_000, 4_096, 8_192, 16_384, 65_536, 131_072, 262_144,
    1_048_576,
];

/// Pairs of offsets: where source and target begin in their buffers.
const OFFSETS: [(usize, usize); 12] = [
    (0, 1),
    (0, 3),
    (0, 8),
    (0, 16),
    (0, 33),
    (0, 63),
    (1, 0),
    (5, 29),
    (24, 25),
    (29, 5),
    (40, 2_063),
    (63, 4_095),
];

/// Bytes of source and target that small payloads are cycled through.
const BUFFER_BYTES: usize = READ_BUFFER_BYTES[READ_BUFFER_BYTES.len() - 1];

/// Bytes copied for one timing: long enough for the clock, short enough for many rounds.
const TIMED_BYTES: usize = 4 << 20;

const COPIES_PER_TIMING_MAX: usize = 20_000;

/// The fastest of this many timings counts: other programs only ever make a copy slower.
const ROUNDS: usize = 15;

pub fn worst_ratios() -> Vec<Figure> {
    SIZES.map(worst_ratio).to_vec()
}

fn worst_ratio(size: usize) -> Figure {
    let mut buffers = Buffers::new(size);
    let (mut worst, mut worst_offsets) = (0.0, (0, 0));
    for offsets in OFFSETS {
        let (mut plain, mut reframed) = (Duration::MAX, Duration::MAX);
        // Alternating, so that both see the same conditions.
        for _ in 0..ROUNDS {
            plain = plain.min(buffers.time((0, 0), |out, payload| out.extend_from_slice(payload)));
            reframed = reframed.min(buffers.time(offsets, copy_payload));
        }
        let ratio = reframed.as_nanos() as f64 / plain.as_nanos() as f64;
        if ratio > worst {
            (worst, worst_offsets) = (ratio, offsets);
        }
    }
    println!(
        "copy of {size} B: at worst {worst:.2} times a plain aligned one, at {worst_offsets:?}"
    );
    Figure { name: format!("copy_ratio/{size}"), value: worst, unit: Unit::Ratio }
}

struct Buffers {
    size: usize,
    source: Vec<u8>,
    target: Vec<u8>,
    /// Distance from one payload to the next, in both buffers.
    stride: usize,
    /// Number of payloads that fit.
    place_count: usize,
}

impl Buffers {
    fn new(size: usize) -> Buffers {
        let stride = size.next_multiple_of(LINE_BYTES) + LINE_BYTES;
        let place_count = (BUFFER_BYTES / stride).max(1);
        let buffer = || vec![7; place_count * stride + 3 * PAGE_BYTES];
        Buffers { size, source: buffer(), target: buffer(), stride, place_count }
    }

    /// Times many copies from place to place.
    fn time(&mut self, offsets: (usize, usize), copy: impl Fn(&mut Vec<u8>, &[u8])) -> Duration {
        let count = (TIMED_BYTES / self.size).clamp(1, COPIES_PER_TIMING_MAX);
        let target = &mut self.target;
        target.resize(target.capacity(), 7);
        let from = page_begin(&self.source) + offsets.0;
        let to = page_begin(target) + offsets.1;
        let mut place = self.place_count;
        let start = cpu_time::now();
        for _ in 0..count {
            // Downwards, so that the target never has to be filled up to where a copy begins.
            if place == 0 {
                place = self.place_count;
                target.resize(target.capacity(), 7);
            }
            place -= 1;
            target.truncate(to + place * self.stride);
            let begin = from + place * self.stride;
            copy(black_box(target), black_box(&self.source[begin..begin + self.size]));
        }
        cpu_time::now() - start
    }
}

/// Returns the index of the first byte that begins a page.
fn page_begin(bytes: &[u8]) -> usize {
    let address = bytes.as_ptr() as usize;
    address.next_multiple_of(PAGE_BYTES) - address
}
