//! From a published message to everybody who wants it: local fan-out, one member per queue group, at most
//! one copy per link.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Instant;

use hashbrown::HashSet;
use smallvec::SmallVec;

use crate::base::ids::{AccountId, ClientKey, ConnectionId, LinkId};
use crate::base::limits::{RUN_RECEIVERS_MAX, TURN_DELIVERIES_MAX};
use crate::broker::link::{Congestion, Forward, Source};
use crate::broker::outbox::{FanOutFrame, Outbox, Pushed};
use crate::broker::queue_group::QueueGroup;
use crate::broker::subscription::{Sink, Subscription};
use crate::broker::{AccountState, Broker};
use crate::protocol::message::Message;
use crate::protocol::nats::encode;

/// Times a message may look for another member of its queue group on another shard before it is dropped.
const QUEUE_HOPS_MAX: u8 = 3;

/// Everybody a subject reaches.
#[derive(Default)]
pub struct MatchList {
    pub plain: Vec<Rc<Subscription>>,
    pub groups: Vec<QueueGroup>,
    /// Links with plain interest, each once.
    pub links: SmallVec<[LinkId; 4]>,
    /// Whether no connection has two of the plain subscriptions, once somebody asked.
    apart: OnceCell<bool>,
}

impl MatchList {
    /// Whether a run may go to one subscription after the other. Not to two of one connection, which is to hear
    /// each message on both before the next, as from nats-server; not to services of the server; and to many
    /// receivers it is no use.
    #[inline]
    pub(super) fn takes_runs(&self) -> bool {
        match &self.plain[..] {
            [] => true,
            [subscription] => matches!(subscription.sink, Sink::Client { .. }),
            many => *self.apart.get_or_init(|| are_apart(many)),
        }
    }

    fn add(&mut self, subscription: &Rc<Subscription>) {
        let queue = subscription.queue();
        if !queue.is_empty() {
            match self.groups.iter_mut().find(|group| group.name() == queue) {
                Some(group) => group.push(subscription.clone()),
                None => self.groups.push(QueueGroup::new(subscription.clone())),
            }
        } else if let Sink::Link(link) = subscription.sink {
            if !self.links.contains(&link) {
                self.links.push(link);
            }
        } else {
            self.plain.push(subscription.clone());
        }
    }
}

#[cold]
fn are_apart(subscriptions: &[Rc<Subscription>]) -> bool {
    let mut seen = HashSet::new();
    subscriptions.len() <= RUN_RECEIVERS_MAX
        && subscriptions
            .iter()
            .all(|subscription| subscription.client().is_some_and(|client| seen.insert(client)))
}

/// A publisher's last subject and what it reached: most publishers repeat a subject.
#[derive(Default)]
pub struct RouteCache {
    account: AccountId,
    pub(super) subject: Vec<u8>,
    generation: u64,
    pub(super) list: Option<Rc<MatchList>>,
    /// Where the subject reaches one plain subscription of this shard: its MSG up to the reply.
    pub(super) head: Vec<u8>,
}

impl RouteCache {
    #[inline(never)]
    fn fill(&mut self, id: AccountId, account: &mut AccountState, subject: &[u8]) {
        self.account = id;
        self.subject.clear();
        self.subject.extend_from_slice(subject);
        self.refill(account);
    }

    /// Looks up again what it was last asked for.
    #[inline(never)]
    fn refill(&mut self, account: &mut AccountState) {
        let list = Broker::matched(account, &self.subject);
        self.generation = account.table.generation();
        self.head.clear();
        if let [subscription] = &list.plain[..] {
            encode::message_head(&mut self.head, &self.subject, subscription.sid());
        }
        self.list = Some(list);
    }

    /// What it was last asked for; empty = nothing yet.
    #[inline]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// Makes this what `subject` reaches now.
    #[inline]
    fn renew(&mut self, id: AccountId, account: &mut AccountState, subject: &[u8]) {
        if self.generation != account.table.generation()
            || self.account != id
            || self.subject != subject
            || self.list.is_none()
        {
            self.fill(id, account, subject);
        }
    }

