//! Everybody a subject reaches, and how that is found out: a part at a time where it is much.
//!
//! A list never changes. Who holds one has its receivers fixed; those who left meanwhile are marked
//! as removed. A list of many is not dropped at once either: what it held goes to `Leftovers`,
//! which the broker drops a part at a time.

use std::cell::{Cell, OnceCell, RefCell};
#[cfg(any(test, debug_assertions))]
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::rc::Rc;

use hashbrown::{HashSet, HashTable};
use smallvec::SmallVec;

use crate::base::ids::{AccountId, LinkId};
use crate::base::limits::{
    DROPPED_AT_ONCE_MAX, LEFTOVERS_MAX, PICKED_NAMES_BYTES_MAX, RUN_RECEIVERS_MAX,
};
use crate::broker::AccountState;
use crate::broker::link::Congestion;
use crate::broker::mailbox::Mailbox;
use crate::broker::match_cache::Cleared;
use crate::broker::queue_group::{QueueGroup, is_anybody};
use crate::broker::subject_table::MatchPlace;
#[cfg(any(test, debug_assertions))]
use crate::broker::subject_table::SubjectTable;
use crate::broker::subscription::{Sink, Subscription};

/// Groups of a list from which on they are found by hash.
const INDEXED_GROUPS_MIN: usize = 16;

/// Subscriptions of old lists that are dropped for one unit of work.
const DROPS_PER_UNIT: usize = 4;

/// Everybody a subject reaches.
pub(super) struct MatchList {
    pub plain: Vec<Rc<Subscription>>,
    pub groups: Vec<QueueGroup>,
    /// Subscriptions of service imports: requests to other accounts, and answers from them.
    pub crossings: SmallVec<[Rc<Subscription>; 1]>,
    /// Some of `crossings` take messages from other shards, too.
    pub has_answers: bool,
    /// True if there are groups or crossings.
    in_parts: bool,
    /// Links with plain interest, each once.
    pub links: SmallVec<[LinkId; 4]>,
    /// About how many plain subscriptions there are behind each.
    behind: SmallVec<[u32; 4]>,
    /// `links`, and links with members of groups.
    reach: SmallVec<[LinkId; 4]>,
    /// The mailboxes of the services in this list.
    mailboxes: SmallVec<[Rc<Mailbox>; 1]>,
    /// Bytes of the names of groups with members behind links.
    linked_names_bytes: usize,
    /// Places in `groups` by name; none while there are few groups.
    by_name: Option<Box<NameIndex>>,
    /// Plain subscriptions and members of groups, links included.
    size: usize,
    /// True if no connection has two of the plain subscriptions, once somebody asked.
    apart: OnceCell<bool>,
    leftovers: Rc<Leftovers>,
}

#[derive(Default)]
struct NameIndex {
    places: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
}

impl MatchList {
    fn new(leftovers: Rc<Leftovers>) -> Self {
        Self {
            plain: Vec::new(),
            groups: Vec::new(),
            crossings: SmallVec::new(),
            has_answers: false,
            in_parts: false,
            links: SmallVec::new(),
            behind: SmallVec::new(),
            mailboxes: SmallVec::new(),
            reach: SmallVec::new(),
            linked_names_bytes: 0,
            by_name: None,
            size: 0,
            apart: OnceCell::new(),
            leftovers,
        }
    }

    /// Subscriptions that a message to everybody on this shard looks at, at most.
    #[inline]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// About how many plain subscriptions there are behind the link with most of them.
    #[inline]
    pub(super) fn most_behind(&self) -> usize {
        self.behind.iter().copied().max().unwrap_or(0) as usize
    }

    /// Subscriptions of older lists to be dropped before this one is used, where there are many: as
    /// many as it will leave, and as many again.
    fn owed(&self) -> usize {
        if self.leftovers.count.get() > LEFTOVERS_MAX { 2 * self.size } else { 0 }
    }

    /// Links that a message to everybody may go over.
    pub(super) fn reach(&self) -> &[LinkId] {
        &self.reach
    }

    /// The wait for room in the mailboxes of services.
    pub(super) fn congestion(&self) -> Option<Congestion> {
        self.mailboxes.iter().find_map(|mailbox| mailbox.congestion())
    }

    /// True if a message is to be walked through it, part by part.
    #[inline]
    pub(super) fn is_in_parts(&self) -> bool {
        self.in_parts
    }

