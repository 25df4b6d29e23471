//! The subject table, and the memory it takes.
//!
//! - `memory/subscription`: resident memory, read from /proc/self/statm around the building of a
//!   table.
//!
//! Tables of 10,000 and 1,000,000 subscriptions, nine tenths literal and one tenth wildcards, drawn
//! at random over five tokens: region (20 different), site (as many as keep the filters per site
//! the same at both sizes), device (100), sensor (30), reading (10,000). A quarter each of the
//! wildcards are `*.site.device.*.*`, `*.site.*.sensor.*`, `region.site.>` and
//! `region.site.device.*.>`. Nearly all filters are distinct. The values are 8 bytes.
//!
//! - `match_new`: a subject that was never asked before, in random order over a large set of which
//!   half are some literal filter's subject and half are nobody's; nothing caches an answer. The
//!   same number of filters matches per subject at both sizes, so the ratio of the two figures
//!   shows caches and depth alone.
//! - `insert`, `remove`: one distinct filter, a tenth of them wildcards, into and out of the full
//!   table.
//! - `remove_shared`: one of 10,000 subscriptions of the same filter.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use midge::testing::broker::subject_table::{Slot, SubjectTable};

use super::baseline::{Figure, Unit};
use super::cpu_time::{self, CpuTime};

const SMALL: usize = 10_000;
const LARGE: usize = 1_000_000;
const SUBJECT_COUNT: usize = 1 << 20;

pub struct Generator {
    random: fastrand::Rng,
    site_count: u32,
    counter: u32,
}

impl Generator {
    pub fn new(seed: u64, subscription_count: usize) -> Generator {
        let site_count = (subscription_count / 500) as u32;
        Generator { random: fastrand::Rng::with_seed(seed), site_count, counter: 0 }
    }

    fn tokens(&mut self) -> [String; 5] {
        let random = &mut self.random;
        [
            format!("rg{}", random.u32(..20)),
            format!("site{:04}", random.u32(..self.site_count)),
            format!("dev{}", random.u32(..100)),
            format!("s{}", random.u32(..30)),
            format!("{:04}", random.u32(..10_000)),
        ]
    }

    pub fn literal(&mut self) -> String {
        self.tokens().join(".")
    }

    fn wildcard(&mut self) -> String {
        let [region, site, device, sensor, _] = self.tokens();
        match self.random.u32(..4) {
            0 => format!("*.{site}.{device}.*.*"),
            1 => format!("*.{site}.*.{sensor}.*"),
            2 => format!("{region}.{site}.>"),
            _ => format!("{region}.{site}.{device}.*.>"),
        }
    }

    /// Returns a filter; every tenth has a wildcard.
    fn filter(&mut self) -> String {
        self.counter += 1;
        if self.counter % 10 == 9 { self.wildcard() } else { self.literal() }
    }
}

struct Filled {
    table: SubjectTable<u64>,
    filters: Vec<(String, Slot)>,
    generator: Generator,
}

fn fill(count: usize) -> Filled {
    let mut generator = Generator::new(1, count);
    let mut table = SubjectTable::new(fastrand::u64(..));
    let mut filters: Vec<_> = (0..count).map(|_| (generator.filter(), None)).collect();
    for (number, (filter, slot)) in filters.iter_mut().enumerate() {
        *slot = Some(table.insert(filter.as_bytes(), number as u64));
    }
    let filters = filters.into_iter().map(|(filter, slot)| (filter, slot.unwrap())).collect();
    Filled { table, filters, generator }
}

/// Subjects that are contiguous in memory, as in a read buffer, so that the cost is that of the
/// table, not of reaching them.
struct Subjects {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Subjects {
    fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start as usize..end as usize])
    }
}

/// Returns subjects in random order; half have a literal subscription, half have none.
fn new_subjects(filled: &mut Filled) -> Subjects {
    let mut random = fastrand::Rng::with_seed(2);
    let mut subjects = Vec::with_capacity(SUBJECT_COUNT);
    while subjects.len() < SUBJECT_COUNT {
        subjects.push(filled.generator.literal());
        let (filter, _) = &filled.filters[random.usize(..filled.filters.len())];
        if !filter.contains(['*', '>']) {
            subjects.push(filter.clone());
        }
    }
    random.shuffle(&mut subjects);
    let mut packed = Subjects { bytes: Vec::new(), ends: Vec::new() };
    for subject in subjects {
        packed.bytes.extend_from_slice(subject.as_bytes());
        packed.ends.push(packed.bytes.len() as u32);
    }
    packed
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize = statm.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap();
    pages * 4096
}

