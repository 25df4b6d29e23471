//! The sending ends of one peer's lanes. Batches and notes that find no room are staged here, in
//! order.

use std::cell::{Cell, LazyCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use hashbrown::HashSet;

use super::lanes::{Batch, CLASSES, LaneClass, LaneClock, Note, PASSED_ON_SLOTS_SUM, SourceEnd};
use super::passed_on::AllPassedOn;
use super::under_way::{Load, UnderWay};
use crate::base::gate::Gate;
use crate::base::ids::{ClientKey, ShardId};
use crate::base::limits::{
    ADMITTED_MAX, BATCH_BYTES, INTEREST_LANE_BYTES_MAX, INTEREST_ROOM_MIN, PASSED_ON_BYTES_FEW,
    UNHEARD_STAGED_BYTES_MAX, UNHEARD_STAGED_FEW,
};
use crate::base::turn_clock::TurnClock;
use crate::broker::frame;
use crate::broker::link::{Congestion, InterestChange, LinkSink, Source, Target, Unheard};
use crate::protocol::message::{Message, MessageRun};

/// Staged notes whose room is kept once they are sent.
const STAGED_NOTES_KEPT_MAX: usize = 1024;

/// Free slots of a message lane below which room is looked for before each message. One message, or
/// one run, takes no more than three: for the batch it no longer fits in, for what begins the next,
/// and for its end.
const TIGHT_SLOTS: usize = 4;

/// Bytes of a staged note that nobody got a request, with the memory around its texts.
fn unheard_bytes(unheard: &Unheard) -> usize {
    128 + unheard.subject.len() + unheard.reply.len()
}

/// Values that the outbound lanes of one shard share.
pub(super) struct Shared {
    /// Something was appended that no flush has seen.
    pub dirty: Rc<Cell<bool>>,
    /// Something waits for room.
    pub waiting: Cell<bool>,
    /// Some lane may have no room for a message: the broker's.
    pub tight: Rc<Cell<bool>>,
    /// Bytes under way on one lane from which on nothing is added.
    pub bytes_max: Cell<usize>,
    /// Work under way on one lane from which on nothing is added.
    pub work_max: Cell<usize>,
    /// Bytes of messages of each class that are staged on all lanes, to be passed on.
    pub passed_on_bytes: [Cell<usize>; CLASSES],
    /// Stamp of the newest batch on any lane.
    pub newest_stamp: Cell<u64>,
    pub shard: ShardId,
    pub lane_clock: LaneClock,
    pub clock: Rc<TurnClock>,
}

impl Shared {
    /// True if arrivals of this class may count as delivered: not too much that follows from them
    /// is staged.
    pub(super) fn keeps_up(&self, class: usize) -> bool {
        let next = self.passed_on_bytes.get(class + 1);
        next.is_none_or(|bytes| bytes.get() <= PASSED_ON_BYTES_FEW)
    }

    /// The time for batches that are pushed now.
    pub(super) fn stamp(&self) -> u64 {
        let stamp = (self.lane_clock)().max(self.newest_stamp.get());
        self.newest_stamp.set(stamp);
        stamp
    }
}

/// A stamp that is read when the first batch needs it.
pub(super) type Stamp<'a> = LazyCell<u64, Box<dyn FnOnce() -> u64 + 'a>>;

/// One peer's lanes, seen from their source.
///
/// Publishers that wait for room go before later ones: nobody else finds room until a flush has
/// found some and admitted those who have waited longest, some at a time. Interest that no client
/// waits for has a reserve of its own (`has_interest_reserve`).
///
/// Invariants: notes reach the ring in order (staged ones first); so do batches. Batches do not
/// wait for staged notes: whoever subscribes makes sure of room first (`interest_congestion`), so
/// that what is staged only withdraws interest or lets publishers go on, of which no message is a
/// consequence. Of the latter one is staged for each publisher at most: there are no more of them
/// than clients over there. Notes that nobody got a request are staged apart and take at most half
/// of the lane: interest never waits behind them. `under_way` has an item for each batch that the
/// peer has not delivered, and perhaps for some that it has; so there are no more of those than
/// slots, on the lane and out of it together. `notes_under_way` has one for each note that the peer
/// has not taken. `staged_bytes` is the size of the staged batches.
pub(super) struct Outbound {
    end: RefCell<SourceEnd>,
    shared: Rc<Shared>,
    staged_notes: RefCell<VecDeque<Note>>,
    /// Notes that nobody got a request, and their bytes.
    staged_unheard: RefCell<VecDeque<Box<Unheard>>>,
    staged_unheard_bytes: Cell<usize>,
    /// Publishers over there for whom a staged note says that they may go on: one for each at most.
    staged_resumes: RefCell<HashSet<ClientKey>>,
    /// The notes on the lane, as of the last look at how many the peer has taken.
    notes_under_way: RefCell<UnderWay>,
    note_slots: usize,
    /// Full batches that found no slot.
    staged: RefCell<VecDeque<Batch>>,
    staged_bytes: Cell<usize>,
    /// Messages of other shards that find no member of their queue group here.
    passed_on: RefCell<AllPassedOn>,
    /// The batch that is being filled.
    current: RefCell<Vec<u8>>,
    /// The work of the current batch for the receiving shard.
    current_work: Cell<usize>,
    /// When its first message was read.
    current_read_at: Cell<Instant>,
    /// The head of its last message.
    last: RefCell<frame::Last>,
    /// The batches under way, as of the last look at how many the peer has delivered.
    under_way: RefCell<UnderWay>,
    slots: usize,
    /// Batches pushed since the start.
    pushed_total: Cell<u64>,
    /// Batches pushed that the peer was not told of yet.
    pushed: Cell<u64>,
    pub counters: Cell<OutboundCounters>,
    /// Counts the times staged batches ran empty.
    all_sent: Rc<Gate>,
    /// Free note slots a session needs before it may subscribe.
    room_min: usize,
    /// Somebody waits for room for notes.
    notes_wanted: Cell<bool>,
    /// Counts the times such a wait ended.
    notes_room: Rc<Gate>,
    /// True if a publisher waits for room for messages.
    messages_wanted: Cell<bool>,
    messages_room: Rc<Gate>,
}

/// Counts of one lane since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OutboundCounters {
    pub batches: u64,
    /// Times the peer had to be woken.
    pub wakes: u64,
    /// Times a message or a batch found no room.
    pub stalls: u64,
}

