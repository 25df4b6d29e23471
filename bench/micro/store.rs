//! The cost of a stream in memory: append, read, delete and count, with a thousand messages and with a million.
//!
//! Messages have 128 bytes; of ten one has a subject of its own. `MIDGE_MICRO_LARGEST=1` measures ten million, too, which
//! takes some 3 GB of memory.

use std::hint::black_box;

use criterion::Criterion;
use midge::testing::storage::stream::pending::Pending;
use midge::testing::storage::stream::{NewMessage, Search, Stream, StreamLimits};

use crate::cpu_time::{self, CpuTime};

const SIZES: [u64; 2] = [1_000, 1_000_000];
const LARGEST: u64 = 10_000_000;

const PAYLOAD: [u8; 128] = [b'p'; 128];

/// Deletes that are timed together.
const BATCH: usize = 500;

struct Filled {
    stream: Stream,
    size: u64,
    next: u64,
}

impl Filled {
    fn new(size: u64) -> Self {
        let limits = StreamLimits { messages_max: size, ..StreamLimits::default() };
        let mut filled = Self { stream: Stream::new(limits, 1, 7), size, next: 0 };
        (0..size).for_each(|_| filled.append());
        filled
    }

    fn subject(&self, number: u64) -> String {
        let number = number * 7919 % (self.size / 10);
        format!("orders.{}.{number}", number % 10)
    }

    fn append(&mut self) {
        let subject = self.subject(self.next);
        self.append_to(&subject);
    }

    fn append_to(&mut self, subject: &str) {
        let new = NewMessage {
            time_ns: self.next as i64,
            subject: subject.as_bytes(),
            headers: b"",
            payload: &PAYLOAD,
        };
        self.next += 1;
        self.stream.take(new);
    }
}

pub fn bench(criterion: &mut Criterion<CpuTime>) {
    let largest = std::env::var("MIDGE_MICRO_LARGEST").is_ok_and(|text| text == "1");
    for size in SIZES.into_iter().chain(largest.then_some(LARGEST)) {
        let mut filled = Filled::new(size);
        let mut random = fastrand::Rng::with_seed(5);
        append(criterion, &mut filled);
        let stream = &filled.stream;
        let mut from = 0;
        criterion.bench_function(&format!("store_next/{size}"), |bencher| {
            bencher.iter(|| match stream.next(b">", from, 1).expect("all is in memory") {
                Search::Found(message) => {
                    from = message.sequence + 1;
                    message.payload.len()
                }
                Search::Nothing | Search::GoOn(_) => {
                    from = 0;
                    0
                }
            })
        });
        let subjects: Vec<String> = (0..10_000).map(|number| filled.subject(number)).collect();
        criterion.bench_function(&format!("store_last/{size}"), |bencher| {
            bencher.iter(|| {
                let subject = &subjects[random.usize(..subjects.len())];
                let found = stream.last_of(black_box(subject.as_bytes()));
                found.expect("all is in memory").map(|message| message.sequence)
            })
        });
        criterion.bench_function(&format!("store_pending/{size}"), |bencher| {
            let totals = stream.totals();
            bencher.iter(|| {
                let from = random.u64(totals.first_sequence..totals.last_sequence);
                let mut pending = Pending::new(black_box(b"orders.5.*"), from);
                stream.pending(&mut pending, usize::MAX)
            })
        });
        delete(criterion, &mut filled);
    }
}

/// With the oldest going for each that comes, so that the size stays.
fn append(criterion: &mut Criterion<CpuTime>, filled: &mut Filled) {
    let size = filled.size;
    criterion.bench_function(&format!("store_append/{size}"), |bencher| {
        bencher.iter_custom(|iterations| {
            cpu_time::in_batches(iterations, BATCH, |batch| {
                let numbers = filled.next..filled.next + batch as u64;
                let subjects: Vec<String> = numbers.map(|number| filled.subject(number)).collect();
                let start = cpu_time::now();
                subjects.iter().for_each(|subject| filled.append_to(subject));
                cpu_time::now() - start
            })
        })
    });
}

/// Anywhere in the stream; as many are appended again between, untimed.
fn delete(criterion: &mut Criterion<CpuTime>, filled: &mut Filled) {
    let size = filled.size;
    let mut random = fastrand::Rng::with_seed(6);
    criterion.bench_function(&format!("store_delete/{size}"), |bencher| {
        bencher.iter_custom(|iterations| {
            cpu_time::in_batches(iterations, BATCH, |batch| {
                let totals = filled.stream.totals();
                let mut sequences = Vec::new();
                while sequences.len() < batch {
                    let near = random.u64(totals.first_sequence..=totals.last_sequence);
                    let found = filled.stream.get(near).expect("all is in memory");
                    if found.is_some() && !sequences.contains(&near) {
                        sequences.push(near);
                    }
                }
                let start = cpu_time::now();
                for sequence in sequences {
                    assert_eq!(filled.stream.delete(sequence), Ok(true), "it is there");
                }
                let elapsed = cpu_time::now() - start;
                (0..batch).for_each(|_| filled.append());
                elapsed
            })
        })
    });
}
