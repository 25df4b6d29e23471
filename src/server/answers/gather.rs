//! Questions to all shards: asked in small parts, answered on their threads, gathered here with a deadline.
//!
//! A shard that does not answer is named and not asked again until it has answered: its tasks do not pile up,
//! and one stuck shard costs each answer nothing after the first.

use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::monitor::snapshot::Gathered;
use crate::shard::snapshot::Page;
use crate::shard::{Shard, ShardHandle};

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
    /// Set while the shard is late: it sends here when it is back.
    back: Option<Receiver<()>>,
}

impl Asked {
    fn is_late(&mut self) -> bool {
        let is_late = self.back.as_ref().is_some_and(|back| back.try_recv().is_err());
        if !is_late {
            self.back = None;
        }
        is_late
    }

    fn note_late(&mut self) {
        let (sender, back) = channel();
        // Nobody may wait for it any more.
        self.handle.run(move |_| {
            let _ = sender.send(());
        });
        self.back = Some(back);
    }
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
    pub fn all<T: Send + 'static>(
        &mut self,
        question: impl Fn(&Rc<Shard>) -> T + Clone + Send + 'static,
    ) -> Gathered<T> {
        let first =
            move |shard: &Rc<Shard>, _: ()| Page { items: vec![question(shard)], next: None };
        let starts = (0..self.shards.len()).map(|shard| (shard, ())).collect();
        let pages = self.pages(starts, usize::MAX, first);
        let answers = pages.answers.into_iter();
        let answers =
            answers.flat_map(|(shard, items)| items.into_iter().map(move |one| (shard, one)));
        Gathered { answers: answers.collect(), late_shards: pages.late_shards }
    }

    /// A list from each of some shards, part by part: `question` gets the place to go on from. Stops asking
    /// once `items_max` items are there.
    pub fn pages<T: Send + 'static, P: Copy + Send + 'static>(
        &mut self,
        starts: Vec<(usize, P)>,
        items_max: usize,
        question: impl Fn(&Rc<Shard>, P) -> Page<T, P> + Clone + Send + 'static,
    ) -> Gathered<Vec<T>> {
        let (sender, answers) = channel();
        let mut late_shards = Vec::new();
        let mut lists: Vec<(usize, Vec<T>)> = Vec::new();
        let mut pending = Vec::new();
        let mut count = 0;
        let ask = |asked: &Asked, shard: usize, place: P| {
            let (sender, question) = (sender.clone(), question.clone());
            // The gathering side may have given up meanwhile.
            asked.handle.run(move |on| drop(sender.send((shard, question(on, place)))));
        };
        for (shard, place) in starts {
            if self.shards[shard].is_late() {
                late_shards.push(shard);
                continue;
            }
            ask(&self.shards[shard], shard, place);
            lists.push((shard, Vec::new()));
            pending.push(shard);
        }
        let mut deadline = Instant::now() + self.part_deadline;
        while !pending.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((shard, page)) = answers.recv_timeout(left) else { break };
            deadline = Instant::now() + self.part_deadline;
            count += page.items.len();
            if let Some(list) = lists.iter_mut().find(|list| list.0 == shard) {
                list.1.extend(page.items);
            }
            match page.next {
                Some(place) if count < items_max => ask(&self.shards[shard], shard, place),
                _ => pending.retain(|other| *other != shard),
            }
        }
        for shard in pending {
            self.shards[shard].note_late();
            lists.retain(|list| list.0 != shard);
            late_shards.push(shard);
        }
        late_shards.sort_unstable();
        lists.sort_by_key(|list| list.0);
        Gathered { answers: lists, late_shards }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::doorbell::doorbell;

    #[test]
    fn a_shard_that_does_not_answer_is_named_and_gets_no_further_tasks() {
        let (sender, tasks) = channel();
        let (_doorbell, bell) = doorbell().unwrap();
        let mut gatherer = Gatherer::new(vec![ShardHandle::new(sender, bell)]);
        gatherer.part_deadline = Duration::from_millis(5);
        for _ in 0..3 {
            let gathered = gatherer.all(|_| 7);
            assert!(gathered.answers.is_empty());
            assert_eq!(gathered.late_shards, [0]);
        }
        // The question, and the one that says when the shard is back.
        assert_eq!(tasks.try_iter().count(), 2);
    }
}