impl Outbound {
    pub(super) fn new(end: SourceEnd, shared: Rc<Shared>) -> Self {
        let slots = end.messages.free_slots() - PASSED_ON_SLOTS_SUM;
        let note_slots = end.notes.free_slots();
        if slots < TIGHT_SLOTS {
            shared.tight.set(true);
        }
        Self {
            room_min: INTEREST_ROOM_MIN.min(note_slots / 4).max(1),
            notes_wanted: Cell::new(false),
            messages_wanted: Cell::new(false),
            end: RefCell::new(end),
            shared,
            staged_notes: RefCell::default(),
            staged_unheard: RefCell::default(),
            staged_unheard_bytes: Cell::new(0),
            staged_resumes: RefCell::default(),
            notes_under_way: RefCell::default(),
            note_slots,
            staged: RefCell::default(),
            staged_bytes: Cell::new(0),
            passed_on: RefCell::default(),
            current: RefCell::default(),
            current_work: Cell::new(0),
            current_read_at: Cell::new(Instant::now()),
            last: RefCell::default(),
            under_way: RefCell::default(),
            slots,
            pushed_total: Cell::new(0),
            pushed: Cell::new(0),
            counters: Cell::default(),
            all_sent: Rc::new(Gate::new()),
            notes_room: Rc::new(Gate::new()),
            messages_room: Rc::new(Gate::new()),
        }
    }

