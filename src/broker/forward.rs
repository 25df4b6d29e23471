//! Messages over links: one copy per link at most, and the look for room before it.

use std::cell::Cell;
use std::rc::Rc;

use smallvec::SmallVec;

use super::Broker;
use super::link::{Congestion, Source, Target};
use super::match_list::MatchList;
use super::passage::{Passage, delivery_work};
use super::queue_group::QueueGroup;
use super::subscription::Sink;
use super::turn::Turn;
use crate::base::ids::{AccountId, LinkId};
use crate::base::limits::QUEUE_HOPS_MAX;
use crate::protocol::message::MessageRun;

/// Links a message goes to, with the places in its list of the queue groups picked there.
pub(super) type Picks = [(LinkId, u32)];

impl Broker {
    /// The flag by which links say that one of them may have no room for a message.
    pub fn lanes_tight(&self) -> Rc<Cell<bool>> {
        self.tight.clone()
    }

    /// The room to wait for before a message of so many bytes is published on `subject`: a link
    /// that it would go over has no room. A message is routed once all of its copies find theirs.
    #[inline]
    pub fn message_congestion(
        &mut self,
        account: AccountId,
        subject: &[u8],
        bytes: usize,
        turn: &mut Turn,
    ) -> Option<Congestion> {
        if !self.tight.get() {
            return None;
        }
        self.look_for_room(account, subject, bytes, turn)
    }

    #[cold]
    fn look_for_room(
        &mut self,
        account: AccountId,
        subject: &[u8],
        bytes: usize,
        turn: &mut Turn,
    ) -> Option<Congestion> {
        if !self.links.iter().any(|link| link.sink.is_tight()) {
            self.tight.set(false);
            return None;
        }
        let state = &mut self.accounts[account.index()];
        let looks_max = turn.whole_max();
        let mut budget = looks_max;
        let found = state.matched(account, subject, &mut budget);
        turn.spend(looks_max - budget);
        match found {
            Ok(list) => self.congestion_of(&list, bytes),
            // It is looked for again before the first copy.
            Err(_) => None,
        }
    }

    /// The room to wait for before a message of so many bytes goes to a list.
    pub(super) fn congestion_of(&self, list: &MatchList, bytes: usize) -> Option<Congestion> {
        let bytes = bytes + list.names_bytes();
        let mut links = list.reach().iter();
        links.find_map(|link| self.links[link.index()].sink.message_congestion(bytes))
    }

    /// The room to wait for before a message of so many bytes that may go over any link.
    pub fn any_congestion(&self, bytes: usize) -> Option<Congestion> {
        match self.tight.get() {
            true => self.links.iter().find_map(|link| link.sink.message_congestion(bytes)),
            false => None,
        }
    }

    /// One copy to each link that has plain interest.
    #[inline]
    pub(super) fn forward_plain(
        &mut self,
        source: &Source,
        target: &Target<'_>,
        run: &MessageRun<'_>,
        list: &MatchList,
    ) {
        let Target { route, passed, .. } = *target;
        let links = &list.links;
        for (index, link) in links.iter().enumerate() {
            let source = source.part(source.share, index, links.len());
            self.forward_over(*link, &source, &Target { route, passed, ..Target::PLAIN }, run);
        }
        self.note_link_work(links, list.most_behind() * delivery_work(run));
    }

    /// Messages went over these links: counts what each takes of the shards there.
    #[inline]
    fn note_link_work(&self, links: &[LinkId], work: usize) {
        for link in links {
            self.links[link.index()].sink.note_work(work);
        }
    }

    /// One copy to each link that has plain interest or a picked member.
    pub(super) fn forward(
        &mut self,
        source: &Source,
        passage: &Passage<'_>,
        list: &MatchList,
        links: &[LinkId],
        picks: &Picks,
    ) {
        let picked_only = picks.iter().map(|pick| pick.0).filter(|link| !links.contains(link));
        let mut ways: SmallVec<[LinkId; 8]> = SmallVec::from_slice(links);
        for link in picked_only {
            if !ways.contains(&link) {
                ways.push(link);
            }
        }
        let run = MessageRun::one(passage.message);
        for (index, &link) in ways.iter().enumerate() {
            let picked = picks.iter().filter(|pick| pick.0 == link);
            let queues: SmallVec<[&[u8]; 4]> =
                picked.map(|pick| list.groups[pick.1 as usize].name()).collect();
            let source = source.part(source.share, index, ways.len());
            let plain = links.contains(&link);
            let target = Target { plain, queues: &queues, ..passage.origin.target };
            self.forward_over(link, &source, &target, &run);
        }
        self.note_forwarded(&passage.origin.target, ways.len());
        let receivers = if links.is_empty() { 0 } else { list.most_behind() };
        self.note_link_work(&ways, (receivers + picks.len()) * delivery_work(&run));
    }

    #[inline]
    pub(super) fn forward_over(
        &mut self,
        link: LinkId,
        source: &Source,
        target: &Target<'_>,
        run: &MessageRun<'_>,
    ) {
        self.links[link.index()].sink.forward(source, target, run);
        self.counters.forwarded += run.len() as u64;
    }

    /// Sends a queue message that found no member here to another link that has one; false = there
    /// is none.
    #[cold]
    pub(super) fn redirect(
        &mut self,
        source: &Source,
        passage: &Passage<'_>,
        group: Option<&QueueGroup>,
        queue: &[u8],
    ) -> bool {
        let members = group.map_or(&[][..], QueueGroup::links);
        let others = members.iter().filter_map(|member| match member.sink {
            Sink::Link(link) if !member.is_removed() => Some(link),
            _ => None,
        });
        // Where it came from is the last choice: the members there were passed over for a reason.
        let next = others
            .clone()
            .find(|link| Some(*link) != passage.origin.from)
            .or_else(|| others.clone().next());
        let Some(link) = next.filter(|_| passage.origin.target.hops < QUEUE_HOPS_MAX) else {
            self.counters.queue_members_gone += 1;
            return false;
        };
        let (hops, queues) = (passage.origin.target.hops + 1, [queue]);
        let target = Target { plain: false, hops, queues: &queues, ..passage.origin.target };
        self.forward_over(link, source, &target, &MessageRun::one(passage.message));
        self.note_forwarded(&target, 1);
        true
    }
}
