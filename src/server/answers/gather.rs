//! Questions to all shards: asked in small parts, answered on their threads, gathered here with a deadline.
//!
//! A shard that does not answer is named and not asked again until it has answered: its orders do not pile up,
//! and one stuck shard costs each answer nothing after the first.

use std::time::{Duration, Instant};

use crate::monitor::snapshot::Gathered;
use crate::shard::order::{Pending, Reply};
use crate::shard::snapshot::Page;
use crate::shard::{ShardHandle, ShardOrder};

/// How long one part of an answer may take. A shard's turn is bounded to about a millisecond, so this is a
/// shard in trouble, or a machine that is.
const PART_DEADLINE: Duration = Duration::from_secs(1);

/// See the module's words.
pub struct Gatherer {
    shards: Vec<Asked>,
    part_deadline: Duration,
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

/// What one shard has told so far of a list.
struct Part<T, P> {
    shard: usize,
    items: Vec<T>,
    pending: Option<Pending<Page<T, P>>>,
}

impl Gatherer {
    pub fn new(handles: Vec<ShardHandle>) -> Self {
        let shards = handles.into_iter().map(|handle| Asked { handle, back: None }).collect();
        Self { shards, part_deadline: PART_DEADLINE }
    }

    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// One answer of each shard.
    pub fn all<T>(&mut self, question: impl Fn(Reply<T>) -> ShardOrder) -> Gathered<T> {
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
            match pending.wait(deadline) {
                Some(answer) => answers.push((shard, answer)),
                None => {
                    self.shards[shard].note_late();
                    late_shards.push(shard);
                }
            }
        }
        late_shards.sort_unstable();
        Gathered { answers, late_shards }
    }

    /// A list from each of some shards, part by part: `question` gets the shard and the place to go on from.
    /// Stops asking once `items_max` items are there.
    pub fn pages<T, P>(
        &mut self,
        starts: Vec<(usize, P)>,
        items_max: usize,
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
        let mut count = 0;
        let mut deadline = Instant::now() + self.part_deadline;
        while parts.iter().any(|part| part.pending.is_some()) {
            let mut is_new = false;
            for part in &mut parts {
                let Some(page) = part.pending.as_mut().and_then(Pending::take) else { continue };
                is_new = true;
                count += page.items.len();
                part.items.extend(page.items);
                part.pending = page.next.filter(|_| count < items_max).map(|place| {
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
            // Each answer unparks this thread, also one that came since the look above.
            std::thread::park_timeout(left);
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
        Gathered { answers, late_shards }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::net::doorbell::doorbell;

    #[test]
    fn a_shard_that_does_not_answer_is_named_and_gets_no_further_orders() {
        let (sender, orders) = channel();
        let (_doorbell, bell) = doorbell().unwrap();
        let mut gatherer = Gatherer::new(vec![ShardHandle::new(sender, bell)]);
        gatherer.part_deadline = Duration::from_millis(5);
        for _ in 0..3 {
            let gathered = gatherer.all(ShardOrder::Alive);
            assert!(gathered.answers.is_empty());
            assert_eq!(gathered.late_shards, [0]);
        }
        // The question, and the one that says when the shard is back.
        assert_eq!(orders.try_iter().count(), 2);
    }

    #[test]
    fn a_list_comes_page_by_page_and_stops_at_its_bound() {
        let (sender, orders) = channel();
        let (_doorbell, bell) = doorbell().unwrap();
        let mut gatherer = Gatherer::new(vec![ShardHandle::new(sender, bell)]);
        gatherer.part_deadline = Duration::from_secs(30);
        let shard = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for order in orders {
                let ShardOrder::Closed { from, answer } = order else { panic!("another order") };
                asked.push(from);
                answer.give(Page { items: Vec::new(), next: (from < 3).then_some(from + 1) });
            }
            asked
        });
        let question = |_, from, answer| ShardOrder::Closed { from, answer };
        let gathered = gatherer.pages(vec![(0, 0)], usize::MAX, question);
        assert!(gathered.late_shards.is_empty());
        assert_eq!(gathered.answers.len(), 1);
        assert!(gatherer.pages(vec![(0, 0)], 0, question).late_shards.is_empty());
        drop(gatherer);
        assert_eq!(shard.join().expect("it only answers"), [0, 1, 2, 3, 0]);
    }
}
