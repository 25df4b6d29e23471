//! The work that one turn may do, and what stands in the way of the next.

use std::rc::Rc;
use std::time::Instant;

use crate::base::ids::ConnectionId;
use crate::base::limits::{RUN_MESSAGES_MAX, TURN_WORK_MAX, WHOLE_WORK_SHARE};
use crate::broker::byte_queue::Pushed;
use crate::broker::fan_out::{FanOut, UnfinishedCrossing};
use crate::broker::link::Congestion;
use crate::broker::mailbox::Mailbox;
use crate::broker::match_list::MatchList;
use crate::broker::outbox::Outbox;

/// The work of one connection's turn so far: kept by the session, obeyed at the end of the turn.
pub struct Turn {
    /// The connection whose turn it is; none while messages come in from another shard.
    pub publisher: Option<ConnectionId>,
    /// Done so far, and what ends the turn, in units of `TURN_WORK_MAX`.
    work: usize,
    work_max: usize,
    /// The consumer with most pending that the publisher should wait for.
    pub paced: Option<Rc<Outbox>>,
    /// A service's mailbox that is full: whose turn it is should wait for room.
    full: Option<Rc<Mailbox>>,
    /// The wait of its unfinished message: a link that has no room.
    pub congestion: Option<Congestion>,
    /// The rest of the message that this turn could not end. Nothing may be published before it
    /// is done.
    pub unfinished: Option<Box<FanOut>>,
    /// The copy for another account of the message that is being routed, while it is not delivered
    /// everywhere.
    pub(super) crossing: Option<Box<UnfinishedCrossing>>,
}

impl Default for Turn {
    fn default() -> Self {
        Self::new(TURN_WORK_MAX)
    }
}

impl Turn {
    pub fn new(work_max: usize) -> Self {
        Self {
            publisher: None,
            work: 0,
            work_max,
            paced: None,
            full: None,
            congestion: None,
            unfinished: None,
            crossing: None,
        }
    }

    /// Another turn begins, of so much work.
    #[inline]
    pub fn begin(&mut self, work_max: usize) {
        self.work = 0;
        self.work_max = work_max;
        self.full = None;
    }

    #[inline]
    pub fn work(&self) -> usize {
        self.work
    }

    #[inline]
    pub fn spend(&mut self, work: usize) {
        self.work += work;
    }

    /// True if the others come first now.
    #[inline]
    pub fn is_over(&self) -> bool {
        let must_wait = self.full.is_some() && self.publisher.is_some();
        self.work >= self.work_max || self.unfinished.is_some() || must_wait
    }

    /// Work that is left; enough for what is done in one piece.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.work_max.saturating_sub(self.work).max(self.whole_max())
    }

    /// Work that may be begun as one piece as long as a turn is not over.
    #[inline]
    pub(super) fn whole_max(&self) -> usize {
        (self.work_max / WHOLE_WORK_SHARE).max(1)
    }

    /// Messages of a run to this list that may still be routed in one go.
    #[inline]
    pub(super) fn run_max(&self, list: &MatchList) -> usize {
        let receivers = list.plain.len().max(list.most_behind());
        if receivers > self.whole_max() {
            return 1;
        }
        let left = self.work_max.saturating_sub(self.work);
        (left / (1 + receivers)).clamp(1, RUN_MESSAGES_MAX)
    }

    /// Pushes deliveries. Returns true if they were queued.
    #[inline(always)]
    pub(super) fn push(
        &mut self,
        outbox: &Rc<Outbox>,
        push: impl FnOnce(&Outbox) -> Pushed,
    ) -> bool {
        match push(outbox) {
            Pushed::Queued => {}
            Pushed::QueuedPace => self.note_paced(outbox),
            Pushed::Closed | Pushed::Overflow | Pushed::Dropped => return false,
        }
        true
    }

    /// Messages went to a service.
    pub(super) fn note_mailbox(&mut self, mailbox: &Rc<Mailbox>) {
        if mailbox.is_full() {
            self.full = Some(mailbox.clone());
        }
    }

    /// The full mailbox that the publisher should wait for, if it still is.
    pub fn take_full(&mut self) -> Option<Rc<Mailbox>> {
        self.full.take().filter(|mailbox| mailbox.is_full())
    }

    fn note_paced(&mut self, outbox: &Rc<Outbox>) {
        let larger =
            self.paced.as_ref().is_none_or(|paced| paced.pending_bytes() < outbox.pending_bytes());
        if larger {
            self.paced = Some(outbox.clone());
        }
    }
}

/// The consumer that a publisher waits for after a turn, if any.
pub fn pace_target(turn: &mut Turn, now: impl FnOnce() -> Instant) -> Option<(Rc<Outbox>, u64)> {
    let outbox = turn.paced.take()?;
    let until = outbox.pace_target(now())?;
    Some((outbox, until))
}
