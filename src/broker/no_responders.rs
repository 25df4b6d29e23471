//! Requests that nobody gets: whoever asked is told so, on whatever shard the listeners were
//! thought to be.
//!
//! A request that finds nobody on its own shard and goes over links is divided: each copy carries a
//! share of it. A shard on which nobody may have it (its listeners have left, are denied its
//! subject or must not hear themselves, or a service declines it) sends the share back; a shard
//! that only passes it on passes the share on. When all shares are back nobody has it, and the
//! requester gets its 503. With one link that needs no memory; shares of several are collected
//! here.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::rc::Rc;

use super::Broker;
use super::fan_out::{FanOut, Stage};
use super::link::{Source, Unheard};
use super::passage::{Origin, Passage, Progress, Routed};
use super::responses;
use super::subscription::{Sink, Subscription};
use super::turn::Turn;
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::{TOKEN_BYTES_PER_UNIT, UNHEARD_REQUESTS_MAX};
use crate::protocol::message::Message;
use crate::protocol::nats::encode;

/// Requests some of whose shares came back, oldest first.
#[derive(Default)]
pub(super) struct UnheardRequests {
    waiting: VecDeque<Unheard>,
    /// The hash of each of them, so that a search compares texts only where hashes are equal.
    hashes: VecDeque<u64>,
    hasher: foldhash::fast::RandomState,
}

/// Hashes compared that cost one unit of work.
const HASHES_PER_UNIT: usize = 64;

impl UnheardRequests {
    /// True if all shares of the request are back now.
    /// `forgotten` counts those that gave way to a newer one.
    fn complete(&mut self, unheard: &Unheard, turn: &mut Turn, forgotten: &mut u64) -> bool {
        if unheard.share == Source::WHOLE {
            return true;
        }
        let Unheard { account, client, subject, reply, .. } = unheard;
        let hash = self.hasher.hash_one((account, client, subject, reply));
        turn.spend(
            self.hashes.len() / HASHES_PER_UNIT
                + (subject.len() + reply.len()) / TOKEN_BYTES_PER_UNIT,
        );
        let same = |other: &Unheard| {
            other.account == *account
                && other.client == *client
                && other.subject == *subject
                && other.reply == *reply
        };
        let mut places = self.hashes.iter().zip(&self.waiting);
        let Some(index) = places.position(|(other, at)| *other == hash && same(at)) else {
            if self.waiting.len() >= UNHEARD_REQUESTS_MAX {
                self.waiting.pop_front();
                self.hashes.pop_front();
                *forgotten += 1;
            }
            self.waiting.push_back(unheard.clone());
            self.hashes.push_back(hash);
            return false;
        };
        self.waiting[index].share += unheard.share;
        let is_whole = self.waiting[index].share >= Source::WHOLE;
        if is_whole {
            self.waiting.remove(index);
            self.hashes.remove(index);
        }
        is_whole
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(&self) {
        assert!(self.waiting.len() <= UNHEARD_REQUESTS_MAX, "past the bound");
        assert_eq!(self.waiting.len(), self.hashes.len());
        let mut distinct = std::collections::HashSet::new();
        for (Unheard { account, client, share, subject, reply }, hash) in
            self.waiting.iter().zip(&self.hashes)
        {
            assert!((1..Source::WHOLE).contains(share), "a share of a request");
            assert_eq!(self.hasher.hash_one((account, client, subject, reply)), *hash);
            assert!(distinct.insert((account, client, subject, reply)), "shares of one request");
        }
    }
}

/// Tells the publisher of a message that nobody listens, if one of these subscriptions is its own.
#[cold]
pub(super) fn tell_publisher(passage: &Passage<'_>, subscriptions: &[Rc<Subscription>]) -> bool {
    let mut plain = subscriptions.iter().filter(|subscription| !subscription.is_removed());
    let own = plain.find(|subscription| {
        subscription.client().is_some() && subscription.client() == passage.origin.source.publisher
    });
    let Some(own) = own else { return false };
    if let Sink::Client { outbox, .. } = &own.sink {
        let Message { subject, reply, .. } = passage.message;
        let mut line = Vec::new();
        encode::no_responders(&mut line, reply, own.sid(), subject);
        outbox.push_bytes(&line);
    }
    true
}

impl Origin<'_> {
    /// The source of a message that goes over links; its share is whole if its publisher is to be
    /// told when nobody gets it.
    #[inline]
    pub(super) fn asking(&self, message: &Message<'_>, delivered: bool) -> Source {
        let asks = self.tells_nobody && !delivered && !message.reply.is_empty();
        Source { share: if asks { Source::WHOLE } else { 0 }, ..self.source }
    }
}

impl Broker {
    /// A message has been to everybody.
    pub(super) fn end_of_passage(
        &mut self,
        passage: &Passage<'_>,
        progress: &Progress,
        turn: &mut Turn,
    ) -> Routed {
        // Of what came from another account the requester is told there.
        if !progress.delivered
            && passage.origin.tells_nobody
            && passage.origin.target.passed.is_empty()
        {
            return self.tell_nobody_listens(passage, turn);
        }
        Routed::new(progress.delivered)
    }

