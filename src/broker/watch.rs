//! Notice of interest: a service learns when the first subscriber of a subject, or the first member
//! of a queue group of it, comes, and when the last one has gone.
//!
//! A change of a table marks the watches that it may concern: those of a literal subject, or, for a
//! wildcard, all. Marked watches are looked at in the background, some per turn. So a service
//! learns the final state, and nothing of interest that came and went in between.
//!
//! Invariants: a watch is in its watcher's `changed` at most once; each place is looked at after
//! the last change of a wildcard. `due` may name places of watches that are gone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
#[cfg(any(test, debug_assertions))]
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;
use slab::Slab;

use super::Broker;
use super::match_list::{ListBuilder, MatchList};
#[cfg(any(test, debug_assertions))]
use super::subscription::Subscription;
use crate::base::ids::AccountId;
use crate::base::limits::WATCHES_MARKED_MAX;
use crate::protocol::subject;

/// A subject, or a queue group of it, that a service watches.
struct Watched {
    account: AccountId,
    subject: Box<[u8]>,
    /// Empty = anybody who wants the subject.
    queue: Box<[u8]>,
    tag: u64,
    watcher: Rc<Watcher>,
    /// True if somebody wanted it at the last look.
    is_wanted: Cell<bool>,
    /// The state that its service was told last.
    was_told: Cell<bool>,
    is_due: Cell<bool>,
    is_in_changed: Cell<bool>,
    is_gone: Cell<bool>,
}

/// Changes for one service, each once however often it changed.
#[derive(Default)]
pub struct Watcher {
    changed: RefCell<VecDeque<Rc<Watched>>>,
    waker: Cell<Option<Waker>>,
}

impl Watcher {
    /// The next change: the tag of a watch, and whether anybody wants it now.
    pub fn take(&self) -> Option<(u64, bool)> {
        loop {
            let watched = self.changed.borrow_mut().pop_front()?;
            watched.is_in_changed.set(false);
            let is_wanted = watched.is_wanted.get();
            if !watched.is_gone.get() && watched.was_told.replace(is_wanted) != is_wanted {
                return Some((watched.tag, is_wanted));
            }
        }
    }

