//! Picks one member of a queue group: every member of the server equally likely.
//!
//! A link stands for as many members as live behind it. Source: nats-server server/client.go
//! processMsgResults: a uniform start, then on past members that cannot take the message.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::broker::subscription::{Sink, Subscription};

/// All members of one group that a subject reaches, whatever filters they used.
pub(crate) struct QueueGroup {
    /// Members on this shard.
    members: Vec<Rc<Subscription>>,
    /// Interest of other shards. Apart from the members: a pick looks at each of them.
    links: SmallVec<[Rc<Subscription>; 1]>,
}

impl QueueGroup {
    pub(crate) fn new(first: Rc<Subscription>) -> Self {
        match first.sink {
            Sink::Link(_) => Self { members: Vec::new(), links: SmallVec::from_elem(first, 1) },
            // Nearly always the only one.
            _ => Self { members: vec![first], links: SmallVec::new() },
        }
    }

    pub(crate) fn push(&mut self, member: Rc<Subscription>) {
        match member.sink {
            Sink::Link(_) => self.links.push(member),
            _ => self.members.push(member),
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        self.members.first().unwrap_or_else(|| &self.links[0]).queue()
    }

    /// Those on this shard.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn members(&self) -> &[Rc<Subscription>] {
        &self.members
    }

    pub(crate) fn links(&self) -> &[Rc<Subscription>] {
        &self.links
    }

    /// True if it has a member on any shard; looks at no more than `budget`.
    pub(crate) fn has_anybody(&self, budget: &mut usize) -> bool {
        is_anybody(&self.links, budget) || is_anybody(&self.members, budget)
    }

    /// The number of members to ask.
    pub(crate) fn len(&self, local_only: bool) -> usize {
        self.members.len() + if local_only { 0 } else { self.links.len() }
    }

    /// The one to ask after `asked` others, beginning at `start`.
    pub(crate) fn member(&self, start: usize, asked: usize, local_only: bool) -> &Rc<Subscription> {
        let at = (start + asked) % self.len(local_only);
        match at.checked_sub(self.members.len()) {
            None => &self.members[at],
            Some(link) => &self.links[link],
        }
    }

    /// Gives away all that it holds, to be dropped elsewhere.
    pub(crate) fn into_members(self) -> Vec<Rc<Subscription>> {
        self.members
    }

    /// The member to ask first. `local_only` leaves links out.
    pub(crate) fn pick(&self, random: &mut fastrand::Rng, local_only: bool) -> usize {
        let own = self.members.len();
        if local_only || self.links.is_empty() {
            return match own {
                0 | 1 => 0,
                count => random.usize(..count),
            };
        }
        let behind = self.links.iter().map(|link| u64::from(link.weight()));
        let total = own as u64 + behind.clone().sum::<u64>();
        if total == 0 {
            return 0;
        }
        let mut ticket = random.u64(..total);
        if ticket < own as u64 {
            return ticket as usize;
        }
        ticket -= own as u64;
        for (index, weight) in behind.enumerate() {
            if ticket < weight {
                return own + index;
            }
            ticket -= weight;
        }
        0
    }
}

/// True if one of these is not removed, or so many are that there is no end to looking: they leave
/// the tables soon, which is another change.
pub(super) fn is_anybody(subscriptions: &[Rc<Subscription>], budget: &mut usize) -> bool {
    for subscription in subscriptions {
        if !subscription.is_removed() || *budget == 0 {
            return true;
        }
        *budget -= 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::LinkId;

    #[test]
    fn a_link_is_picked_by_its_weight() {
        let link = |id, weight| {
            Rc::new(Subscription::new(b"s", b"q", b"", Sink::Link(LinkId(id)), weight))
        };
        let mut group = QueueGroup::new(link(0, 1));
        group.push(link(1, 3));
        let mut random = fastrand::Rng::with_seed(1);
        let mut picks = [0u32; 2];
        for _ in 0..4000 {
            picks[group.pick(&mut random, false)] += 1;
        }
        assert!((850..1150).contains(&picks[0]), "{picks:?}");
    }
}
