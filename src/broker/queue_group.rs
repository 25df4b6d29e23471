//! Picks one member of a queue group: every member of the server equally likely.
//!
//! A link stands for as many members as live behind it. Source: nats-server server/client.go
//! processMsgResults: a uniform start, then on past members that cannot take the message.

use std::rc::Rc;

use crate::broker::subscription::Subscription;

/// All members of one group that a subject reaches, whatever filters they used.
pub struct QueueGroup {
    pub members: Vec<Rc<Subscription>>,
    has_links: bool,
}

impl QueueGroup {
    pub fn new(first: Rc<Subscription>) -> Self {
        let has_links = first.client().is_none();
        Self { members: vec![first], has_links }
    }

    pub fn push(&mut self, member: Rc<Subscription>) {
        self.has_links |= member.client().is_none();
        self.members.push(member);
    }

    pub fn name(&self) -> &[u8] {
        self.members[0].queue()
    }

    /// Where to start asking. `local_only` leaves links out.
    pub fn pick(&self, random: &mut fastrand::Rng, local_only: bool) -> usize {
        if !self.has_links {
            return match self.members.len() {
                1 => 0,
                count => random.usize(..count),
            };
        }
        let weight = |member: &Rc<Subscription>| match member.client() {
            Some(_) => 1,
            None if local_only => 0,
            None => u64::from(member.weight()),
        };
        let total: u64 = self.members.iter().map(weight).sum();
        if total == 0 {
            return 0;
        }
        let mut ticket = random.u64(..total);
        for (index, member) in self.members.iter().enumerate() {
            let weight = weight(member);
            if ticket < weight {
                return index;
            }
            ticket -= weight;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::LinkId;
    use crate::broker::subscription::Sink;

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
