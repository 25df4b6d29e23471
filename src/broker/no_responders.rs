//! Requests that nobody gets: whoever asked is told so, on whatever shard the listeners were
//! thought to be.
//!
//! Where a request finds nobody on its own shard and goes over links, each copy carries a share of
//! it. A shard on which nobody may have it (its listeners have left, are denied its subject or must
//! not hear themselves, or a service declines it) sends the share back; a shard that only passes it
//! on passes the share on. When all shares are back nobody has it, and the requester gets its 503.
//! With one link that needs no memory; shares of several are collected here.

use std::collections::VecDeque;

use super::Broker;
use super::fan_out::{Passage, Routed};
use super::link::{Forward, Source, Unheard};
use super::router::{Publisher, Turn};
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::UNHEARD_REQUESTS_MAX;
use crate::protocol::message::Message;

/// Requests some of whose shares came back, oldest first.
#[derive(Default)]
pub(super) struct UnheardRequests {
    waiting: VecDeque<Unheard>,
}

impl UnheardRequests {
    /// True if all shares of the request are back now.
    fn complete(&mut self, unheard: &Unheard) -> bool {
        if unheard.share == Source::WHOLE {
            return true;
        }
        let same = |other: &Unheard| Unheard { share: unheard.share, ..other.clone() } == *unheard;
        let Some(index) = self.waiting.iter().position(same) else {
            if self.waiting.len() >= UNHEARD_REQUESTS_MAX {
                self.waiting.pop_front();
            }
            self.waiting.push_back(unheard.clone());
            return false;
        };
        self.waiting[index].share += unheard.share;
        let is_whole = self.waiting[index].share >= Source::WHOLE;
        if is_whole {
            self.waiting.remove(index);
        }
        is_whole
    }
}

impl Broker {
    /// Sends a share of a request that nobody here got back to where it came from.
    #[cold]
    pub(super) fn tell_unheard(&mut self, forward: &Forward<'_>, share: u32) {
        let Some(client) = forward.source.publisher else { return };
        let unheard = Unheard {
            account: forward.source.account,
            client,
            share,
            subject: forward.message.subject.to_vec(),
            reply: forward.message.reply.to_vec(),
        };
        match forward.home {
            Some(link) => self.links[link.index()].sink.unheard(unheard),
            // It came home to look for another member of a queue group.
            None => self.link_unheard(&unheard),
        }
    }

    /// A share of a request of this shard has come back.
    pub fn link_unheard(&mut self, unheard: &Unheard) {
        let client = self.clients.get(unheard.client.index());
        if client.is_some_and(|client| client.account == unheard.account)
            && self.unheard.complete(unheard)
        {
            let Unheard { account, client, subject, reply, .. } = unheard;
            self.tell_no_responders(*account, *client, subject, reply);
        }
    }

    /// True if anybody on this server, this shard's links included, would get a message on
    /// `subject`.
    pub fn has_interest(&mut self, account: AccountId, subject: &[u8]) -> bool {
        let budget = &mut self.turn_work_max.clone();
        match self.accounts[account.index()].matched(account, subject, budget) {
            Ok(list) => list.size() > 0 || !list.reach().is_empty(),
            // What takes so long to match is somebody's.
            Err(_) => true,
        }
    }

    /// Tells a requester that nobody listens, on its own plain subscription for the reply.
    pub fn send_no_responders(&mut self, publisher: &Publisher, subject: &[u8], reply: &[u8]) {
        self.tell_no_responders(publisher.account, publisher.client, subject, reply);
    }

    /// Tells a requester that nobody listens; where that takes more than a turn, behind.
    fn tell_no_responders(
        &mut self,
        account: AccountId,
        client: ClientKey,
        subject: &[u8],
        reply: &[u8],
    ) {
        let source = Source { account, publisher: Some(client), no_echo: None, share: 0 };
        let message = Message {
            subject,
            reply,
            headers: b"",
            body: b"",
            header_size_text: b"",
            size_text: b"0",
            tail: b"",
        };
        let passage = Passage { message, source, connection: None, via: None, tells_nobody: true };
        let mut turn = Turn::new(self.turn_work_max);
        if self.tell_nobody_listens(&passage, &mut turn) == Routed::Unfinished
            && let Some(fan_out) = turn.unfinished
            && self.backlog.has_room(&fan_out)
        {
            self.backlog.push_fan_out(fan_out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unheard(client: u32, share: u32) -> Unheard {
        let (subject, reply) = (b"ask".to_vec(), b"inbox".to_vec());
        Unheard { account: AccountId::GLOBAL, client: ClientKey(client), share, subject, reply }
    }

    #[test]
    fn a_request_is_unheard_when_all_of_its_shares_are_back() {
        let mut requests = UnheardRequests::default();
        assert!(requests.complete(&unheard(1, Source::WHOLE)));
        let source = Source {
            account: AccountId::GLOBAL,
            publisher: None,
            no_echo: None,
            share: Source::WHOLE,
        };
        for count in 2..=63 {
            for index in 0..count {
                let share = source.part(source.share, index, count).share;
                // A part of somebody else's request changes nothing.
                assert!(!requests.complete(&unheard(2, 1)));
                let complete = requests.complete(&unheard(1, share));
                assert_eq!(complete, index + 1 == count, "{index} of {count}");
            }
        }
    }

    #[test]
    fn the_oldest_request_gives_way_at_the_bound() {
        let mut requests = UnheardRequests::default();
        let half = Source::WHOLE / 2;
        for client in 0..=UNHEARD_REQUESTS_MAX as u32 {
            assert!(!requests.complete(&unheard(client, half)));
        }
        assert_eq!(requests.waiting.len(), UNHEARD_REQUESTS_MAX);
        assert!(requests.complete(&unheard(1, half)), "still there");
        assert!(!requests.complete(&unheard(0, half)), "forgotten");
    }
}