    /// Bytes of batches that found no slot.
    pub(super) fn staged_bytes(&self) -> usize {
        self.staged_bytes.get() + self.passed_on_bytes()
    }

    /// Bytes of messages to be passed on that found no slot.
    pub(super) fn passed_on_bytes(&self) -> usize {
        self.passed_on.borrow().iter().map(|passed_on| passed_on.bytes()).sum()
    }

    #[cfg(test)]
    pub(super) fn staged_note_count(&self) -> usize {
        self.staged_notes.borrow().len()
    }

    #[cfg(test)]
    pub(super) fn staged_unheard(&self) -> (usize, usize) {
        (self.staged_unheard.borrow().len(), self.staged_unheard_bytes.get())
    }

    /// True if so many notes wait that nobody got requests from over there, that no more are to
    /// come.
    pub(super) fn holds_deliveries(&self) -> bool {
        self.staged_unheard.borrow().len() > UNHEARD_STAGED_FEW
    }

    /// Tells that nobody got a request from over there. False = it is dropped: there is no room.
    fn push_unheard(&self, unheard: Box<Unheard>) -> bool {
        let mut staged = self.staged_unheard.borrow_mut();
        let mut end = self.end.borrow_mut();
        let bytes = self.staged_unheard_bytes.get() + unheard_bytes(&unheard);
        if !staged.is_empty() || !self.has_unheard_room(&end) {
            if bytes > UNHEARD_STAGED_BYTES_MAX {
                return false;
            }
            self.staged_unheard_bytes.set(bytes);
            staged.push_back(unheard);
            self.shared.waiting.set(true);
            end.waiting.announce();
        } else {
            let put = self.put_note(&mut end, Note::Unheard(unheard));
            assert!(put.is_ok(), "a slot is free");
            end.target_waiting.raise();
        }
        // Somebody waits for it.
        (end.wake_target)();
        true
    }

    /// True if the lane takes a note that nobody got a request: such take half of it at most.
    fn has_unheard_room(&self, end: &SourceEnd) -> bool {
        let free = end.notes.free_slots();
        let mut under_way = self.notes_under_way.borrow_mut();
        under_way.keep_newest(self.note_slots - free);
        self.staged_notes.borrow().is_empty()
            && free > self.note_slots / 2
            && under_way.sum().bytes < INTEREST_LANE_BYTES_MAX / 2
    }

    /// True if a note would not have to wait.
    pub(super) fn takes_note(&self) -> bool {
        self.staged_notes.borrow().is_empty() && self.end.borrow().notes.free_slots() > 0
    }

    /// Lets a publisher over there go on that was asked to pause.
    pub(super) fn push_resume(&self, client: ClientKey) {
        if self.takes_note() || self.staged_resumes.borrow_mut().insert(client) {
            self.push_note(Note::Pace { client, paused: false });
        }
    }

    pub(super) fn push_note(&self, note: Note) {
        let mut staged = self.staged_notes.borrow_mut();
        let mut end = self.end.borrow_mut();
        if staged.is_empty() {
            match self.put_note(&mut end, note) {
                Ok(()) => {
                    end.target_waiting.raise();
                    // A sleeping peer reads its notes when it next does anything; it is woken for
                    // them only before the lane gets full.
                    let bytes = self.notes_under_way.borrow().sum().bytes;
                    if end.notes.free_slots() < self.room_min * 2
                        || bytes > INTEREST_LANE_BYTES_MAX / 2
                    {
                        (end.wake_target)();
                    }
                    return;
                }
                Err(note) => staged.push_back(note),
            }
        } else {
            staged.push_back(note);
        }
        self.shared.waiting.set(true);
        end.waiting.announce();
        (end.wake_target)();
    }