    /// As `renew` where the subject and the account are those of before.
    #[inline]
    pub(super) fn renew_same(&mut self, account: &mut AccountState) {
        if self.generation != account.table.generation() {
            self.refill(account);
        }
    }
}

/// Who publishes, as far as routing cares.
#[derive(Clone, Copy, Debug)]
pub struct Publisher {
    pub client: ClientKey,
    pub account: AccountId,
    pub echo: bool,
    /// It is to be told when nobody gets a request of its own.
    pub no_responders: bool,
}

/// What one connection's turn did so far: kept by the session, obeyed at the end of the turn.
#[derive(Default)]
pub struct Turn {
    /// Whose turn it is; none while messages come in from another shard.
    pub publisher: Option<ConnectionId>,
    pub deliveries: usize,
    /// The consumer with most pending that the publisher should wait for.
    pub paced: Option<Rc<Outbox>>,
}

impl Turn {
    /// Whether the others come first now.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.deliveries >= TURN_DELIVERIES_MAX
    }

    /// Counts and pushes deliveries; whether they were queued.
    #[inline(always)]
    pub(super) fn push(
        &mut self,
        outbox: &Rc<Outbox>,
        deliveries: usize,
        push: impl FnOnce(&Outbox) -> Pushed,
    ) -> bool {
        self.deliveries += deliveries;
        match push(outbox) {
            Pushed::Queued => {}
            Pushed::QueuedPace => self.note_paced(outbox),
            Pushed::Closed | Pushed::Overflow | Pushed::Dropped => return false,
        }
        true
    }

    fn note_paced(&mut self, outbox: &Rc<Outbox>) {
        let larger =
            self.paced.as_ref().is_none_or(|paced| paced.pending_bytes() < outbox.pending_bytes());
        if larger {
            self.paced = Some(outbox.clone());
        }
    }
}

/// Whether a subscription must not have a message on `subject`, all its rules of delivery but the maximum.
#[inline(always)]
pub(super) fn withholds(
    subscription: &Subscription,
    outbox: &Outbox,
    subject: &[u8],
    no_echo: Option<ConnectionId>,
) -> bool {
    subscription.is_removed()
        || no_echo.is_some_and(|connection| connection == outbox.id)
        || subscription.denies(subject)
}

/// The source of a client's message; its share is whole if the publisher is to be told when nobody gets it.
#[inline]
fn asking(
    publisher: &Publisher,
    no_echo: Option<ConnectionId>,
    message: &Message<'_>,
    delivered: bool,
) -> Source {
    let asks = publisher.no_responders && !delivered && !message.reply.is_empty();
    Source { share: if asks { Source::WHOLE } else { 0 }, ..Source::of(publisher, no_echo) }
}

/// Links a message goes to, with the queue groups picked there.
pub(super) type Picks<'a> = SmallVec<[(LinkId, &'a [u8]); 4]>;

impl Broker {
    /// Routes a client's message. Returns whether anybody got it.
    #[inline]
    pub fn publish(
        &mut self,
        publisher: &Publisher,
        message: &Message<'_>,
        cache: &mut RouteCache,
        turn: &mut Turn,
    ) -> bool {
        let account = &mut self.accounts[publisher.account.index()];
        cache.renew(publisher.account, account, message.subject);
        self.route(publisher, message, cache, turn)
    }

    /// As `publish` for a message on the same subject as the last one of this publisher.
    #[inline]
    pub fn publish_again(
        &mut self,
        publisher: &Publisher,
        message: &Message<'_>,
        cache: &mut RouteCache,
        turn: &mut Turn,
    ) -> bool {
        debug_assert!(cache.subject == message.subject);
        cache.renew_same(&mut self.accounts[publisher.account.index()]);
        self.route(publisher, message, cache, turn)
    }

    /// Where links write down that one of them may have no room for a message.
    pub fn lanes_tight(&self) -> Rc<Cell<bool>> {
        self.tight.clone()
    }

    /// What to wait for before a message of so many bytes is published on `subject`: a link that it would go over
    /// has no room. A message is routed once all of its copies find theirs.
    #[inline]
    pub fn message_congestion(
        &mut self,
        account: AccountId,
        subject: &[u8],
        bytes: usize,
    ) -> Option<Congestion> {
        if !self.tight.get() {
            return None;
        }
        self.look_for_room(account, subject, bytes)
    }

