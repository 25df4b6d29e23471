//! The walk of one message through its list: the plain subscriptions, then one member of each queue
//! group, then the links. It stops where the turn is over and goes on there in the next.

use std::rc::Rc;

use super::Broker;
use super::link::Traced;
use super::match_list::MatchList;
use super::passage::{Passage, Progress, delivery_work};
use super::queue_group::QueueGroup;
use super::subscription::{Sink, Subscription};
use super::turn::Turn;
use crate::base::ids::LinkId;
use crate::base::limits::{FAN_OUT_PART, PICKED_NAMES_BYTES_MAX};
use crate::protocol::message::MessageRun;

/// The outcome of asking the members of a group.
enum Asked {
    Served,
    /// The message goes to a member behind this link.
    Picked(LinkId),
    Nobody,
    /// The turn is over; the next one goes on asking.
    Unfinished,
}

impl Broker {
    /// Delivers and forwards until the whole list had its turn, or this turn is over; true = the
    /// whole list had it. Each call makes progress.
    pub(super) fn walk(
        &mut self,
        passage: &Passage<'_>,
        list: &MatchList,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        let is_done = self.serve_plain(passage, list, progress, turn)
            && self.serve_groups(passage, list, progress, turn)
            && (list.crossings.is_empty() || self.serve_crossings(passage, list, progress, turn))
            && match passage.origin.from {
                None => self.forward_picked(passage, list, progress, turn),
                Some(_) => self.pass_on_unserved(passage, list, progress, turn),
            };
        self.remove_expired(turn);
        if is_done && let Some(traced) = passage.origin.target.trace {
            self.end_of_traced(&passage.origin, traced);
        }
        is_done
    }

    fn serve_plain(
        &mut self,
        passage: &Passage<'_>,
        list: &MatchList,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        let run = MessageRun::one(passage.message);
        let each = delivery_work(&run);
        let count = if passage.origin.target.plain { list.plain.len() } else { 0 };
        while progress.plain < count {
            let part = (turn.room() / each).clamp(1, FAN_OUT_PART);
            let end = count.min(progress.plain + part);
            let some = &list.plain[progress.plain..end];
            progress.delivered |= match passage.origin.target.trace {
                None => self.fan_out(some, &run, &passage.origin, turn),
                Some(traced) => self.fan_out_traced(some, traced, passage, turn),
            };
            progress.plain = end;
            if turn.is_over() && end < count {
                return false;
            }
        }
        true
    }

    /// Has one member of each group take the message: of those that the list holds, wherever the
    /// member is; of a message that came over a link, of those that its shard named, and here.
    fn serve_groups(
        &mut self,
        passage: &Passage<'_>,
        list: &MatchList,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        let named = passage.origin.from.map(|_| passage.origin.target.queues);
        let count = named.map_or(list.groups.len(), <[_]>::len);
        while progress.group < count {
            if progress.picked_bytes >= PICKED_NAMES_BYTES_MAX
                && !self.forward_picked(passage, list, progress, turn)
            {
                return false;
            }
            let place = progress.group;
            let group = match named {
                None => Some(&list.groups[place]),
                Some(queues) => list.group(queues[place]),
            };
            // At least one group, so that every turn makes progress.
            let asked = group.map_or(Asked::Nobody, |group| {
                self.ask_group(group, passage, &mut progress.asked, turn)
            });
            match asked {
                Asked::Served => progress.delivered = true,
                Asked::Picked(link) => {
                    progress.picks.push((link, place as u32));
                    progress.picked_bytes += list.groups[place].name().len() + size_of::<u32>();
                }
                Asked::Nobody if named.is_some() => {
                    turn.spend(1);
                    progress.unserved.push(place as u32);
                }
                Asked::Nobody => {}
                Asked::Unfinished => return false,
            }
            progress.group += 1;
            if turn.is_over() && progress.group < count {
                return false;
            }
        }
        true
    }