    /// Puts a note on the lane if there is a slot.
    fn put_note(&self, end: &mut SourceEnd, note: Note) -> Result<(), Note> {
        let load = Load { bytes: note.text_bytes(), work: 0 };
        end.notes.push(note)?;
        let mut under_way = self.notes_under_way.borrow_mut();
        if under_way.len() == self.note_slots {
            // The one just pushed is not counted yet, and may be taken already.
            let there = self.note_slots - end.notes.free_slots();
            under_way.keep_newest(there.saturating_sub(1));
        }
        under_way.push(load);
        Ok(())
    }

    /// True if the notes of one more command would find room on the lane.
    fn has_note_room(&self) -> bool {
        self.has_note_slots(self.room_min)
    }

    /// True if the lane has so many free slots, and may take more bytes.
    fn has_note_slots(&self, count: usize) -> bool {
        if !self.staged_notes.borrow().is_empty() {
            return false;
        }
        let free = self.end.borrow().notes.free_slots();
        let mut under_way = self.notes_under_way.borrow_mut();
        under_way.keep_newest(self.note_slots - free);
        free >= count && under_way.sum().bytes < INTEREST_LANE_BYTES_MAX
    }

    fn append(&self, source: &Source, target: &Target<'_>, run: &MessageRun<'_>) {
        debug_assert!(run.len() == 1 || target.is_plain());
        if target.hops > 0 {
            return self.append_passed_on(source, target, run.first());
        }
        let mut appended = if target.is_plain() { self.append_again(source, run) } else { 0 };
        while appended < run.len() {
            let rest = run.after(appended);
            self.append_whole(source, target, rest.first());
            appended += 1;
            if appended < run.len() {
                appended += self.append_again(source, &rest.after(1));
            }
        }
    }

    #[cold]
    fn append_passed_on(&self, source: &Source, target: &Target<'_>, message: &Message<'_>) {
        let class = LaneClass::of(target).index();
        let passed_on = &mut self.passed_on.borrow_mut()[class - 1];
        let read_at = self.shared.clock.read_at();
        let added = passed_on.append(source, target, message, self.shared.shard, read_at);
        let bytes = &self.shared.passed_on_bytes[class];
        bytes.set(bytes.get() + added);
        self.shared.waiting.set(true);
    }

    /// Appends a message with all that belongs to it.
    fn append_whole(&self, source: &Source, target: &Target<'_>, message: &Message<'_>) {
        let size = frame::size(target, message);
        let mut current = self.current.borrow_mut();
        if !current.is_empty() && current.len() + size > BATCH_BYTES {
            let full = std::mem::take(&mut *current);
            self.send_or_stage(full, || self.shared.stamp());
        }
        if current.capacity() < size.max(1) {
            let recycled = self.end.borrow_mut().returned.pop();
            *current = recycled.unwrap_or_else(|| Vec::with_capacity(BATCH_BYTES));
            current.reserve(size);
        }
        let mut last = self.last.borrow_mut();
        if current.is_empty() {
            last.forget();
            self.current_read_at.set(self.shared.clock.read_at());
        }
        frame::append(&mut current, source, target, message, self.shared.shard, &mut last);
        self.shared.dirty.set(true);
    }

    /// Appends the messages at the start of a run for plain subscriptions that are like the last of
    /// the batch and find room in it, and says how many.
    #[inline]
    fn append_again(&self, source: &Source, run: &MessageRun<'_>) -> usize {
        let mut current = self.current.borrow_mut();
        if current.is_empty() || !frame::is_again(&current, source, run, &self.last.borrow()) {
            return 0;
        }
        if current.len() + frame::size_again(run) <= BATCH_BYTES {
            self.shared.dirty.set(true);
            frame::append_again(&mut current, run);
            return run.len();
        }
        let mut appended = 0;
        for message in run.messages() {
            if current.len() + frame::size_one_again(&message) > BATCH_BYTES {
                break;
            }
            self.shared.dirty.set(true);
            frame::append_one_again(&mut current, &message);
            appended += 1;
        }
        appended
    }

    /// Counts what the messages just appended take over there.
    fn note_work(&self, work: usize) {
        self.current_work.set(self.current_work.get() + work);
        if self.work_is_full() {
            self.shared.tight.set(true);
        }
    }