    /// True if somebody wants its subject; looks at no more than `budget`.
    pub(super) fn has_anybody(&self, budget: &mut usize) -> bool {
        !self.links.is_empty()
            || !self.crossings.is_empty()
            || is_anybody(&self.plain, budget)
            || self.groups.iter().any(|group| group.has_anybody(budget))
    }

    /// Bytes of queue names that may go over a link with one copy of a message.
    pub(super) fn names_bytes(&self) -> usize {
        self.linked_names_bytes.min(PICKED_NAMES_BYTES_MAX)
    }

    /// Bytes of memory it takes, without the subscriptions it shares with others.
    pub(super) fn bytes(&self) -> usize {
        let members = self.size - self.plain.len();
        let index = self.by_name.as_ref().map_or(0, |index| index.places.allocation_size());
        size_of::<Self>()
            + self.plain.capacity() * size_of::<Rc<Subscription>>()
            + self.groups.capacity() * size_of::<QueueGroup>()
            // A vector has room for up to twice its members.
            + members * 2 * size_of::<Rc<Subscription>>()
            + index
    }

    /// The group of this name.
    pub(super) fn group(&self, name: &[u8]) -> Option<&QueueGroup> {
        self.group_place(name).map(|place| &self.groups[place])
    }

    fn group_place(&self, name: &[u8]) -> Option<usize> {
        match &self.by_name {
            None => self.groups.iter().position(|group| group.name() == name),
            Some(index) => {
                let is_it = |&place: &u32| self.groups[place as usize].name() == name;
                let found = index.places.find(index.hasher.hash_one(name), is_it);
                found.map(|&place| place as usize)
            }
        }
    }

    /// True if a run may go to one subscription after the other. Not to two of one connection,
    /// which is to hear each message on both before the next, as from nats-server; not to services
    /// of the server; and to many receivers it is no use.
    #[inline]
    pub(super) fn takes_runs(&self) -> bool {
        match &self.plain[..] {
            [] => true,
            [subscription] => !matches!(subscription.sink, Sink::Service(_)),
            many => *self.apart.get_or_init(|| are_apart(many)),
        }
    }