/// Prints the memory of a table of a million, and what is left of it when all but a thousandth have
/// gone.
pub fn memory() -> Figure {
    let mut generator = Generator::new(1, LARGE);
    let mut filters: Vec<String> = (0..LARGE).map(|_| generator.filter()).collect();
    let text_bytes: usize = filters.iter().map(String::len).sum();
    let mut slots = vec![None; LARGE];
    let mut order: Vec<usize> = (0..LARGE).collect();
    fastrand::Rng::with_seed(3).shuffle(&mut order);
    let before = resident_bytes();
    let mut table = SubjectTable::new(fastrand::u64(..));
    let mut longest = Duration::ZERO;
    for (number, filter) in filters.iter_mut().enumerate() {
        let start = Instant::now();
        slots[number] = Some(table.insert(filter.as_bytes(), number as u64));
        longest = longest.max(start.elapsed());
    }
    let full = resident_bytes() - before;
    for &number in &order[LARGE / 1_000..] {
        table.remove(filters[number].as_bytes(), slots[number].unwrap()).unwrap();
    }
    // The allocator returns pages some time after they were freed, when it is next used.
    let mut rest = usize::MAX;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        black_box((0..100).map(|size| vec![0_u8; 100 * size]).collect::<Vec<_>>());
        rest = rest.min(resident_bytes().saturating_sub(before));
    }
    println!(
        "memory: {} B per subscription at {LARGE} ({} B of text each); slowest insert {} us; \
         {} KiB left once {} are left",
        full / LARGE,
        text_bytes / LARGE,
        longest.as_micros(),
        rest / 1024,
        table.len(),
    );
    let name = "memory/subscription".to_owned();
    Figure { name, value: (full / LARGE) as f64, unit: Unit::Bytes }
}

pub fn bench(criterion: &mut Criterion<CpuTime>) {
    for count in [SMALL, LARGE] {
        let mut filled = fill(count);
        let subjects = new_subjects(&mut filled);
        let mut matched = 0_u64;
        for subject in subjects.iter() {
            filled.table.for_each_match(subject, |_| matched += 1);
        }
        println!("{count}: {:.3} matches per subject", matched as f64 / subjects.ends.len() as f64);

        let mut next = subjects.iter().cycle();
        criterion.bench_function(&format!("match_new/{count}"), |bencher| {
            bencher.iter(|| {
                let subject = next.next().expect("it cycles");
                let mut sum = 0_u64;
                filled.table.for_each_match(black_box(subject), |value| sum += value);
                sum
            })
        });
        churn(criterion, count, &mut filled);
    }
    criterion.bench_function("remove_shared/10000", |bencher| {
        let mut table = SubjectTable::new(1);
        let mut slots: Vec<Slot> = (0..10_000).map(|value| table.insert(b"a.b", value)).collect();
        let mut random = fastrand::Rng::with_seed(4);
        bencher.iter(|| {
            let index = random.usize(..slots.len());
            table.remove(b"a.b", slots[index]).unwrap();
            slots[index] = table.insert(b"a.b", 7);
        })
    });
}

/// Inserts and removes in batches that are timed separately, so that the table's size stays the
/// same.
fn churn(criterion: &mut Criterion<CpuTime>, count: usize, filled: &mut Filled) {
    const BATCH: usize = 1_000;
    let Filled { table, generator, .. } = filled;
    for timed in ["insert", "remove"] {
        criterion.bench_function(&format!("{timed}/{count}"), |bencher| {
            bencher.iter_custom(|iterations| {
                cpu_time::in_batches(iterations, BATCH, |batch| {
                    let filters: Vec<String> = (0..batch).map(|_| generator.filter()).collect();
                    let start = cpu_time::now();
                    let slots: Vec<Slot> =
                        filters.iter().map(|filter| table.insert(filter.as_bytes(), 1)).collect();
                    let inserted = cpu_time::now() - start;
                    let start = cpu_time::now();
                    for (filter, slot) in filters.iter().zip(slots) {
                        black_box(table.remove(filter.as_bytes(), slot));
                    }
                    if timed == "insert" { inserted } else { cpu_time::now() - start }
                })
            })
        });
    }
}