    fn work_is_full(&self) -> bool {
        let work = self.under_way.borrow().sum().work + self.current_work.get();
        work >= self.shared.work_max.get()
    }

    fn count(&self, change: impl FnOnce(&mut OutboundCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Sends what was the current batch.
    fn send_or_stage(&self, bytes: Vec<u8>, stamp: impl FnOnce() -> u64) {
        let work = self.current_work.take();
        let (read_at, class) = (self.current_read_at.get(), LaneClass::default());
        let batch = Batch { bytes, work, read_at, stamp: 0, class };
        let rejected = if self.is_held() { Err(batch) } else { self.push(batch, stamp) };
        if let Err(batch) = rejected {
            self.count(|counters| counters.stalls += 1);
            self.staged_bytes.set(self.staged_bytes.get() + batch.bytes.len());
            self.shared.tight.set(true);
            self.shared.waiting.set(true);
            self.staged.borrow_mut().push_back(batch);
        }
    }

    /// Puts a batch on the lane if there is a slot, with the time of now.
    fn push(&self, batch: Batch, stamp: impl FnOnce() -> u64) -> Result<(), Batch> {
        if self.free_slots() == 0 {
            self.look_at_peer();
            if self.free_slots() == 0 {
                return Err(batch);
            }
        }
        let load = Load { bytes: batch.bytes.len(), work: batch.work };
        self.end.borrow_mut().messages.push(Batch { stamp: stamp(), ..batch })?;
        self.pushed_total.set(self.pushed_total.get() + 1);
        self.pushed.set(self.pushed.get() + 1);
        self.under_way.borrow_mut().push(load);
        if self.seems_tight() && self.is_tight() {
            self.shared.tight.set(true);
        }
        Ok(())
    }

    /// By what was seen of the peer last.
    fn seems_tight(&self) -> bool {
        let bytes = self.under_way.borrow().sum().bytes;
        self.free_slots() < TIGHT_SLOTS
            || bytes + BATCH_BYTES > self.shared.bytes_max.get()
            || self.work_is_full()
    }

    /// Batches that may be pushed, as of the last look at the peer. Behind each there is a free
    /// slot.
    fn free_slots(&self) -> usize {
        self.slots - self.under_way.borrow().len()
    }

    /// Looks how many batches the peer has delivered.
    fn look_at_peer(&self) {
        let left = self.pushed_total.get() - self.end.borrow().delivered.value(0);
        let left = usize::try_from(left).expect("no more than slots");
        self.under_way.borrow_mut().keep_newest(left);
    }

    /// True if the next message must look for room first.
    fn is_tight(&self) -> bool {
        self.look_at_peer();
        self.is_held() || self.seems_tight()
    }

    fn is_held(&self) -> bool {
        !self.staged.borrow().is_empty()
    }

    /// True if a message that takes `size` bytes would reach the lane with the next flush.
    fn has_room(&self, size: usize) -> bool {
        if self.is_held() {
            return false;
        }
        self.look_at_peer();
        let current = self.current.borrow().len();
        let needed = 1 + usize::from(current > 0 && current + size > BATCH_BYTES);
        let bytes = self.under_way.borrow().sum().bytes + current;
        self.free_slots() >= needed && bytes < self.shared.bytes_max.get() && !self.work_is_full()
    }

    /// Pushes what is staged and the current batch, as far as there is room. Nobody takes it before
    /// `complete` and `tell_peer` have followed, for all lanes of the shard.
    pub(super) fn push_out(&self, stamp: &Stamp<'_>) {
        if self.current.borrow().is_empty() && !self.waits_for_room() {
            return;
        }
        self.push_staged(stamp);
        self.push_passed_on(stamp);
        let current = std::mem::take(&mut *self.current.borrow_mut());
        if !current.is_empty() {
            self.send_or_stage(current, || **stamp);
        } else if current.capacity() > 0 {
            *self.current.borrow_mut() = current;
        }
        self.open_for_messages();
        if self.waits_for_room() {
            // Ask to be woken when there is room, then look once more: the peer may have made room
            // before it could see the request.
            self.end.borrow().waiting.announce();
            self.push_staged(stamp);
            self.push_passed_on(stamp);
            self.open_for_messages();
        }
    }

    /// Tells the peer what was pushed since the last time. Returns whether there was anything.
    pub(super) fn tell_peer(&self) -> bool {
        let pushed = self.pushed.take();
        if pushed == 0 {
            if self.waits_for_room() {
                // Notes alone wake nobody, and what was moved may have filled the lane just now.
                (self.end.borrow().wake_target)();
            }
            return false;
        }
        let end = self.end.borrow();
        end.target_waiting.raise();
        let woke = (end.wake_target)();
        self.count(|counters| {
            counters.batches += pushed;
            counters.wakes += u64::from(woke);
        });
        true
    }

    fn push_staged(&self, stamp: &Stamp<'_>) {
        let mut end = self.end.borrow_mut();
        let mut notes = self.staged_notes.borrow_mut();
        if !notes.is_empty() {
            let mut resumes = self.staged_resumes.borrow_mut();
            while let Some(note) = notes.pop_front() {
                if let Note::Pace { client, .. } = note {
                    resumes.remove(&client);
                }
                if let Err(note) = self.put_note(&mut end, note) {
                    if let Note::Pace { client, .. } = note {
                        resumes.insert(client);
                    }
                    notes.push_front(note);
                    break;
                }
            }
            end.target_waiting.raise();
            // A client with very many subscriptions has left: what that needed is not needed again.
            if notes.is_empty() && notes.capacity() > STAGED_NOTES_KEPT_MAX {
                *notes = VecDeque::new();
                *resumes = HashSet::new();
            }
        }
        let mut unheard = self.staged_unheard.borrow_mut();
        drop(notes);
        while !unheard.is_empty() && self.has_unheard_room(&end) {
            let Some(note) = unheard.pop_front() else { break };
            let left = self.staged_unheard_bytes.get() - unheard_bytes(&note);
            self.staged_unheard_bytes.set(left);
            let put = self.put_note(&mut end, Note::Unheard(note));
            assert!(put.is_ok(), "a slot is free");
            end.target_waiting.raise();
        }
        if unheard.is_empty() && unheard.capacity() > STAGED_NOTES_KEPT_MAX {
            *unheard = VecDeque::new();
        }
        drop((end, unheard));
        if self.note_room_is_wanted() && self.has_note_room() {
            self.notes_wanted.set(false);
            self.notes_room.admit(ADMITTED_MAX);
        }
        loop {
            let Some(batch) = self.staged.borrow_mut().pop_front() else { return };
            let size = batch.bytes.len();
            if let Err(batch) = self.push(batch, || **stamp) {
                self.staged.borrow_mut().push_front(batch);
                return;
            }
            self.staged_bytes.set(self.staged_bytes.get() - size);
            if self.staged.borrow().is_empty() {
                self.all_sent.advance_by(1);
            }
        }
    }

    /// Pushes what is to be passed on, as far as its classes have slots.
    fn push_passed_on(&self, stamp: &Stamp<'_>) {
        for (index, passed_on) in self.passed_on.borrow_mut().iter_mut().enumerate() {
            if passed_on.is_empty() {
                continue;
            }
            let class = index + 1;
            let mut end = self.end.borrow_mut();
            while let Some(batch) = passed_on.next(end.delivered.value(class)) {
                let staged = &self.shared.passed_on_bytes[class];
                staged.set(staged.get() - batch.bytes.len());
                let pushed = end.messages.push(Batch { stamp: **stamp, ..batch });
                assert!(pushed.is_ok(), "each class has its slots");
                self.pushed.set(self.pushed.get() + 1);
            }
        }
    }

    /// True if something is to be passed on, and there is a slot for it.
    fn can_pass_on(&self) -> bool {
        let delivered = &self.end.borrow().delivered;
        let passed_on = self.passed_on.borrow();
        let mut all = passed_on.iter().enumerate();
        all.any(|(index, some)| !some.is_empty() && some.has_slot(delivered.value(index + 1)))
    }

    /// Lets those go on that wait for room for a message, if there is some.
    fn open_for_messages(&self) {
        if self.message_room_is_wanted() && self.has_room(0) {
            self.messages_wanted.set(false);
            self.messages_room.admit(ADMITTED_MAX);
        }
    }

    /// # Panics
    /// A promise is broken.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        let (notes_free, slots_free) = {
            let end = self.end.borrow();
            (end.notes.free_slots(), end.messages.free_slots())
        };
        let under_way = self.under_way.borrow();
        under_way.check_invariants();
        assert!(under_way.len() <= self.slots, "more than slots are under way");
        let undelivered = self.pushed_total.get() - self.end.borrow().delivered.value(0);
        assert!(under_way.len() as u64 >= undelivered, "a batch under way is not counted");
        let passed_on = self.passed_on.borrow();
        passed_on.iter().for_each(|passed_on| passed_on.check_invariants());
        let delivered = |class| self.end.borrow().delivered.value(class);
        let passed_on = passed_on.iter().enumerate();
        let passed_on: usize =
            passed_on.map(|(index, some)| some.under_way(delivered(index + 1))).sum();
        assert!(passed_on <= PASSED_ON_SLOTS_SUM, "more than slots are under way");
        let there = self.slots + PASSED_ON_SLOTS_SUM - slots_free;
        assert!(under_way.len() + passed_on >= there, "a batch under way is not counted");
        let notes = self.notes_under_way.borrow();
        notes.check_invariants();
        assert!(notes.len() <= self.note_slots);
        assert!(notes.len() >= self.note_slots - notes_free, "a note under way is not counted");
        let staged_notes = self.staged_notes.borrow();
        let resumes = staged_notes.iter().filter_map(|note| match note {
            Note::Pace { client, paused: false } => Some(*client),
            _ => None,
        });
        let (count, resumes) = (resumes.clone().count(), resumes.collect::<HashSet<_>>());
        assert_eq!(count, resumes.len(), "a publisher is let go on once");
        assert_eq!(*self.staged_resumes.borrow(), resumes);
        let staged_unheard = self.staged_unheard.borrow();
        let unheard_sum: usize = staged_unheard.iter().map(|unheard| unheard_bytes(unheard)).sum();
        assert_eq!(self.staged_unheard_bytes.get(), unheard_sum, "bytes of requests not heard");
        assert!(unheard_sum <= UNHEARD_STAGED_BYTES_MAX);
        let staged = self.staged.borrow();
        let staged_bytes: usize = staged.iter().map(|batch| batch.bytes.len()).sum();
        assert_eq!(self.staged_bytes.get(), staged_bytes, "staged bytes");
        assert!(staged.is_empty() || self.shared.tight.get(), "messages pass those staged");
        let is_wanted = self.messages_wanted.get();
        assert!(!is_wanted || self.shared.tight.get(), "messages pass those that wait for room");
        if self.waits_for_room() {
            assert!(self.shared.waiting.get(), "no flush comes for what waits");
        }
        if !self.current.borrow().is_empty() || self.pushed.get() > 0 {
            assert!(self.shared.dirty.get() || self.shared.waiting.get(), "no flush comes");
        }
    }