    /// Nobody got a request in the one go in which it was routed.
    #[cold]
    pub(super) fn nobody_got(&mut self, passage: &Passage<'_>, turn: &mut Turn) -> Routed {
        let Origin { source, from, target, tells_nobody } = passage.origin;
        let tells_nobody = tells_nobody && target.passed.is_empty();
        if from.is_some() && source.share > 0 {
            self.tell_unheard(passage, source.share, turn);
        } else if tells_nobody {
            return self.tell_nobody_listens(passage, turn);
        }
        Routed::Nobody
    }

    /// Tells a requester that nobody listens, on its own plain subscription for the reply.
    #[cold]
    pub(super) fn tell_nobody_listens(&mut self, passage: &Passage<'_>, turn: &mut Turn) -> Routed {
        let id = passage.origin.source.account;
        let room = turn.room();
        let mut budget = room;
        let account = &mut self.accounts[id.index()];
        let found = account.matched(id, passage.message.reply, &mut budget);
        turn.spend(room - budget);
        let stage = match found {
            Ok(list) if list.plain.len() <= turn.room() => {
                turn.spend(list.plain.len());
                tell_publisher(passage, &list.plain);
                return Routed::Nobody;
            }
            Ok(list) => Stage::FindingPublisher(list, 0),
            Err(builder) => Stage::MatchingReply(Some(builder)),
        };
        turn.unfinished = Some(FanOut::new(passage, stage, self.cuts.token()));
        Routed::Unfinished
    }

    /// Sends a share of a request that nobody here got back to where it came from.
    #[cold]
    pub(super) fn tell_unheard(&mut self, passage: &Passage<'_>, share: u32, turn: &mut Turn) {
        let Origin { source, target, .. } = passage.origin;
        let Some(client) = source.publisher else { return };
        let unheard = Unheard {
            account: source.account,
            client,
            share,
            subject: passage.message.subject.to_vec(),
            reply: passage.message.reply.to_vec(),
        };
        match target.home {
            Some(link) => {
                if !self.links[link.index()].sink.unheard(unheard) {
                    self.counters.unanswered += 1;
                }
            }
            // It came home to look for another member of a queue group.
            None => self.link_unheard(&unheard, turn),
        }
    }

    /// A share of a request of this shard has come back: tells the requester that nobody listens if
    /// it was the last. The rest of it is done in the background if it takes more than this turn.
    pub fn link_unheard(&mut self, unheard: &Unheard, turn: &mut Turn) {
        turn.spend(1);
        let client = self.client(unheard.client);
        let is_own = client.is_some_and(|client| client.account == unheard.account);
        let moved = self.cuts.moved(unheard.client);
        let moved = moved.filter(|(account, ..)| *account == unheard.account);
        let crossed = unheard.reply.starts_with(responses::PREFIX);
        if !(is_own || crossed || moved.is_some())
            || !self.unheard.complete(unheard, turn, &mut self.counters.unanswered)
        {
            return;
        }
        if !self.tell_requester(unheard, turn) && is_own {
            let Unheard { account, client, subject, reply, .. } = unheard;
            self.tell_no_responders(*account, *client, subject, reply, turn);
        } else if let Some((_, link, client)) = moved.filter(|_| !crossed) {
            self.tell_moved(unheard, link, client);
        }
    }

    /// Tells a requester that nobody listens; where that takes more than this turn, behind.
    pub(super) fn tell_no_responders(
        &mut self,
        account: AccountId,
        client: ClientKey,
        subject: &[u8],
        reply: &[u8],
        turn: &mut Turn,
    ) {
        let message = Message::without_headers(subject, reply, b"", b"0");
        let passage = Passage::new(&message, &Origin::client(account, client, None, true), None);
        if self.tell_nobody_listens(&passage, turn) == Routed::Unfinished
            && let Some(fan_out) = turn.unfinished.take()
        {
            match self.backlog.has_room(&fan_out) {
                true => self.backlog.push_fan_out(fan_out),
                false => self.counters.unanswered += 1,
            }
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
        assert!(requests.complete(&unheard(1, Source::WHOLE), &mut Turn::default(), &mut 0));
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
                assert!(!requests.complete(&unheard(2, 1), &mut Turn::default(), &mut 0));
                let complete = requests.complete(&unheard(1, share), &mut Turn::default(), &mut 0);
                assert_eq!(complete, index + 1 == count, "{index} of {count}");
            }
        }
    }

    #[test]
    fn the_oldest_request_gives_way_at_the_bound() {
        let mut requests = UnheardRequests::default();
        let half = Source::WHOLE / 2;
        for client in 0..=UNHEARD_REQUESTS_MAX as u32 {
            assert!(!requests.complete(&unheard(client, half), &mut Turn::default(), &mut 0));
        }
        assert_eq!(requests.waiting.len(), UNHEARD_REQUESTS_MAX);
        assert!(requests.complete(&unheard(1, half), &mut Turn::default(), &mut 0), "still there");
        assert!(!requests.complete(&unheard(0, half), &mut Turn::default(), &mut 0), "forgotten");
    }
}
