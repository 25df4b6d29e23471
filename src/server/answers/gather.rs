//! Questions to all shards: asked in small parts, answered on their threads, gathered here within a
//! deadline.
//!
//! A shard that does not answer is named and not asked again until it has answered: its orders do
//! not pile up, and one stuck shard delays only the first answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::base::limits::{MONITOR_ANSWER_BYTES_MAX, MONITOR_ENTRIES_MAX};
use crate::monitor::snapshot::Gathered;
use crate::shard::order::{Pending, Reply};
use crate::shard::pages::Page;
use crate::shard::{ShardHandle, ShardOrder};

/// Longest time for one part of an answer. A shard's turn takes about a millisecond, so a shard or
/// a machine that needs more is in trouble.
const PART_DEADLINE: Duration = Duration::from_secs(1);

/// Interval at which waiting checks whether the server ends.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// The most that one answer may gather. Parts already requested may exceed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub items: usize,
    pub bytes: usize,
}

impl Room {
    /// For lists whose length the configuration determines.
    pub(crate) const UNBOUNDED: Self = Self { items: usize::MAX, bytes: usize::MAX };

    /// For lists whose length peers determine.
    pub(crate) const LIST: Self =
        Self { items: MONITOR_ENTRIES_MAX, bytes: MONITOR_ANSWER_BYTES_MAX };
}

/// Asks all shards of the server, on behalf of one thread.
pub(crate) struct Gatherer {
    shards: Vec<Asked>,
    part_deadline: Duration,
    stopping: Arc<AtomicBool>,
}

struct Asked {
    handle: ShardHandle,
    /// Set while the shard is late: over when it is back.
    back: Option<Pending<()>>,
}

impl Asked {
    fn is_late(&mut self) -> bool {
        let is_late = self.back.as_ref().is_some_and(|back| !back.is_over());
        if !is_late {
            self.back = None;
        }
        is_late
    }

    fn note_late(&mut self) {
        self.back = Some(self.handle.ask(ShardOrder::Alive));
    }
}

/// The part of a list that one shard has returned so far.
struct Part<T, P> {
    shard: usize,
    items: Vec<T>,
    pending: Option<Pending<Page<T, P>>>,
}

impl Gatherer {
    /// Once `stopping` is set no shard is waited for.
    pub(crate) fn new(handles: Vec<ShardHandle>, stopping: Arc<AtomicBool>) -> Self {
        let shards = handles.into_iter().map(|handle| Asked { handle, back: None }).collect();
        Self { shards, part_deadline: PART_DEADLINE, stopping }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Returns one answer of each shard.
    pub(crate) fn all<T>(&mut self, question: impl Fn(Reply<T>) -> ShardOrder) -> Gathered<T> {
        let mut late_shards = Vec::new();
        let mut waiting = Vec::new();
        for (shard, asked) in self.shards.iter_mut().enumerate() {
            match asked.is_late() {
                true => late_shards.push(shard),
                false => waiting.push((shard, asked.handle.ask(&question))),
            }
        }
        let deadline = Instant::now() + self.part_deadline;
        let mut answers = Vec::new();
        for (shard, pending) in waiting {
            match self.wait(pending, deadline) {
                Some(answer) => answers.push((shard, answer)),
                None => {
                    self.shards[shard].note_late();
                    late_shards.push(shard);
                }
            }
        }
        late_shards.sort_unstable();
        Gathered { answers, late_shards, cut: false }
    }

    fn wait<T>(&self, mut pending: Pending<T>, deadline: Instant) -> Option<T> {
        while !pending.is_over() && !self.is_stopping() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // The answer unparks this thread.
            std::thread::park_timeout(left.min(STOP_LOOK));
        }
        pending.take()
    }