    /// True if somebody waits for room for notes: since the last flush, or as one of those it did
    /// not admit.
    fn note_room_is_wanted(&self) -> bool {
        self.notes_wanted.get() || self.notes_room.has_waiters()
    }

    /// True if a publisher waits for room for messages: since the last flush, or not admitted by
    /// it.
    fn message_room_is_wanted(&self) -> bool {
        self.messages_wanted.get() || self.messages_room.has_waiters()
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.note_room_is_wanted()
            || self.message_room_is_wanted()
            || self.is_held()
            || !self.staged_notes.borrow().is_empty()
            || !self.staged_unheard.borrow().is_empty()
            || self.passed_on.borrow().iter().any(|passed_on| !passed_on.is_empty())
    }

    /// True if a flush would move something now.
    pub(super) fn can_flush(&self) -> bool {
        if !self.staged_notes.borrow().is_empty() && self.end.borrow().notes.free_slots() > 0 {
            return true;
        }
        if !self.staged_unheard.borrow().is_empty() && self.has_unheard_room(&self.end.borrow()) {
            return true;
        }
        if self.note_room_is_wanted() && self.has_note_room() {
            return true;
        }
        if self.message_room_is_wanted() && self.has_room(0) {
            return true;
        }
        if self.can_pass_on() {
            return true;
        }
        if self.staged.borrow().is_empty() && self.current.borrow().is_empty() {
            return false;
        }
        self.look_at_peer();
        self.free_slots() > 0
    }

