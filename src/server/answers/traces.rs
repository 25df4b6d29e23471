//! Puts the parts of traces together that come from several shards.
//!
//! A trace is complete when the part of the shard where its message was published is there, and one
//! for each time that the message was forwarded. If parts are missing after a while, the trace is
//! published as it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;

use crate::base::ids::ShardId;
use crate::base::limits::TRACES_GATHERED_MAX;
use crate::shard::records::{TraceBegun, TracePart};
use crate::system::trace::TraceStep;

/// The time that parts may take.
const PARTS_DEADLINE: Duration = Duration::from_secs(2);

type Key = (ShardId, u32);

/// A complete trace.
#[derive(Debug)]
pub(crate) struct WholeTrace {
    /// The shard where the message was published.
    pub shard: ShardId,
    pub begun: Box<TraceBegun>,
    pub steps: Vec<(SystemTime, TraceStep)>,
}

#[derive(Default)]
struct Waiting {
    begun: Option<Box<TraceBegun>>,
    steps: Vec<(SystemTime, TraceStep)>,
    parts: usize,
    forwarded: usize,
}

impl Waiting {
    fn is_complete(&self) -> bool {
        self.begun.is_some() && self.parts == self.forwarded + 1
    }

    fn into_whole(self, shard: ShardId) -> Option<WholeTrace> {
        let Self { begun, steps, .. } = self;
        begun.map(|begun| WholeTrace { shard, begun, steps })
    }
}

/// Traces of which some parts are there.
#[derive(Default)]
pub(crate) struct Traces {
    waiting: HashMap<Key, Waiting>,
    /// Those begun, oldest first, with the time until which they may take; some are complete by
    /// now.
    deadlines: VecDeque<(Instant, Key)>,
}

impl Traces {
    /// Adds a part. Returns the trace if that was the last one.
    pub(crate) fn add(&mut self, part: TracePart, now: Instant) -> Option<WholeTrace> {
        let key = (part.home, part.number);
        let waiting = self.waiting.entry(key).or_insert_with(|| {
            self.deadlines.push_back((now + PARTS_DEADLINE, key));
            Waiting::default()
        });
        waiting.parts += 1;
        waiting.forwarded += part.forwarded;
        match part.begun {
            Some(begun) => {
                waiting.begun = Some(begun);
                waiting.steps.splice(0..0, part.steps);
            }
            None => waiting.steps.extend(part.steps),
        }
        if !waiting.is_complete() {
            return None;
        }
        self.waiting.remove(&key)?.into_whole(part.home)
    }

    /// Returns the time at which `next_late` is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Takes a trace whose time is over, or for which there is no more room.
    pub(crate) fn next_late(&mut self, now: Instant) -> Option<WholeTrace> {
        while let Some((deadline, key)) = self.deadlines.front().copied() {
            let is_over = deadline <= now || self.waiting.len() > TRACES_GATHERED_MAX;
            if self.waiting.contains_key(&key) && !is_over {
                return None;
            }
            self.deadlines.pop_front();
            let whole = self.waiting.remove(&key).and_then(|waiting| waiting.into_whole(key.0));
            if whole.is_some() {
                return whole;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::AccountId;
    use crate::system::trace::TraceIngress;

    fn part(number: u32, is_first: bool, forwarded: usize) -> TracePart {
        let ingress = TraceIngress {
            at: SystemTime::UNIX_EPOCH,
            connection: 5,
            name: String::new(),
            account: "$G".into(),
            subject: "a".into(),
            mapped: None,
            error: None,
            headers: Vec::new(),
            size: 0,
        };
        let begun = TraceBegun { account: AccountId::GLOBAL, destination: b"d".to_vec(), ingress };
        let step = TraceStep::StreamImport {
            account: if is_first { "first" } else { "later" }.into(),
            to: String::new(),
        };
        TracePart {
            home: ShardId(1),
            number,
            begun: is_first.then(|| Box::new(begun)),
            steps: vec![(SystemTime::UNIX_EPOCH, step)],
            forwarded,
            bytes: 0,
        }
    }

    #[test]
    fn a_trace_is_whole_with_one_part_for_each_time_it_was_forwarded() {
        let (mut traces, now) = (Traces::default(), Instant::now());
        assert!(traces.add(part(1, true, 0), now).is_some());
        // In any order; a part may say that there are more.
        assert!(traces.add(part(2, false, 1), now).is_none());
        assert!(traces.add(part(3, true, 1), now).is_none());
        assert!(traces.add(part(2, true, 1), now).is_none());
        let whole = traces.add(part(2, false, 0), now).expect("three parts");
        assert_eq!(whole.steps.len(), 3);
        assert!(
            matches!(&whole.steps[0].1, TraceStep::StreamImport { account, .. } if account == "first")
        );
        assert!(traces.next_late(now).is_none());
        let late = now + PARTS_DEADLINE;
        assert!(traces.next_late(late).is_some(), "the third, as it is");
        assert!(traces.next_late(late).is_none() && traces.next_deadline().is_none());
    }

    #[test]
    fn past_the_bound_the_oldest_is_published_as_it_is() {
        let (mut traces, now) = (Traces::default(), Instant::now());
        for number in 0..=TRACES_GATHERED_MAX as u32 {
            assert!(traces.add(part(number, true, 1), now).is_none());
        }
        assert!(traces.next_late(now).is_some());
        assert!(traces.next_late(now).is_none());
        assert_eq!(traces.waiting.len(), TRACES_GATHERED_MAX);
    }
}