    #[cold]
    fn look_for_room(
        &mut self,
        account: AccountId,
        subject: &[u8],
        bytes: usize,
    ) -> Option<Congestion> {
        if !self.links.iter().any(|link| link.sink.is_tight()) {
            self.tight.set(false);
            return None;
        }
        let list = Self::matched(&mut self.accounts[account.index()], subject);
        let queues: usize = list.groups.iter().map(|group| group.name().len() + 4).sum();
        let behind = list.groups.iter().flat_map(|group| &group.members);
        let behind = behind.filter_map(|member| match member.sink {
            Sink::Link(link) => Some(link),
            Sink::Client { .. } | Sink::Internal(_) => None,
        });
        let mut links = list.links.iter().copied().chain(behind);
        links.find_map(|link| self.links[link.index()].sink.message_congestion(bytes + queues))
    }

    /// As `message_congestion` of a message that may go anywhere.
    pub fn any_congestion(&self, bytes: usize) -> Option<Congestion> {
        match self.tight.get() {
            true => self.links.iter().find_map(|link| link.sink.message_congestion(bytes)),
            false => None,
        }
    }

    /// The connection that is not to hear what this publisher says.
    #[inline]
    pub(super) fn no_echo(&self, publisher: &Publisher) -> Option<ConnectionId> {
        match publisher.echo {
            true => None,
            false => Some(self.clients[publisher.client.index()].outbox.id),
        }
    }

    #[inline(always)]
    fn route(
        &mut self,
        publisher: &Publisher,
        message: &Message<'_>,
        cache: &RouteCache,
        turn: &mut Turn,
    ) -> bool {
        let Some(list) = cache.list.as_deref() else { return false };
        let no_echo = self.no_echo(publisher);
        let mut delivered =
            !list.plain.is_empty() && self.deliver_plain(message, cache, list, no_echo, turn);
        if !list.groups.is_empty() {
            delivered = self.route_to_groups(publisher, message, list, no_echo, turn, delivered);
        } else if !list.links.is_empty() {
            let source = asking(publisher, no_echo, message, delivered);
            self.forward_plain(source, message, &list.links);
            delivered = true;
        }
        self.remove_expired();
        delivered
    }

    /// Delivers to the plain subscriptions of this shard.
    #[inline]
    pub(super) fn deliver_plain(
        &mut self,
        message: &Message<'_>,
        cache: &RouteCache,
        list: &MatchList,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
    ) -> bool {
        if cache.head.is_empty() || message.tail.is_empty() {
            return self.fan_out(&list.plain, message, no_echo, turn);
        }
        self.deliver_by(&list.plain[0], message, no_echo, turn, |outbox| {
            outbox.push_behind(&cache.head, message)
        })
    }

    /// Picks a member of each queue group and sends a copy over each link that wants one.
    fn route_to_groups(
        &mut self,
        publisher: &Publisher,
        message: &Message<'_>,
        list: &MatchList,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
        mut delivered: bool,
    ) -> bool {
        let mut picks = Picks::new();
        for group in &list.groups {
            let picked = picks.len();
            let served = self.deliver_to_group(group, message, no_echo, turn, Some(&mut picks));
            delivered |= served && picks.len() == picked;
        }
        if !list.links.is_empty() || !picks.is_empty() {
            let source = asking(publisher, no_echo, message, delivered);
            self.forward(source, message, &list.links, &picks);
            delivered = true;
        }
        delivered
    }

    /// The matched list of a subject, from the account's cache or the table.
    pub(super) fn matched(account: &mut AccountState, subject: &[u8]) -> Rc<MatchList> {
        account.counts.matches += 1;
        if let Some(list) = account.cache.get(subject) {
            account.counts.cache_hits += 1;
            return list.clone();
        }
        let mut list = MatchList::default();
        account.table.for_each_match(subject, |subscription| list.add(subscription));
        let list = Rc::new(list);
        account.cache.insert(subject, list.clone());
        list
    }