    /// Wakes the peer.
    pub(super) fn wake(&self) {
        (self.end.borrow().wake_target)();
    }

    /// The shard's flush looks for room, and the peer is asked to make some.
    fn ask_for_room(&self) {
        self.shared.waiting.set(true);
        let end = self.end.borrow();
        end.waiting.announce();
        (end.wake_target)();
    }
}

/// One peer shard, as the broker sees it.
pub(super) struct ShardLink(pub Rc<Outbound>);

impl LinkSink for ShardLink {
    fn interest_changed(&self, change: &InterestChange) {
        self.0.push_note(Note::Interest(change.clone()));
    }

    fn interest_congestion(&self) -> Option<Congestion> {
        let outbound = &self.0;
        // Who waits goes first.
        if !outbound.notes_wanted.get() && outbound.has_note_room() {
            return None;
        }
        // The flush that finds room opens the gate.
        outbound.notes_wanted.set(true);
        outbound.ask_for_room();
        Some(Congestion {
            gate: outbound.notes_room.clone(),
            until: outbound.notes_room.value() + 1,
        })
    }

    fn has_interest_reserve(&self) -> bool {
        let outbound = &self.0;
        let has_room = outbound.has_note_slots(outbound.room_min.div_ceil(2));
        if !has_room {
            outbound.notes_wanted.set(true);
            outbound.ask_for_room();
        }
        has_room
    }