    /// Ready when there may be a change to take; else the task is woken by the next one.
    pub fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        if !self.changed.borrow().is_empty() {
            return Poll::Ready(());
        }
        self.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }

    fn note(&self, watched: &Rc<Watched>) {
        if !watched.is_in_changed.replace(true) {
            self.changed.borrow_mut().push_back(watched.clone());
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A watch, until this is dropped.
pub struct Watch {
    watched: Rc<Watched>,
    place: usize,
    gone: Gone,
}

impl Watch {
    /// True if somebody wanted it at the last look; false before the first.
    pub fn is_wanted(&self) -> bool {
        self.watched.is_wanted.get()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.is_gone.set(true);
        self.gone.borrow_mut().push(self.place);
    }
}

/// Places of watches that were dropped.
type Gone = Rc<RefCell<Vec<usize>>>;

/// All watches of one shard.
pub(super) struct Watches {
    all: Slab<Rc<Watched>>,
    /// Places by account and subject.
    places: HashTable<usize>,
    hasher: SeedableRandomState,
    /// Places to look at.
    due: VecDeque<usize>,
    /// Number of further places to look at, one after the other from `next` on, wrapping around.
    sweep: usize,
    next: usize,
    /// A look that takes more than one turn.
    looking: Option<(usize, Box<ListBuilder>)>,
    gone: Gone,
}

impl Watches {
    pub(super) fn new(hasher: SeedableRandomState) -> Self {
        Self {
            all: Slab::new(),
            places: HashTable::new(),
            hasher,
            due: VecDeque::new(),
            sweep: 0,
            next: 0,
            looking: None,
            gone: Gone::default(),
        }
    }

    /// True if there is nothing to do.
    pub(super) fn is_at_rest(&self) -> bool {
        self.due.is_empty()
            && self.sweep == 0
            && self.looking.is_none()
            && self.gone.borrow().is_empty()
    }

    /// A subscription to `filter` came or went.
    #[inline]
    pub(super) fn table_changed(&mut self, account: AccountId, filter: &[u8]) {
        if !self.all.is_empty() {
            self.mark(account, filter);
        }
    }

    #[cold]
    fn mark(&mut self, account: AccountId, filter: &[u8]) {
        if subject::has_wildcard(filter) {
            return self.begin_sweep();
        }
        let hash = self.hasher.hash_one((account, filter));
        let Self { all, places, due, .. } = self;
        let own = places.iter_hash(hash).filter(|place| {
            let watched = &all[**place];
            watched.account == account && *watched.subject == *filter
        });
        let mut count = 0;
        for place in own {
            count += 1;
            if count > WATCHES_MARKED_MAX {
                return self.begin_sweep();
            }
            if !all[*place].is_due.replace(true) {
                due.push_back(*place);
            }
        }
    }

    fn begin_sweep(&mut self) {
        self.sweep = self.all.capacity().max(1);
        // What is being looked at may have changed.
        if let Some((place, _)) = self.looking.take() {
            self.due.push_back(place);
        }
    }

    /// The next place to look at.
    fn next_place(&mut self) -> Option<usize> {
        if let Some(place) = self.due.pop_front() {
            return Some(place);
        }
        self.sweep = self.sweep.checked_sub(1)?;
        let place = self.next;
        self.next = if place + 1 < self.all.capacity() { place + 1 } else { 0 };
        Some(place)
    }

    fn remove(&mut self, place: usize) {
        let watched = self.all.remove(place);
        let hash = self.hasher.hash_one((watched.account, &*watched.subject));
        if let Ok(entry) = self.places.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        if self.looking.as_ref().is_some_and(|looking| looking.0 == place) {
            self.looking = None;
        }
    }
}

impl Broker {
    /// Begins to watch for subscribers of a literal subject, or for members of a queue group of it.
    /// The watcher is told of the first finding if there is one.
    pub fn watch(
        &mut self,
        account: AccountId,
        subject: &[u8],
        queue: &[u8],
        tag: u64,
        watcher: &Rc<Watcher>,
    ) -> Watch {
        self.ensure_account(account);
        let watched = Rc::new(Watched {
            account,
            subject: subject.into(),
            queue: queue.into(),
            tag,
            watcher: watcher.clone(),
            is_wanted: Cell::new(false),
            was_told: Cell::new(false),
            is_due: Cell::new(true),
            is_in_changed: Cell::new(false),
            is_gone: Cell::new(false),
        });
        let Watches { all, places, hasher, due, gone, .. } = &mut self.watches;
        let capacity = all.capacity();
        let place = all.insert(watched.clone());
        let has_grown = all.capacity() != capacity;
        let hash_of = |account, subject: &[u8]| hasher.hash_one((account, subject));
        places.insert_unique(hash_of(account, subject), place, |other| {
            hash_of(all[*other].account, &all[*other].subject)
        });
        due.push_back(place);
        let watch = Watch { watched, place, gone: gone.clone() };
        // What is left of a sweep was counted in fewer places, and would end among the new ones.
        if has_grown && self.watches.sweep > 0 {
            self.watches.begin_sweep();
        }
        watch
    }

    /// Looks at some watches that may have changed, and forgets some that were dropped.
    pub(super) fn look_at_watches(&mut self, budget: &mut usize) {
        while *budget > 0 {
            let gone = self.watches.gone.borrow_mut().pop();
            if let Some(place) = gone {
                self.watches.remove(place);
                *budget -= 1;
                continue;
            }
            let found = match self.watches.looking.take() {
                Some((place, builder)) => {
                    let account = &mut self.accounts[builder.account().index()];
                    (place, builder.go_on(account, budget))
                }
                None => {
                    let Some(place) = self.watches.next_place() else { return };
                    let Some(watched) = self.watches.all.get(place) else {
                        *budget -= 1;
                        continue;
                    };
                    watched.is_due.set(false);
                    let account = &mut self.accounts[watched.account.index()];
                    (place, account.matched(watched.account, &watched.subject, budget))
                }
            };
            match found {
                (place, Ok(list)) => self.watches.all[place].look(&list, budget),
                (place, Err(builder)) => self.watches.looking = Some((place, builder)),
            }
            *budget = budget.saturating_sub(1);
        }
    }
}

#[cfg(any(test, debug_assertions))]
impl Broker {
    /// # Panics
    /// A promise of this file is broken.
    pub(super) fn check_watches(&self) {
        let Watches { all, places, hasher, due, looking, gone, .. } = &self.watches;
        let (gone, due) = (gone.borrow(), HashSet::<_>::from_iter(due.iter().copied()));
        assert_eq!(places.len(), all.len(), "places of watches");
        let mut watchers: HashMap<_, &Rc<Watcher>> = HashMap::new();
        for (place, watched) in all {
            let hash = hasher.hash_one((watched.account, &*watched.subject));
            let found = places.iter_hash(hash).filter(|other| **other == place);
            assert_eq!(found.count(), 1, "a watch is found by its subject");
            assert_eq!(
                watched.is_gone.get(),
                gone.contains(&place),
                "a dropped watch is forgotten"
            );
            watchers.insert(Rc::as_ptr(&watched.watcher), &watched.watcher);
            if watched.is_gone.get() {
                continue;
            }
            assert!(!watched.is_due.get() || due.contains(&place), "a mark without effect");
            let is_told = watched.was_told.get() == watched.is_wanted.get();
            assert!(is_told || watched.is_in_changed.get(), "its service is not told");
            let is_looked_at = looking.as_ref().is_some_and(|looking| looking.0 == place);
            if !(due.contains(&place) || is_looked_at || self.watches.is_in_sweep(place)) {
                self.check_look(watched);
            }
        }
        watchers.values().for_each(|watcher| watcher.check_invariants(all));
    }

    /// Looks at the whole table for a watch that nobody is to look at.
    fn check_look(&self, watched: &Watched) {
        let (mut is_there, mut is_wanted) = (false, false);
        let account = &self.accounts[watched.account.index()];
        account.table.for_each_match(&watched.subject, |other: &Rc<Subscription>| {
            if watched.queue.is_empty() || *other.queue() == *watched.queue {
                is_there = true;
                is_wanted |= !other.is_removed();
            }
        });
        assert!(!is_wanted || watched.is_wanted.get(), "a change of a table that nobody looked at");
        assert!(!watched.is_wanted.get() || is_there, "a change of a table that nobody looked at");
    }
}

#[cfg(any(test, debug_assertions))]
impl Watches {
    /// True if the sweep in progress has this place before it.
    fn is_in_sweep(&self, place: usize) -> bool {
        let capacity = self.all.capacity().max(1);
        (place + capacity - self.next) % capacity < self.sweep
    }
}

#[cfg(any(test, debug_assertions))]
impl Watcher {
    fn check_invariants(&self, all: &Slab<Rc<Watched>>) {
        let changed = self.changed.borrow();
        let noted: HashSet<_> = changed.iter().map(Rc::as_ptr).collect();
        assert_eq!(noted.len(), changed.len(), "a watch is in `changed` twice");
        assert!(changed.iter().all(|watched| watched.is_in_changed.get()));
        let own = all.iter().map(|(_, watched)| watched);
        let mut own = own.filter(|watched| std::ptr::eq(Rc::as_ptr(&watched.watcher), self));
        let is_noted = |watched: &Rc<Watched>| noted.contains(&Rc::as_ptr(watched));
        assert!(own.all(|watched| watched.is_in_changed.get() == is_noted(watched)));
        let waker = self.waker.take();
        assert!(changed.is_empty() || waker.is_none(), "its service sleeps");
        self.waker.set(waker);
    }
}

impl Watched {
    /// Finds out by the list of its subject whether anybody is there.
    fn look(self: &Rc<Self>, list: &MatchList, budget: &mut usize) {
        let is_wanted = match &*self.queue {
            [] => list.has_anybody(budget),
            queue => list.group(queue).is_some_and(|group| group.has_anybody(budget)),
        };
        if self.is_wanted.replace(is_wanted) != is_wanted {
            self.watcher.note(self);
        }
    }
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
