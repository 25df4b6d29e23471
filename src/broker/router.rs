//! From a published message to everybody who wants it: local fan-out, one member per queue group,
//! at most one copy per link.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::base::ids::{AccountId, ClientKey, ConnectionId, LinkId};
use crate::base::limits::{
    DENIAL_WORK, FAN_OUT_PART, PICKED_NAMES_BYTES_MAX, ROUTE_LIST_KEPT_MAX, RUN_MESSAGES_MAX,
    TURN_WORK_MAX, WHOLE_WORK_SHARE,
};
use crate::broker::byte_queue::Pushed;
use crate::broker::fan_out::{FanOut, Passage, Progress, Routed, Stage, Via, delivery_work};
use crate::broker::fan_out_frame::FanOutFrame;
use crate::broker::link::{Congestion, Forward, Source};
use crate::broker::match_list::{ListBuilder, MatchList};
use crate::broker::outbox::Outbox;
use crate::broker::queue_group::QueueGroup;
use crate::broker::subscription::{Sink, Subscription};
use crate::broker::{AccountState, Broker};
use crate::protocol::message::Message;
use crate::protocol::nats::encode;

/// Times a message may look for another member of its queue group on another shard before it is
/// dropped.
const QUEUE_HOPS_MAX: u8 = 3;

/// A publisher's last subject and what it reached: most publishers repeat a subject.
pub struct RouteCache {
    account: AccountId,
    pub(super) subject: Vec<u8>,
    /// Generation of the table when `list` was had; `STALE` without one.
    generation: u64,
    pub(super) list: Option<Rc<MatchList>>,
    /// Where the subject reaches one plain subscription of this shard: its MSG up to the reply.
    pub(super) head: Vec<u8>,
}

impl Default for RouteCache {
    fn default() -> Self {
        let account = AccountId::default();
        Self { account, subject: Vec::new(), generation: STALE, list: None, head: Vec::new() }
    }
}

/// The generation of no table: it is to be looked up again.
const STALE: u64 = u64::MAX;

impl RouteCache {
    #[inline(never)]
    fn fill(
        &mut self,
        id: AccountId,
        account: &mut AccountState,
        subject: &[u8],
        turn: &mut Turn,
    ) -> Result<(), Box<ListBuilder>> {
        self.account = id;
        self.subject.clear();
        self.subject.extend_from_slice(subject);
        self.refill(account, turn)
    }

    /// Looks up again what it was last asked for. Err = that takes more than one turn.
    #[inline(never)]
    fn refill(
        &mut self,
        account: &mut AccountState,
        turn: &mut Turn,
    ) -> Result<(), Box<ListBuilder>> {
        self.list = None;
        self.head.clear();
        self.generation = STALE;
        let room = turn.room();
        let mut budget = room;
        let found = account.matched(self.account, &self.subject, &mut budget);
        turn.spend(room - budget);
        let list = found?;
        self.generation = account.table.generation();
        if let [subscription] = &list.plain[..] {
            encode::message_head(&mut self.head, &self.subject, subscription.sid());
        }
        self.list = Some(list);
        Ok(())
    }

    /// The subject it was last asked for; empty = nothing yet.
    #[inline]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// Makes this what `subject` reaches now.
    #[inline]
    fn renew(
        &mut self,
        id: AccountId,
        account: &mut AccountState,
        subject: &[u8],
        turn: &mut Turn,
    ) -> Result<(), Box<ListBuilder>> {
        if self.generation != account.table.generation()
            || self.account != id
            || self.subject != subject
        {
            return self.fill(id, account, subject, turn);
        }
        Ok(())
    }

    /// As `renew` where the subject and the account are those of before.
    #[inline]
    pub(super) fn renew_same(
        &mut self,
        account: &mut AccountState,
        turn: &mut Turn,
    ) -> Result<(), Box<ListBuilder>> {
        if self.generation != account.table.generation() {
            return self.refill(account, turn);
        }
        Ok(())
    }

    /// The list it holds, if nothing changed since it was had.
    #[inline]
    pub(super) fn current(&self, account: &AccountState) -> Option<&MatchList> {
        let is_current = self.generation == account.table.generation();
        if is_current { self.list.as_deref() } else { None }
    }