    #[inline]
    fn forward(&self, source: &Source, target: &Target<'_>, run: &MessageRun<'_>) {
        self.0.append(source, target, run);
    }

    fn note_work(&self, work: usize) {
        self.0.note_work(work);
    }

    fn unheard(&self, unheard: Unheard) -> bool {
        self.0.push_unheard(Box::new(unheard))
    }

    fn is_tight(&self) -> bool {
        self.0.messages_wanted.get() || self.0.is_tight()
    }

    fn message_congestion(&self, message_bytes: usize) -> Option<Congestion> {
        let outbound = &self.0;
        // Who waits goes first.
        if !outbound.messages_wanted.get() && outbound.has_room(message_bytes + frame::HEAD_BYTES) {
            return None;
        }
        outbound.count(|counters| counters.stalls += 1);
        outbound.messages_wanted.set(true);
        outbound.ask_for_room();
        Some(Congestion {
            gate: outbound.messages_room.clone(),
            until: outbound.messages_room.value() + 1,
        })
    }

    fn fence(&self) -> Option<Congestion> {
        let outbound = &self.0;
        outbound.push_out(&Stamp::new(Box::new(|| outbound.shared.stamp())));
        if outbound.pushed.get() > 0 {
            // The flush before the next send tells the peer.
            outbound.shared.dirty.set(true);
        }
        outbound.is_held().then(|| Congestion {
            gate: outbound.all_sent.clone(),
            until: outbound.all_sent.value() + 1,
        })
    }
}
