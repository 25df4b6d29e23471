//! The number of messages that a consumer has before it. Exact when it is first counted, and kept
//! by counting what is added; counted anew where messages at or behind the consumer's position
//! went. A consumer that is not used does not count: it catches up when somebody asks.

use super::filters::Filters;
use super::machine::Machine;
use crate::storage::block::NotLoaded;
use crate::storage::stream::Stream;
use crate::storage::stream::pending::Pending;

/// New messages that are looked at one by one; more are counted by the index.
const NEW_MESSAGES_MAX: u64 = 256;

/// Blocks that one step of a count looks at.
const BLOCKS_MAX: usize = 16;

/// A count as of a state of the stream.
#[derive(Debug, Default)]
pub(crate) struct PendingCount {
    /// `None`: it was never counted, or has to be anew.
    as_of: Option<AsOf>,
    /// A count under way: one for each filter, and the sum of those that are done.
    under_way: Option<UnderWay>,
}

#[derive(Clone, Copy, Debug)]
struct AsOf {
    /// The position counted from.
    from: u64,
    last_sequence: u64,
    removal_count: u64,
}

#[derive(Debug)]
struct UnderWay {
    from: u64,
    filters: Vec<Pending>,
    sum: u64,
}

impl PendingCount {
    /// The next one is counted from the start: the filters or the position changed.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The machine delivered or passed over messages since it was brought up to date, in the same
    /// turn.
    pub(crate) fn moved(&mut self, machine: &Machine) {
        if let Some(as_of) = &mut self.as_of {
            as_of.from = machine.position().0;
        }
    }

    /// Brings the machine's number of pending messages up to date; false if more steps are needed.
    ///
    /// # Errors
    /// A block is not in memory.
    pub(crate) fn catch_up(
        &mut self,
        machine: &mut Machine,
        filters: &Filters,
        stream: &Stream,
    ) -> Result<bool, NotLoaded> {
        let (next, listed) = machine.position();
        let is_listed = !listed.sequences.is_empty();
        let from = if is_listed { listed.resume_after + 1 } else { next };
        let listed_count = listed.sequences.len() as u64;
        let last_sequence = stream.totals().last_sequence;
        let removal_count = stream.removal_count();
        if let Some(as_of) = self.as_of
            && last_sequence - as_of.last_sequence <= NEW_MESSAGES_MAX
            && stream.keeps_from(as_of.from, as_of.removal_count)
        {
            let mut added = 0;
            for sequence in (as_of.last_sequence + 1).max(from)..=last_sequence {
                let message = stream.get(sequence)?;
                added += u64::from(message.is_some_and(|found| filters.matches(found.subject)));
            }
            machine.set_pending(machine.pending() + added);
            self.as_of = Some(AsOf { from: next, last_sequence, removal_count });
            return Ok(true);
        }
        let under_way = self.under_way.take().filter(|under_way| under_way.from == from);
        let mut under_way = under_way.unwrap_or_else(|| UnderWay {
            from,
            filters: filters.iter().map(|filter| Pending::new(filter, from)).collect(),
            sum: 0,
        });
        let result = step(&mut under_way, stream);
        if result != Ok(true) {
            self.under_way = Some(under_way);
            return result;
        }
        machine.set_pending(under_way.sum + listed_count);
        self.as_of = Some(AsOf { from: next, last_sequence, removal_count });
        Ok(true)
    }
}

/// Counts for the last filter that is left.
fn step(under_way: &mut UnderWay, stream: &Stream) -> Result<bool, NotLoaded> {
    while let Some(pending) = under_way.filters.last_mut() {
        let Some(count) = stream.pending(pending, BLOCKS_MAX)? else { return Ok(false) };
        under_way.sum += count;
        under_way.filters.pop();
    }
    Ok(true)
}