    /// Asks the members of a group one after the other, from a random one on, until one takes the
    /// message.
    fn ask_group(
        &mut self,
        group: &QueueGroup,
        passage: &Passage<'_>,
        progress: &mut Option<(usize, usize)>,
        turn: &mut Turn,
    ) -> Asked {
        let run = MessageRun::one(passage.message);
        let local_only = passage.origin.from.is_some();
        let (start, mut asked) = match progress.take() {
            Some(before) => before,
            None => (group.pick(&mut self.random, local_only), 0),
        };
        while asked < group.len(local_only) {
            let member = group.member(start, asked, local_only);
            match member.sink {
                Sink::Client { .. } | Sink::Service(_) | Sink::Import(_)
                    if self.deliver_to_member(member, &run, passage, turn) =>
                {
                    turn.spend(delivery_work(&run));
                    return Asked::Served;
                }
                Sink::Link(link) if !member.is_removed() => {
                    turn.spend(1);
                    return Asked::Picked(link);
                }
                _ => {}
            }
            turn.spend(1);
            asked += 1;
            if turn.is_over() && asked < group.len(local_only) {
                *progress = Some((start, asked));
                return Asked::Unfinished;
            }
        }
        Asked::Nobody
    }

    #[inline]
    fn deliver_to_member(
        &mut self,
        member: &Rc<Subscription>,
        run: &MessageRun<'_>,
        passage: &Passage<'_>,
        turn: &mut Turn,
    ) -> bool {
        let Passage { message, origin, .. } = passage;
        match origin.target.trace {
            None => self.deliver_alone(member, run, origin, turn),
            Some(traced) => self.deliver_traced(member, traced, message, origin, turn),
        }
    }

    #[cold]
    fn fan_out_traced(
        &mut self,
        subscriptions: &[Rc<Subscription>],
        traced: Traced,
        passage: &Passage<'_>,
        turn: &mut Turn,
    ) -> bool {
        let Passage { message, origin, .. } = passage;
        let mut delivered = false;
        turn.spend(subscriptions.len() * delivery_work(&MessageRun::one(*message)));
        for subscription in subscriptions {
            delivered |= self.deliver_traced(subscription, traced, message, origin, turn);
        }
        delivered
    }

    /// Forwards to the links with plain interest, which get their copy once, and to those of picked
    /// members, once all of them have room: one flush pushes all copies. False = the turn holds
    /// what to wait for.
    fn forward_picked(
        &mut self,
        passage: &Passage<'_>,
        list: &MatchList,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        let links = if progress.forwarded { &[][..] } else { &list.links[..] };
        if !links.is_empty() || !progress.picks.is_empty() {
            if self.tight.get() {
                turn.congestion = self.congestion_of(list, passage.size());
                if turn.congestion.is_some() {
                    return false;
                }
            }
            // If one link gets several copies, only the last could report that nobody got it.
            let is_only = !progress.forwarded && progress.group == list.groups.len();
            let source = match is_only {
                true => passage.origin.asking(&passage.message, progress.delivered),
                false => passage.origin.source,
            };
            self.forward(&source, passage, list, links, &progress.picks);
            turn.spend(links.len() + progress.picks.len());
            progress.delivered = true;
        }
        progress.forwarded = true;
        progress.picks.clear();
        progress.picked_bytes = 0;
        true
    }

    /// Looks for a member elsewhere for each group that has none here, and sends the share of a
    /// request that nobody got back. A group whose members all left meanwhile is looked for once
    /// more.
    fn pass_on_unserved(
        &mut self,
        passage: &Passage<'_>,
        list: &MatchList,
        progress: &Progress,
        turn: &mut Turn,
    ) -> bool {
        let origin = &passage.origin;
        // A request that somebody got has its answer.
        let share = if progress.delivered { 0 } else { origin.source.share };
        let mut unheard = share;
        for (index, place) in progress.unserved.iter().enumerate() {
            let queue = origin.target.queues[*place as usize];
            let source = origin.source.part(share, index, progress.unserved.len());
            if self.redirect(&source, passage, list.group(queue), queue) {
                unheard -= source.share;
            }
        }
        if unheard > 0 && !passage.message.reply.is_empty() {
            self.tell_unheard(passage, unheard, turn);
        }
        true
    }
}