    /// Returns a list from each of some shards, part by part: `question` gets the shard and the
    /// place to continue from. Stops asking once there is no more room; `weigh` returns the bytes
    /// of an item.
    pub(crate) fn pages<T, P>(
        &mut self,
        starts: Vec<(usize, P)>,
        room: Room,
        weigh: impl Fn(&T) -> usize,
        question: impl Fn(usize, P, Reply<Page<T, P>>) -> ShardOrder,
    ) -> Gathered<Vec<T>> {
        let mut late_shards = Vec::new();
        let mut parts: Vec<Part<T, P>> = Vec::new();
        for (shard, place) in starts {
            let asked = &mut self.shards[shard];
            if asked.is_late() {
                late_shards.push(shard);
                continue;
            }
            let pending = asked.handle.ask(|reply| question(shard, place, reply));
            parts.push(Part { shard, items: Vec::new(), pending: Some(pending) });
        }
        let (mut items, mut bytes, mut cut) = (0, 0, false);
        let mut deadline = Instant::now() + self.part_deadline;
        while parts.iter().any(|part| part.pending.is_some()) && !self.is_stopping() {
            let mut is_new = false;
            for part in &mut parts {
                let Some(page) = part.pending.as_mut().and_then(Pending::take) else { continue };
                is_new = true;
                items += page.items.len();
                bytes += page.items.iter().map(&weigh).sum::<usize>();
                part.items.extend(page.items);
                let has_room = items < room.items && bytes < room.bytes;
                cut |= page.next.is_some() && !has_room;
                part.pending = page.next.filter(|_| has_room).map(|place| {
                    let handle = &self.shards[part.shard].handle;
                    handle.ask(|reply| question(part.shard, place, reply))
                });
            }
            if is_new {
                deadline = Instant::now() + self.part_deadline;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Each answer unparks this thread, even one that came since the check above.
            std::thread::park_timeout(left.min(STOP_LOOK));
        }
        let mut answers = Vec::new();
        for part in parts {
            match part.pending {
                None => answers.push((part.shard, part.items)),
                Some(_) => {
                    self.shards[part.shard].note_late();
                    late_shards.push(part.shard);
                }
            }
        }
        late_shards.sort_unstable();
        answers.sort_by_key(|part| part.0);
        Gathered { answers, late_shards, cut }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::monitor::snapshot::TableSummary;
    use crate::net::doorbell::doorbell;

    fn one_shard(stopping: bool) -> (Gatherer, Receiver<ShardOrder>) {
        let (sender, orders) = channel();
        let (_doorbell, bell) = doorbell().unwrap();
        let handle = ShardHandle::new(sender, bell);
        (Gatherer::new(vec![handle], Arc::new(AtomicBool::new(stopping))), orders)
    }

    #[test]
    fn a_shard_that_does_not_answer_is_named_and_gets_no_further_orders() {
        let (mut gatherer, orders) = one_shard(false);
        gatherer.part_deadline = Duration::from_millis(5);
        for _ in 0..3 {
            let gathered = gatherer.all(ShardOrder::Alive);
            assert!(gathered.answers.is_empty());
            assert_eq!(gathered.late_shards, [0]);
        }
        // The question, and the one that shows when the shard is back.
        assert_eq!(orders.try_iter().count(), 2);
    }

    #[test]
    fn nobody_is_waited_for_once_the_server_stops() {
        let (mut gatherer, _orders) = one_shard(true);
        gatherer.part_deadline = Duration::from_secs(3600);
        assert_eq!(gatherer.all(ShardOrder::Alive).late_shards, [0]);
        gatherer.shards[0].back = None;
        let question = |_, from, answer| ShardOrder::Closed { from, answer };
        let gathered = gatherer.pages(vec![(0, 0)], Room::UNBOUNDED, |_| 0, question);
        assert_eq!(gathered.late_shards, [0]);
    }

    /// A shard with four pages of one table each.
    #[test]
    fn a_list_comes_page_by_page_and_stops_at_its_bounds() {
        let (mut gatherer, orders) = one_shard(false);
        gatherer.part_deadline = Duration::from_secs(30);
        let shard = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for order in orders {
                let ShardOrder::Tables { from, answer, .. } = order else {
                    panic!("another order")
                };
                asked.push(from);
                let items = vec![TableSummary::default()];
                answer.give(Page { items, next: (from < 3).then_some(from + 1) });
            }
            asked
        });
        let question = |_, from, answer| ShardOrder::Tables { with_fanout: false, from, answer };
        for (items, bytes, expected) in
            [(9, 99, 4), (4, 40, 4), (3, 99, 3), (9, 21, 3), (9, 20, 2), (0, 0, 1)]
        {
            let gathered = gatherer.pages(vec![(0, 0)], Room { items, bytes }, |_| 10, question);
            assert!(gathered.late_shards.is_empty());
            assert_eq!(gathered.answers[0].1.len(), expected, "{items} items, {bytes} bytes");
            assert_eq!(gathered.cut, expected < 4, "{items} items, {bytes} bytes");
        }
        drop(gatherer);
        assert_eq!(shard.join().expect("it only answers").len(), 4 + 4 + 3 + 3 + 2 + 1);
    }
}