    /// A cached list has exactly what is in the table for its subject. Worked out apart from `add`.
    ///
    /// # Panics
    /// It has not.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_against(&self, table: &SubjectTable<Rc<Subscription>>, subject: &[u8]) {
        let (mut plain, mut crossings, mut mailboxes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut groups, mut behind) = (BTreeMap::<&[u8], Vec<_>>::new(), BTreeMap::new());
        let mut found = Vec::new();
        table.for_each_match(subject, |subscription| found.push(subscription.clone()));
        for subscription in &found {
            if let Sink::Service(sink) = &subscription.sink {
                mailboxes.push(Rc::as_ptr(&sink.mailbox));
            }
            let place = Rc::as_ptr(subscription);
            match &subscription.sink {
                Sink::Request(_) | Sink::Answers(_) => crossings.push(place),
                _ if !subscription.queue().is_empty() => {
                    groups.entry(subscription.queue()).or_default().push(place);
                }
                Sink::Link(link) => *behind.entry(*link).or_insert(0) += subscription.weight(),
                _ => plain.push(place),
            }
        }
        let sorted = |mut places: Vec<*const Subscription>| {
            places.sort_unstable();
            places
        };
        let places = |all: &[Rc<Subscription>]| sorted(all.iter().map(Rc::as_ptr).collect());
        assert_eq!(places(&self.plain), sorted(plain), "plain subscriptions");
        assert_eq!(places(&self.crossings), sorted(crossings), "crossings");
        assert_eq!(self.groups.len(), groups.len(), "queue groups");
        let size = self.plain.len() + groups.values().map(Vec::len).sum::<usize>();
        assert_eq!(self.size, size, "subscriptions that a message looks at");
        for (name, members) in groups {
            let group = self.group(name).expect("each group is found by its name");
            let own = group.members().iter().chain(group.links()).map(Rc::as_ptr).collect();
            assert_eq!(sorted(own), sorted(members), "members of a group");
        }
        let own = self.links.iter().copied().zip(self.behind.iter().copied());
        assert_eq!(own.collect::<BTreeMap<_, _>>(), behind, "what is behind links");
        let linked = found.iter().filter_map(|subscription| match subscription.sink {
            Sink::Link(link) => Some(link),
            _ => None,
        });
        let own: BTreeSet<_> = self.reach.iter().copied().collect();
        assert_eq!((own.len(), own), (self.reach.len(), linked.collect()), "links that it reaches");
        let mut own: Vec<_> = self.mailboxes.iter().map(Rc::as_ptr).collect();
        own.sort_unstable();
        mailboxes.sort_unstable();
        assert_eq!(own, mailboxes, "mailboxes");
        let answers =
            |subscription: &Rc<Subscription>| matches!(subscription.sink, Sink::Answers(_));
        assert_eq!(self.has_answers, found.iter().any(answers), "answers from other shards");
        assert_eq!(self.in_parts, !(self.groups.is_empty() && self.crossings.is_empty()));
        assert!(self.apart.get().is_none_or(|apart| *apart == are_apart(&self.plain)));
    }

    fn add(&mut self, subscription: &Rc<Subscription>) {
        let queue = subscription.queue();
        if matches!(subscription.sink, Sink::Request(_) | Sink::Answers(_)) {
            self.has_answers |= matches!(subscription.sink, Sink::Answers(_));
            self.in_parts = true;
            return self.crossings.push(subscription.clone());
        }
        if let Sink::Service(sink) = &subscription.sink {
            self.mailboxes.push(sink.mailbox.clone());
        }
        if let Sink::Link(link) = subscription.sink {
            self.linked_names_bytes += queue.len() + size_of::<u32>();
            if !self.reach.contains(&link) {
                self.reach.push(link);
            }
        }
        if !queue.is_empty() {
            self.size += 1;
            match self.group_place(queue) {
                Some(place) => self.groups[place].push(subscription.clone()),
                None => self.add_group(subscription.clone()),
            }
        } else if let Sink::Link(link) = subscription.sink {
            match self.links.iter().position(|other| *other == link) {
                Some(place) => {
                    self.behind[place] = self.behind[place].saturating_add(subscription.weight());
                }
                None => {
                    self.links.push(link);
                    self.behind.push(subscription.weight());
                }
            }
        } else {
            self.size += 1;
            self.plain.push(subscription.clone());
        }
    }

    fn add_group(&mut self, first: Rc<Subscription>) {
        self.in_parts = true;
        self.groups.push(QueueGroup::new(first));
        if self.groups.len() < INDEXED_GROUPS_MIN {
            return;
        }
        let groups = &self.groups;
        let index = self.by_name.get_or_insert_default();
        let NameIndex { places, hasher } = &mut **index;
        let hash = |&place: &u32| hasher.hash_one(groups[place as usize].name());
        for place in places.len() as u32..groups.len() as u32 {
            places.insert_unique(hash(&place), place, hash);
        }
    }
}

#[cold]
fn are_apart(subscriptions: &[Rc<Subscription>]) -> bool {
    let mut seen = HashSet::new();
    subscriptions.len() <= RUN_RECEIVERS_MAX
        && subscriptions
            .iter()
            .all(|subscription| subscription.receiver().is_some_and(|client| seen.insert(client)))
}

impl Drop for MatchList {
    fn drop(&mut self) {
        if self.size > DROPPED_AT_ONCE_MAX {
            let plain = std::mem::take(&mut self.plain);
            let groups = std::mem::take(&mut self.groups);
            self.leftovers.keep(plain, groups, self.size);
        }
    }
}

/// Contents of long lists and of cleared caches, to be dropped a part at a time.
#[derive(Default)]
pub(super) struct Leftovers {
    plain: RefCell<Vec<Vec<Rc<Subscription>>>>,
    groups: RefCell<Vec<Vec<QueueGroup>>>,
    cleared: RefCell<Vec<Cleared<Rc<MatchList>>>>,
    /// Subscriptions in the lists and groups.
    count: Cell<usize>,
}

impl Leftovers {
    fn keep(&self, plain: Vec<Rc<Subscription>>, groups: Vec<QueueGroup>, size: usize) {
        self.count.set(self.count.get() + size);
        if !plain.is_empty() {
            self.plain.borrow_mut().push(plain);
        }
        if !groups.is_empty() {
            self.groups.borrow_mut().push(groups);
        }
    }