    /// Delivers to all plain subscriptions that may have the message. `no_echo` is the connection that
    /// published it and asked not to hear itself.
    #[inline]
    pub(super) fn fan_out(
        &mut self,
        subscriptions: &[Rc<Subscription>],
        message: &Message<'_>,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
    ) -> bool {
        let mut delivered = false;
        if subscriptions.len() < FanOutFrame::RECEIVERS_MIN || !FanOutFrame::suits(message) {
            for subscription in subscriptions {
                delivered |= self.deliver(subscription, message, no_echo, turn);
            }
            return delivered;
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.begin();
        for subscription in subscriptions {
            delivered |= self.deliver_by(subscription, message, no_echo, turn, |outbox| {
                outbox.push_framed(&mut frame, message, subscription.sid())
            });
        }
        self.frame = frame;
        delivered
    }

    /// Delivers to one local subscription unless it may not have the message.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        subscription: &Rc<Subscription>,
        message: &Message<'_>,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
    ) -> bool {
        self.deliver_by(subscription, message, no_echo, turn, |outbox| {
            outbox.push_message(message, subscription.sid())
        })
    }

    /// The rules of delivery around a way to push.
    #[inline]
    fn deliver_by(
        &mut self,
        subscription: &Rc<Subscription>,
        message: &Message<'_>,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
        push: impl FnOnce(&Outbox) -> Pushed,
    ) -> bool {
        let Sink::Client { outbox, .. } = &subscription.sink else {
            return self.deliver_internal(subscription, message, turn);
        };
        if withholds(subscription, outbox, message.subject, no_echo) || !turn.push(outbox, 1, push)
        {
            return false;
        }
        if outbox.is_observed() {
            outbox.observe(message, subscription.sid());
        }
        let delivered = subscription.delivered.get() + 1;
        subscription.delivered.set(delivered);
        if delivered == subscription.max() {
            subscription.mark_removed();
            self.expired.push(subscription.clone());
        }
        true
    }