    /// For between two reads: lets go of a list that is not short. It is in the match cache, where
    /// its bytes count.
    #[inline]
    pub fn end_batch(&mut self) {
        if self.list.as_ref().is_some_and(|list| list.size() > ROUTE_LIST_KEPT_MAX) {
            self.list = None;
            self.generation = STALE;
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

/// The work of one connection's turn so far: kept by the session, obeyed at the end of the turn.
pub struct Turn {
    /// Whose turn it is; none while messages come in from another shard.
    pub publisher: Option<ConnectionId>,
    /// Done so far, and what ends the turn, in units of `TURN_WORK_MAX`.
    work: usize,
    work_max: usize,
    /// The consumer with most pending that the publisher should wait for.
    pub paced: Option<Rc<Outbox>>,
    /// The wait of its unfinished message: a link that has no room.
    pub congestion: Option<Congestion>,
    /// The rest of the message that this turn could not end. Nothing may be published before it
    /// is done.
    pub unfinished: Option<Box<FanOut>>,
}

impl Default for Turn {
    fn default() -> Self {
        Self::new(TURN_WORK_MAX)
    }
}

impl Turn {
    pub fn new(work_max: usize) -> Self {
        Self { publisher: None, work: 0, work_max, paced: None, congestion: None, unfinished: None }
    }

    /// Another turn begins, of so much work.
    #[inline]
    pub fn begin(&mut self, work_max: usize) {
        self.work = 0;
        self.work_max = work_max;
    }

    #[inline]
    pub fn work(&self) -> usize {
        self.work
    }

    #[inline]
    pub fn spend(&mut self, work: usize) {
        self.work += work;
    }

    /// True if the others come first now.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.work >= self.work_max || self.unfinished.is_some()
    }

    /// Work that is left; enough for what is done in one piece.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.work_max.saturating_sub(self.work).max(self.whole_max())
    }

    /// Work that may be begun as one piece as long as a turn is not over.
    #[inline]
    fn whole_max(&self) -> usize {
        (self.work_max / WHOLE_WORK_SHARE).max(1)
    }

    /// Messages of a run to this list that may still be routed in one go.
    #[inline]
    pub(super) fn run_max(&self, list: &MatchList) -> usize {
        let receivers = list.plain.len().max(list.most_behind());
        if receivers > self.whole_max() {
            return 1;
        }
        let left = self.work_max.saturating_sub(self.work);
        (left / (1 + receivers)).clamp(1, RUN_MESSAGES_MAX)
    }

    /// Pushes deliveries; whether they were queued.
    #[inline(always)]
    pub(super) fn push(
        &mut self,
        outbox: &Rc<Outbox>,
        push: impl FnOnce(&Outbox) -> Pushed,
    ) -> bool {
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

/// True if a subscription must not have a message on `subject`, all its rules of delivery but the
/// maximum.
#[inline(always)]
pub(super) fn withholds(
    subscription: &Subscription,
    outbox: &Outbox,
    subject: &[u8],
    no_echo: Option<ConnectionId>,
    turn: &mut Turn,
) -> bool {
    if subscription.is_removed() || no_echo.is_some_and(|connection| connection == outbox.id) {
        return true;
    }
    let denies = subscription.denies(subject);
    if denies {
        turn.spend(DENIAL_WORK);
    }
    denies
}

/// The source of a message; its share is whole if its publisher is to be told when nobody gets it.
#[inline]
fn asking(source: Source, tells_nobody: bool, delivered: bool) -> Source {
    Source { share: if tells_nobody && !delivered { Source::WHOLE } else { 0 }, ..source }
}

/// True if a message to a list is routed in one piece.
#[inline]
pub(super) fn takes_whole(list: &MatchList, message: &Message<'_>, turn: &Turn) -> bool {
    list.size() * delivery_work(message) <= turn.whole_max()
}

/// Tells the publisher of a message that nobody listens, if one of these subscriptions is its own.
#[cold]
fn tell_publisher(passage: &Passage<'_>, subscriptions: &[Rc<Subscription>]) -> bool {
    let mut plain = subscriptions.iter().filter(|subscription| !subscription.is_removed());
    let own = plain.find(|subscription| {
        subscription.client().is_some() && subscription.client() == passage.source.publisher
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

/// Links a message goes to, with the places in its list of the queue groups picked there.
pub(super) type Picks = [(LinkId, u32)];

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
    /// Routes a client's message, which is told if nobody listens and it asked for that.
    #[inline]
    pub fn publish(
        &mut self,
        publisher: &Publisher,
        message: &Message<'_>,
        cache: &mut RouteCache,
        turn: &mut Turn,
    ) -> Routed {
        let account = &mut self.accounts[publisher.account.index()];
        match cache.renew(publisher.account, account, message.subject, turn) {
            Ok(()) => self.route(publisher, message, cache, turn),
            Err(builder) => self.go_on_matching(publisher, message, builder, turn),
        }
    }

    /// As `publish` for a message on the same subject as the last one of this publisher.
    #[inline]
    pub fn publish_again(
        &mut self,
        publisher: &Publisher,
        message: &Message<'_>,
        cache: &mut RouteCache,
        turn: &mut Turn,
    ) -> Routed {
        debug_assert!(cache.subject == message.subject);
        match cache.renew_same(&mut self.accounts[publisher.account.index()], turn) {
            Ok(()) => self.route(publisher, message, cache, turn),
            Err(builder) => self.go_on_matching(publisher, message, builder, turn),
        }
    }

    #[cold]
    fn go_on_matching(
        &mut self,
        publisher: &Publisher,
        message: &Message<'_>,
        builder: Box<ListBuilder>,
        turn: &mut Turn,
    ) -> Routed {
        let passage = self.passage(publisher, message, turn);
        turn.unfinished = Some(FanOut::new(&passage, Stage::Matching(Some(builder))));
        Routed::Unfinished
    }

    /// Where links write down that one of them may have no room for a message.
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
        let state = &mut self.accounts[account.index()];
        match state.matched(account, subject, &mut (self.turn_work_max / WHOLE_WORK_SHARE)) {
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

    #[inline]
    fn passage<'a>(
        &self,
        publisher: &Publisher,
        message: &Message<'a>,
        turn: &Turn,
    ) -> Passage<'a> {
        Passage {
            message: *message,
            source: Source::of(publisher, self.no_echo(publisher)),
            connection: turn.publisher,
            via: None,
            tells_nobody: publisher.no_responders && !message.reply.is_empty(),
        }
    }

    #[inline(always)]
    fn route(
        &mut self,
        publisher: &Publisher,
        message: &Message<'_>,
        cache: &RouteCache,
        turn: &mut Turn,
    ) -> Routed {
        let Some(list) = &cache.list else { return Routed::Nobody };
        turn.spend(1);
        if !list.groups.is_empty() || !takes_whole(list, message, turn) {
            let passage = self.passage(publisher, message, turn);
            return self.route_in_parts(&passage, list, turn);
        }
        let no_echo = self.no_echo(publisher);
        let mut delivered =
            !list.plain.is_empty() && self.deliver_plain(message, cache, list, no_echo, turn);
        if !list.links.is_empty() {
            let tells_nobody = publisher.no_responders && !message.reply.is_empty();
            let source = asking(Source::of(publisher, no_echo), tells_nobody, delivered);
            self.forward_plain(source, message, list);
            delivered = true;
        }
        self.remove_expired(turn);
        if !delivered && publisher.no_responders && !message.reply.is_empty() {
            let passage = self.passage(publisher, message, turn);
            return self.tell_nobody_listens(&passage, turn);
        }
        Routed::new(delivered)
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
        turn.spend(delivery_work(message));
        self.deliver_by(&list.plain[0], message, no_echo, turn, |outbox| {
            outbox.push_behind(&cache.head, message)
        })
    }

    /// Routes a message to a list as far as this turn may, and the rest in the next.
    pub(super) fn route_in_parts(
        &mut self,
        passage: &Passage<'_>,
        list: &Rc<MatchList>,
        turn: &mut Turn,
    ) -> Routed {
        let mut progress = Progress::default();
        if self.deliver_some(passage, list, &mut progress, turn) {
            return self.end_of_passage(passage, progress.delivered, turn);
        }
        let stage = Stage::Delivering(list.clone(), Box::new(progress));
        turn.unfinished = Some(FanOut::new(passage, stage));
        Routed::Unfinished
    }

    /// Goes on with what a turn left.
    pub fn resume(&mut self, mut fan_out: Box<FanOut>, turn: &mut Turn) -> Routed {
        loop {
            match std::mem::replace(&mut fan_out.stage, Stage::Matching(None)) {
                Stage::Matching(builder) => match self.match_more(&fan_out, builder, false, turn) {
                    Ok(list) => fan_out.stage = Stage::Delivering(list, Box::default()),
                    Err(builder) => {
                        fan_out.stage = Stage::Matching(Some(builder));
                        break;
                    }
                },
                Stage::Delivering(list, mut progress) => {
                    let is_done = fan_out.with_passage(|passage| {
                        self.deliver_some(passage, &list, &mut progress, turn)
                    });
                    if is_done {
                        let delivered = progress.delivered;
                        return fan_out
                            .with_passage(|passage| self.end_of_passage(passage, delivered, turn));
                    }
                    fan_out.stage = Stage::Delivering(list, progress);
                    break;
                }
                Stage::MatchingReply(builder) => {
                    match self.match_more(&fan_out, builder, true, turn) {
                        Ok(list) => fan_out.stage = Stage::FindingPublisher(list, 0),
                        Err(builder) => {
                            fan_out.stage = Stage::MatchingReply(Some(builder));
                            break;
                        }
                    }
                }
                Stage::FindingPublisher(list, looked_at) => {
                    let end = list.plain.len().min(looked_at + turn.room());
                    turn.spend(end - looked_at);
                    let part = &list.plain[looked_at..end];
                    let is_told = fan_out.with_passage(|passage| tell_publisher(passage, part));
                    if is_told || end == list.plain.len() {
                        return Routed::Nobody;
                    }
                    fan_out.stage = Stage::FindingPublisher(list, end);
                    break;
                }
            }
            if turn.is_over() {
                break;
            }
        }
        turn.unfinished = Some(fan_out);
        Routed::Unfinished
    }

    /// The list of a message's subject, or of its reply; Err = there is more to look through.
    fn match_more(
        &mut self,
        fan_out: &FanOut,
        builder: Option<Box<ListBuilder>>,
        of_reply: bool,
        turn: &mut Turn,
    ) -> Result<Rc<MatchList>, Box<ListBuilder>> {
        let room = turn.room();
        let mut budget = room;
        let found = match builder {
            Some(builder) => {
                let account = &mut self.accounts[builder.account().index()];
                builder.go_on(account, &mut budget)
            }
            None => fan_out.with_passage(|passage| {
                let id = passage.source.account;
                let message = &passage.message;
                let subject = if of_reply { message.reply } else { message.subject };
                self.accounts[id.index()].matched(id, subject, &mut budget)
            }),
        };
        turn.spend(room - budget);
        found
    }

    /// A message has been to everybody.
    fn end_of_passage(
        &mut self,
        passage: &Passage<'_>,
        delivered: bool,
        turn: &mut Turn,
    ) -> Routed {
        if !delivered && passage.tells_nobody {
            return self.tell_nobody_listens(passage, turn);
        }
        Routed::new(delivered)
    }

    /// Tells a requester that nobody listens, on its own plain subscription for the reply.
    #[cold]
    pub(super) fn tell_nobody_listens(&mut self, passage: &Passage<'_>, turn: &mut Turn) -> Routed {
        let id = passage.source.account;
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
        turn.unfinished = Some(FanOut::new(passage, stage));
        Routed::Unfinished
    }

    /// Delivers and forwards until all of the list had its turn, or this turn is over; true = all
    /// had it. Always gets on.
    fn deliver_some(
        &mut self,
        passage: &Passage<'_>,
        list: &MatchList,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        let (message, no_echo) = (&passage.message, passage.source.no_echo);
        let wants_plain = passage.via.is_none_or(|via| via.plain);
        let each = delivery_work(message);
        let plain_count = if wants_plain { list.plain.len() } else { 0 };
        while progress.plain < plain_count {
            let part = (turn.room() / each).clamp(1, FAN_OUT_PART);
            let end = plain_count.min(progress.plain + part);
            progress.delivered |=
                self.fan_out(&list.plain[progress.plain..end], message, no_echo, turn);
            progress.plain = end;
            if turn.is_over() && end < plain_count {
                self.remove_expired(turn);
                return false;
            }
        }
        let is_done = match passage.via {
            None => self.serve_groups(passage, list, progress, turn),
            Some(via) => self.serve_named_groups(passage, &via, list, progress, turn),
        };
        self.remove_expired(turn);
        is_done
    }

    /// Picks a member of each queue group and sends a copy over each link that wants one.
    fn serve_groups(
        &mut self,
        passage: &Passage<'_>,
        list: &MatchList,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        while let Some(group) = list.groups.get(progress.group) {
            if progress.picked_bytes >= PICKED_NAMES_BYTES_MAX
                && !self.forward_picked(passage, list, progress, turn)
            {
                return false;
            }
            // At least one group, so that every turn gets on.
            match self.ask_group(group, false, passage, &mut progress.asked, turn) {
                Asked::Served => progress.delivered = true,
                Asked::Picked(link) => {
                    progress.picks.push((link, progress.group as u32));
                    progress.picked_bytes += group.name().len() + size_of::<u32>();
                }
                Asked::Nobody => {}
                Asked::Unfinished => return false,
            }
            progress.group += 1;
            if turn.is_over() && progress.group < list.groups.len() {
                return false;
            }
        }
        self.forward_picked(passage, list, progress, turn)
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
                let Message { subject, reply, body, .. } = passage.message;
                let bytes = subject.len() + reply.len() + body.len();
                turn.congestion = self.congestion_of(list, bytes);
                if turn.congestion.is_some() {
                    return false;
                }
            }
            // Of several copies for one link only the last could tell.
            let is_only = !progress.forwarded && progress.group == list.groups.len();
            let tells_nobody = passage.tells_nobody && is_only;
            let source = asking(passage.source, tells_nobody, progress.delivered);
            self.forward(source, passage, list, links, &progress.picks);
            turn.spend(links.len() + progress.picks.len());
            progress.delivered = true;
        }
        progress.forwarded = true;
        progress.picks.clear();
        progress.picked_bytes = 0;
        true
    }

    /// Delivers to one member here of each group that another shard picked one of. A group whose
    /// members all left meanwhile is looked for once more elsewhere.
    fn serve_named_groups(
        &mut self,
        passage: &Passage<'_>,
        via: &Via<'_>,
        list: &MatchList,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        while let Some(queue) = via.queues.get(progress.group) {
            let group = list.group(queue);
            let asked = group.map_or(Asked::Nobody, |group| {
                self.ask_group(group, true, passage, &mut progress.asked, turn)
            });
            match asked {
                Asked::Served | Asked::Picked(_) => progress.delivered = true,
                Asked::Nobody => progress.unserved.push(progress.group as u32),
                Asked::Unfinished => return false,
            }
            turn.spend(1);
            progress.group += 1;
            if turn.is_over() && progress.group < via.queues.len() {
                return false;
            }
        }
        self.pass_on_unserved(passage, via, list, progress);
        true
    }

    /// Looks for a member elsewhere for each group that has none here, and sends the share of a
    /// request that nobody got back.
    fn pass_on_unserved(
        &mut self,
        passage: &Passage<'_>,
        via: &Via<'_>,
        list: &MatchList,
        progress: &Progress,
    ) {
        // A request that somebody got has its answer.
        let share = if progress.delivered { 0 } else { passage.source.share };
        let mut unheard = share;
        for (index, place) in progress.unserved.iter().enumerate() {
            let queue = via.queues[*place as usize];
            let source = passage.source.part(share, index, progress.unserved.len());
            let passage = Passage { source, ..*passage };
            if self.redirect(&passage, via, list.group(queue), queue) {
                unheard -= source.share;
            }
        }
        if unheard > 0 && !passage.message.reply.is_empty() {
            self.tell_unheard(&via.forward(passage), unheard);
        }
    }

    /// Asks the members of a group one after the other, from a random one on, until one takes the
    /// message.
    fn ask_group(
        &mut self,
        group: &QueueGroup,
        local_only: bool,
        passage: &Passage<'_>,
        progress: &mut Option<(usize, usize)>,
        turn: &mut Turn,
    ) -> Asked {
        let (message, no_echo) = (&passage.message, passage.source.no_echo);
        let (start, mut asked) = match progress.take() {
            Some(before) => before,
            None => (group.pick(&mut self.random, local_only), 0),
        };
        while asked < group.len(local_only) {
            let member = group.member(start, asked, local_only);
            turn.spend(1);
            match member.sink {
                Sink::Client { .. } | Sink::Internal(_) => {
                    if self.deliver(member, message, no_echo, turn) {
                        turn.spend(delivery_work(message) - 1);
                        return Asked::Served;
                    }
                }
                Sink::Link(link) if !member.is_removed() => return Asked::Picked(link),
                Sink::Link(_) => {}
            }
            asked += 1;
            if turn.is_over() && asked < group.len(local_only) {
                *progress = Some((start, asked));
                return Asked::Unfinished;
            }
        }
        Asked::Nobody
    }

    /// Delivers to all plain subscriptions that may have the message. `no_echo` is the connection
    /// that published it and asked not to hear itself.
    #[inline]
    pub(super) fn fan_out(
        &mut self,
        subscriptions: &[Rc<Subscription>],
        message: &Message<'_>,
        no_echo: Option<ConnectionId>,
        turn: &mut Turn,
    ) -> bool {
        let mut delivered = false;
        turn.spend(subscriptions.len() * delivery_work(message));
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
        if withholds(subscription, outbox, message.subject, no_echo, turn)
            || !turn.push(outbox, push)
        {
            return false;
        }
        if outbox.is_observed() {
            outbox.observe(message, subscription.sid());
        }
        let delivered = subscription.delivered.get() + 1;
        subscription.delivered.set(delivered);
        if delivered == subscription.max() {
            self.expire(subscription);
        }
        true
    }

    /// One copy to each link that has plain interest or a picked member.
    fn forward(
        &mut self,
        source: Source,
        passage: &Passage<'_>,
        list: &MatchList,
        links: &[LinkId],
        picks: &Picks,
    ) {
        let message = passage.message;
        let picked_only = picks.iter().map(|pick| pick.0).filter(|link| !links.contains(link));
        let mut targets: SmallVec<[LinkId; 8]> = SmallVec::from_slice(links);
        for link in picked_only {
            if !targets.contains(&link) {
                targets.push(link);
            }
        }
        for (index, &link) in targets.iter().enumerate() {
            let picked = picks.iter().filter(|pick| pick.0 == link);
            let queues: SmallVec<[&[u8]; 4]> =
                picked.map(|pick| list.groups[pick.1 as usize].name()).collect();
            let source = source.part(source.share, index, targets.len());
            let plain = links.contains(&link);
            let forward = Forward { source, message, plain, hops: 0, home: None, queues: &queues };
            self.forward_over(link, &forward);
        }
        let receivers = if links.is_empty() { 0 } else { list.most_behind() };
        self.note_link_work(&targets, (receivers + picks.len()) * delivery_work(&message));
    }

    fn forward_over(&mut self, link: LinkId, forward: &Forward<'_>) {
        self.links[link.index()].sink.forward(forward);
        self.counters.forwarded += 1;
    }

    /// One copy to each link that has plain interest.
    #[inline]
    fn forward_plain(&mut self, source: Source, message: &Message<'_>, list: &MatchList) {
        let links = &list.links;
        for (index, link) in links.iter().enumerate() {
            let source = source.part(source.share, index, links.len());
            if self.links[link.index()].sink.forward_again(&source, message) {
                self.counters.forwarded += 1;
                continue;
            }
            let message = *message;
            self.forward_over(*link, &Forward::plain(source, message));
        }
        self.note_link_work(links, list.most_behind() * delivery_work(message));
    }

    /// Messages went over these links: counts what each takes of the shards there.
    #[inline]
    pub(super) fn note_link_work(&self, links: &[LinkId], work: usize) {
        for link in links {
            self.links[link.index()].sink.note_work(work);
        }
    }

    /// Delivers a message that came over a link: to plain subscriptions here and to one member of
    /// each named group. `same`: its subject and account are those of the message before it that
    /// came with this cache.
    #[inline]
    pub fn publish_forwarded(
        &mut self,
        from: LinkId,
        forward: &Forward<'_>,
        same: bool,
        cache: &mut RouteCache,
        turn: &mut Turn,
    ) -> Routed {
        let id = forward.source.account;
        let Some(account) = self.accounts.get_mut(id.index()) else { return Routed::Nobody };
        let found = match same {
            true => cache.renew_same(account, turn),
            false => cache.renew(id, account, forward.message.subject, turn),
        };
        let passage = || {
            let Forward { source, message, plain, hops, home, queues } = *forward;
            let via = Some(Via { from, plain, hops, home, queues });
            Passage { message, source, connection: None, via, tells_nobody: false }
        };
        if let Err(builder) = found {
            turn.unfinished = Some(FanOut::new(&passage(), Stage::Matching(Some(builder))));
            return Routed::Unfinished;
        }
        let Some(list) = &cache.list else { return Routed::Nobody };
        turn.spend(1);
        if !forward.queues.is_empty() || !takes_whole(list, &forward.message, turn) {
            return self.route_in_parts(&passage(), list, turn);
        }
        let no_echo = forward.source.no_echo;
        let delivered = forward.plain
            && !list.plain.is_empty()
            && self.deliver_plain(&forward.message, cache, list, no_echo, turn);
        let share = forward.source.share;
        if !delivered && share > 0 && !forward.message.reply.is_empty() {
            self.tell_unheard(forward, share);
        }
        self.remove_expired(turn);
        Routed::new(delivered)
    }

    /// Sends a queue message that found no member here to another link that has one; false = there
    /// is none.
    #[cold]
    fn redirect(
        &mut self,
        passage: &Passage<'_>,
        via: &Via<'_>,
        group: Option<&QueueGroup>,
        queue: &[u8],
    ) -> bool {
        let members = group.map_or(&[][..], QueueGroup::links);
        let others = members.iter().filter_map(|member| match member.sink {
            Sink::Link(link) if !member.is_removed() => Some(link),
            _ => None,
        });
        // Where it came from is the last choice: the members there were passed over for a reason.
        let target =
            others.clone().find(|link| *link != via.from).or_else(|| others.clone().next());
        let Some(link) = target.filter(|_| via.hops < QUEUE_HOPS_MAX) else {
            self.counters.queue_members_gone += 1;
            return false;
        };
        let (hops, queues) = (via.hops + 1, [queue]);
        let forward = Forward { plain: false, hops, queues: &queues, ..via.forward(passage) };
        self.forward_over(link, &forward);
        true
    }

    /// A subscription got the last message that it may have.
    #[cold]
    fn expire(&mut self, subscription: &Rc<Subscription>) {
        subscription.mark_removed();
        if let Some(client) = subscription.client() {
            self.clients[client.index()].expired_count += 1;
        }
        self.expired.push(subscription.clone());
    }

    /// Ends a fan-out, or a part of one: subscriptions that reached their maximum leave the tables
    /// as far as this turn may, and as other shards have room to be told. The others leave behind.
    #[inline]
    pub(super) fn remove_expired(&mut self, turn: &mut Turn) {
        if !self.expired.is_empty() {
            let room = turn.room();
            let mut budget = room;
            self.drop_expired(&mut budget);
            turn.spend(room - budget);
        }
    }
}

/// The consumer that a publisher waits for after a turn, if any.
pub fn pace_target(turn: &mut Turn, now: impl FnOnce() -> Instant) -> Option<(Rc<Outbox>, u64)> {
    let outbox = turn.paced.take()?;
    let until = outbox.pace_target(now())?;
    Some((outbox, until))
}