    /// Subscriptions in the lists and groups.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count.get()
    }

    pub(super) fn keep_cleared(&self, cleared: Cleared<Rc<MatchList>>) {
        self.cleared.borrow_mut().push(cleared);
    }

    /// Drops so many as are owed, as far as the budget goes; true = all of them, or there are no
    /// more.
    fn pay(&self, owed: &mut usize, budget: &mut usize) -> bool {
        if *owed > 0 {
            let part = (*owed).min(budget.saturating_mul(DROPS_PER_UNIT));
            let mut left = part;
            self.drop_some_lists(&mut left);
            *budget -= (part - left).div_ceil(DROPS_PER_UNIT);
            *owed = if left > 0 { 0 } else { *owed - part };
        }
        *owed == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plain.borrow().is_empty()
            && self.groups.borrow().is_empty()
            && self.cleared.borrow().is_empty()
    }

    /// Drops so many of them at most, and a group's few members with it.
    pub(super) fn drop_some(&self, budget: &mut usize) {
        self.drop_some_lists(budget);
        while *budget > 0 {
            let mut cleared = self.cleared.borrow_mut();
            let Some(last) = cleared.last_mut() else { return };
            let Some(list) = last.next() else {
                cleared.pop();
                continue;
            };
            // A long list comes back here.
            drop(cleared);
            *budget = budget.saturating_sub(1 + list.size().min(DROPPED_AT_ONCE_MAX));
        }
    }

    fn drop_some_lists(&self, budget: &mut usize) {
        let (mut lists, mut groups) = (self.plain.borrow_mut(), self.groups.borrow_mut());
        while *budget > 0 {
            if let Some(list) = lists.last_mut() {
                let kept = list.len().saturating_sub(*budget);
                let dropped = list.len() - kept;
                *budget -= dropped;
                self.count.set(self.count.get() - dropped);
                list.truncate(kept);
                if kept == 0 {
                    lists.pop();
                }
            } else if let Some(list) = groups.last_mut() {
                *budget -= 1;
                match list.pop() {
                    Some(group) => {
                        self.count.set(self.count.get() - group.links().len());
                        lists.push(group.into_members());
                    }
                    None => drop(groups.pop()),
                }
            } else {
                return;
            }
        }
    }
}

/// A list that is being made.
pub(super) struct ListBuilder {
    account: AccountId,
    subject: Box<[u8]>,
    /// Generation of the table when it was begun.
    generation: u64,
    place: MatchPlace,
    list: MatchList,
    /// Subscriptions of older lists to be dropped first; none = it is not complete.
    owed: Option<usize>,
}

impl AccountState {
    /// The list of a subject, from the cache or the table, if no more than `budget` is needed for
    /// it; else what there is of it.
    pub(super) fn matched(
        &mut self,
        account: AccountId,
        subject: &[u8],
        budget: &mut usize,
    ) -> Result<Rc<MatchList>, Box<ListBuilder>> {
        self.counts.matches += 1;
        if let Some(list) = self.cache.get(subject) {
            self.counts.cache_hits += 1;
            return Ok(list.clone());
        }
        let mut list = MatchList::new(self.leftovers.clone());
        let mut place = MatchPlace::default();
        let is_done = self.table.match_some(subject, &mut place, budget, |found| list.add(found));
        let mut owed = is_done.then(|| list.owed());
        if let Some(owed) = &mut owed
            && list.leftovers.pay(owed, budget)
        {
            return Ok(self.keep(subject, list));
        }
        let generation = self.table.generation();
        let subject = subject.into();
        Err(Box::new(ListBuilder { account, subject, generation, place, list, owed }))
    }

    fn keep(&mut self, subject: &[u8], list: MatchList) -> Rc<MatchList> {
        let bytes = list.bytes();
        let list = Rc::new(list);
        self.cache.insert(subject, list.clone(), bytes);
        list
    }
}

impl ListBuilder {
    pub(super) fn account(&self) -> AccountId {
        self.account
    }

    /// Goes on for `budget` at most.
    pub(super) fn go_on(
        mut self: Box<Self>,
        account: &mut AccountState,
        budget: &mut usize,
    ) -> Result<Rc<MatchList>, Box<ListBuilder>> {
        let Self { subject, place, list, owed, .. } = &mut *self;
        if owed.is_none() {
            if !account.table.match_some(subject, place, budget, |found| list.add(found)) {
                return Err(self);
            }
            *owed = Some(list.owed());
        }
        if let Some(owed) = owed
            && !list.leftovers.pay(owed, budget)
        {
            return Err(self);
        }
        let Self { subject, generation, list, .. } = *self;
        // What came or went meanwhile may be in the list or not: good for one message, not for the
        // next.
        match generation == account.table.generation() {
            true => Ok(account.keep(&subject, list)),
            false => Ok(Rc::new(list)),
        }
    }
}