    /// Delivers to one member of a group, or picks the link where one lives. Without `picks` only members
    /// of this shard are asked.
    pub(super) fn deliver_to_group<'a>(
        &mut self,
        group: &'a QueueGroup,
        message: &Message<'_>,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
        mut picks: Option<&mut Picks<'a>>,
    ) -> bool {
        let local_only = picks.is_none();
        let start = group.pick(&mut self.random, local_only);
        for offset in 0..group.members.len() {
            let member = &group.members[(start + offset) % group.members.len()];
            match member.sink {
                Sink::Client { .. } | Sink::Internal(_) => {
                    if self.deliver(member, message, no_echo, turn) {
                        return true;
                    }
                }
                Sink::Link(link) => {
                    if let Some(picks) = &mut picks
                        && !member.is_removed()
                    {
                        picks.push((link, group.name()));
                        return true;
                    }
                }
            }
        }
        false
    }

    /// One copy to each link that has plain interest or a picked member.
    pub(super) fn forward(
        &mut self,
        source: Source,
        message: &Message<'_>,
        links: &[LinkId],
        picks: &Picks<'_>,
    ) {
        let picked_only = picks.iter().map(|pick| pick.0).filter(|link| !links.contains(link));
        let mut targets: SmallVec<[LinkId; 8]> = SmallVec::from_slice(links);
        for link in picked_only {
            if !targets.contains(&link) {
                targets.push(link);
            }
        }
        for (index, &link) in targets.iter().enumerate() {
            let queues: SmallVec<[&[u8]; 4]> =
                picks.iter().filter(|pick| pick.0 == link).map(|pick| pick.1).collect();
            self.forward_over(
                link,
                &Forward {
                    source: source.part(source.share, index, targets.len()),
                    message: *message,
                    plain: links.contains(&link),
                    hops: 0,
                    home: None,
                    queues: &queues,
                },
            );
        }
    }

    fn forward_over(&mut self, link: LinkId, forward: &Forward<'_>) {
        self.links[link.index()].sink.forward(forward);
        self.counters.forwarded += 1;
    }

    /// One copy to each link that has plain interest.
    #[inline]
    fn forward_plain(&mut self, source: Source, message: &Message<'_>, links: &[LinkId]) {
        for (index, link) in links.iter().enumerate() {
            let source = source.part(source.share, index, links.len());
            if self.links[link.index()].sink.forward_again(&source, message) {
                self.counters.forwarded += 1;
                continue;
            }
            let message = *message;
            self.forward_over(*link, &Forward::plain(source, message));
        }
    }

    /// Delivers a message that came over a link: to plain subscriptions here and to one member of each
    /// named group. A group whose members all left meanwhile is looked for once more elsewhere. `same`: its
    /// subject and account are those of the message before it that came with this cache.
    #[inline]
    pub fn publish_forwarded(
        &mut self,
        from: LinkId,
        forward: &Forward<'_>,
        same: bool,
        cache: &mut RouteCache,
        turn: &mut Turn,
    ) {
        let Some(account) = self.accounts.get_mut(forward.source.account.index()) else { return };
        match same {
            true => cache.renew_same(account),
            false => cache.renew(forward.source.account, account, forward.message.subject),
        }
        let Some(list) = cache.list.as_deref() else { return };
        let no_echo = forward.source.no_echo;
        let mut delivered =
            forward.plain && self.deliver_plain(&forward.message, cache, list, no_echo, turn);
        let mut unserved = Picks::new();
        for queue in forward.queues {
            let group = list.groups.iter().find(|group| group.name() == *queue);
            let served = group.is_some_and(|group| {
                self.deliver_to_group(group, &forward.message, no_echo, turn, None)
            });
            delivered |= served;
            if !served {
                unserved.push((from, queue));
            }
        }
        // A request that somebody got has its answer.
        let mut unheard = if delivered { 0 } else { forward.source.share };
        let (share, count) = (unheard, unserved.len());
        for (index, (_, queue)) in unserved.into_iter().enumerate() {
            let source = forward.source.part(share, index, count);
            let group = list.groups.iter().find(|group| group.name() == queue);
            if self.redirect(from, &Forward { source, ..*forward }, group, queue) {
                unheard -= source.share;
            }
        }
        if unheard > 0 && !forward.message.reply.is_empty() {
            self.tell_unheard(forward, unheard);
        }
        self.remove_expired();
    }

    /// Sends a queue message that found no member here to another link that has one; false = there is none.
    #[cold]
    fn redirect(
        &mut self,
        from: LinkId,
        forward: &Forward<'_>,
        group: Option<&QueueGroup>,
        queue: &[u8],
    ) -> bool {
        let members = group.map_or(&[][..], |group| &group.members);
        let others = members.iter().filter_map(|member| match member.sink {
            Sink::Link(link) if !member.is_removed() => Some(link),
            _ => None,
        });
        // Where it came from is the last choice: the members there were passed over for a reason.
        let target = others.clone().find(|link| *link != from).or_else(|| others.clone().next());
        let target = target.filter(|_| forward.hops < QUEUE_HOPS_MAX);
        let Some(link) = target else {
            self.counters.queue_members_gone += 1;
            return false;
        };
        let (hops, queues) = (forward.hops + 1, [queue]);
        self.forward_over(link, &Forward { plain: false, hops, queues: &queues, ..*forward });
        true
    }

    /// Whether anybody on this server, this shard's links included, would get a message on `subject`.
    pub fn has_interest(&mut self, account: AccountId, subject: &[u8]) -> bool {
        let list = Self::matched(&mut self.accounts[account.index()], subject);
        !(list.plain.is_empty() && list.groups.is_empty() && list.links.is_empty())
    }

    /// Ends the fan-out: subscriptions that reached their maximum leave the table now.
    #[inline]
    pub(super) fn remove_expired(&mut self) {
        while let Some(subscription) = self.expired.pop() {
            self.forget(&subscription);
        }
    }
}

/// What a publisher waits for after a turn, if anything.
pub fn pace_target(turn: &mut Turn, now: impl FnOnce() -> Instant) -> Option<(Rc<Outbox>, u64)> {
    let outbox = turn.paced.take()?;
    let until = outbox.pace_target(now())?;
    Some((outbox, until))
}
