//! What the server owes its clients, checked against a flat list of subscriptions.
//!
//! Time is the order in which clients write and hear; what the server does in between is unknown
//! here. A subscription is *known* to a message if it was confirmed by PONG to anybody before the
//! message was written, or if the message is a consequence of it: written after it on its
//! connection, or after a message was heard that knew it. Every subscription known to a message
//! must get it.
//!
//! A message comes *after* another if it was written when its publisher had its PONG for the other,
//! or when anybody had heard it. Nobody hears a message before one that it comes after, on however
//! many shards they were published. In runs whose turns are so short that a message goes to its
//! receivers in parts, only PONG counts: somebody may hear it, and react, before others have it.

use std::collections::{HashMap, HashSet};

use midge::testing::protocol::subject;

/// A set of subscriptions, or of messages, by index.
#[derive(Clone, Default)]
pub struct Known(Vec<u64>);

impl Known {
    pub fn add(&mut self, index: usize) {
        if self.0.len() <= index / 64 {
            self.0.resize(index / 64 + 1, 0);
        }
        self.0[index / 64] |= 1 << (index % 64);
    }

    pub fn add_all(&mut self, other: &Known) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own |= other);
    }

    pub fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}

pub struct Subscription {
    pub client: usize,
    pub filter: String,
    pub queue: Option<String>,
    pub max: Option<u64>,
    /// Set once UNSUB was written or the client went away: from then on deliveries are allowed, not
    /// required.
    pub ending: bool,
    /// The time at which the end was confirmed by PONG: messages written later must not be
    /// delivered.
    pub ended_at: Option<u64>,
    heard: Vec<usize>,
    /// Messages heard when PONG confirmed it, and with it the UNSUB that set the maximum.
    heard_when_confirmed: Option<u64>,
}

pub struct Message {
    pub publisher: usize,
    pub subject: String,
    pub known: Known,
    /// The messages that it comes after.
    after: Known,
    pub written_at: u64,
    /// The subscription that waits for the answer.
    pub inbox: Option<usize>,
}

#[derive(Default)]
pub struct Client {
    pub echo: bool,
    /// True if its connection ended, for whatever reason: what was on its way to it is lost.
    pub gone: bool,
    /// True if it ended before the server had read all of its bytes.
    pub cut: bool,
    /// The messages that those it heard come after.
    pub heard_after: Known,
}

#[derive(Default)]
pub struct Laws {
    one_shard: bool,
    /// True if turns are so short that messages go to their receivers in parts.
    in_parts: bool,
    pub clients: Vec<Client>,
    pub subscriptions: Vec<Subscription>,
    pub messages: Vec<Message>,
    confirmed: Known,
    /// Messages heard by anybody, if that counts, or whose publisher got its PONG.
    past: Known,
    /// Messages that a member of a queue group heard too late.
    late_in_queue: Vec<(String, String)>,
    /// (message, queue) pairs that a member heard.
    queue_heard: HashSet<(usize, String)>,
    /// Queues whose members went away: a message may look for another member and lose its place.
    queues_disturbed: HashSet<String>,
    no_responders: HashMap<usize, u32>,
}

impl Laws {
    pub fn new(shard_count: usize, in_parts: bool) -> Self {
        Self { one_shard: shard_count == 1, in_parts, ..Self::default() }
    }

    pub fn subscribed(
        &mut self,
        client: usize,
        filter: &str,
        queue: Option<&str>,
        max: Option<u64>,
    ) -> usize {
        if let (Some(queue), Some(_)) = (queue, max) {
            self.queues_disturbed.insert(queue.into());
        }
        self.subscriptions.push(Subscription {
            client,
            filter: filter.into(),
            queue: queue.map(Into::into),
            max,
            ending: false,
            ended_at: None,
            heard: Vec::new(),
            heard_when_confirmed: None,
        });
        self.subscriptions.len() - 1
    }

    pub fn confirmed(&mut self, subscription: usize) {
        self.confirmed.add(subscription);
        self.subscriptions[subscription].heard_when_confirmed =
            Some(self.heard_count(subscription));
    }

    /// Records that the publisher of a message got its PONG for it.
    pub fn message_confirmed(&mut self, at: usize) {
        self.past.add(at);
    }

    pub fn ending(&mut self, subscription: usize) {
        self.subscriptions[subscription].ending = true;
        if let Some(queue) = &self.subscriptions[subscription].queue {
            self.queues_disturbed.insert(queue.clone());
        }
    }

    pub fn gone(&mut self, client: usize, cut: bool) {
        self.clients[client].gone = true;
        self.clients[client].cut |= cut;
        for index in 0..self.subscriptions.len() {
            if self.subscriptions[index].client == client {
                self.ending(index);
            }
        }
    }

    /// Records that a client wrote a message; `known` is what it knew.
    pub fn written(
        &mut self,
        publisher: usize,
        subject: &str,
        known: &Known,
        inbox: Option<usize>,
        now: u64,
    ) -> usize {
        let mut known = known.clone();
        known.add_all(&self.confirmed);
        let subject = subject.into();
        let after = self.past.clone();
        self.messages.push(Message { publisher, subject, known, after, written_at: now, inbox });
        self.messages.len() - 1
    }

    fn may_have(&self, subscription: &Subscription, message: &Message) -> bool {
        let own = subscription.client == message.publisher;
        (self.clients[message.publisher].echo || !own)
            && subject::matches(subscription.filter.as_bytes(), message.subject.as_bytes())
    }

    /// Records that a client heard a message on one of its subscriptions.
    pub fn heard(&mut self, index: usize, at: usize, subject: &str) -> Result<(), String> {
        let Some(message) = self.messages.get(at) else {
            return Err(format!("message {at} was never written"));
        };
        let subscription = &self.subscriptions[index];
        let what = || {
            format!(
                "message {at} on {} by client {}, subscription {index} ({}, queue {:?}) of client {}",
                message.subject,
                message.publisher,
                subscription.filter,
                subscription.queue,
                subscription.client
            )
        };
        if message.subject != subject || !self.may_have(subscription, message) {
            return Err(format!("heard by the wrong one, as {subject}: {}", what()));
        }
        if subscription.ended_at.is_some() {
            return Err(format!("heard after its end was confirmed: {}", what()));
        }
        if subscription.heard.contains(&at) {
            return Err(format!("heard twice: {}", what()));
        }
        if let Some(queue) = &subscription.queue
            && !self.queue_heard.insert((at, queue.clone()))
        {
            return Err(format!("two members of a queue group heard it: {}", what()));
        }
        let heard_after = &mut self.clients[subscription.client].heard_after;
        if heard_after.has(at) {
            let why = format!("heard behind one that comes after it: {}", what());
            match &subscription.queue {
                // It may have looked for another member meanwhile.
                Some(queue) => self.late_in_queue.push((queue.clone(), why)),
                None => return Err(why),
            }
        }
        heard_after.add_all(&message.after);
        if !self.in_parts {
            self.past.add(at);
        }
        self.subscriptions[index].heard.push(at);
        Ok(())
    }

    /// Records that a client was told that a message it wrote with this reply has no responders.
    /// Only a question of its own is certainly one message: others' questions it may have passed on
    /// several times.
    pub fn heard_no_responders(&mut self, client: usize, reply: &str) -> Result<(), String> {
        let found = self.messages.iter().position(|message| {
            message.publisher == client
                && message.inbox.is_some_and(|inbox| self.subscriptions[inbox].filter == reply)
        });
        let Some(message) = found else { return Ok(()) };
        let count = self.no_responders.entry(message).or_default();
        *count += 1;
        if *count > 1 { Err(format!("two 503 for message {message}")) } else { Ok(()) }
    }

    fn heard_count(&self, subscription: usize) -> u64 {
        self.subscriptions[subscription].heard.len() as u64
    }

    pub fn deliveries(&self) -> usize {
        self.subscriptions.iter().map(|subscription| subscription.heard.len()).sum()
    }

    /// Checks that everything required was delivered; to be called when the server is at rest.
    pub fn settle(&self) -> Result<(), String> {
        let mut late = self.late_in_queue.iter();
        if let Some((_, why)) = late.find(|(queue, _)| !self.queues_disturbed.contains(queue)) {
            return Err(why.clone());
        }
        for (index, subscription) in self.subscriptions.iter().enumerate() {
            self.settle_order(index)?;
            if subscription.queue.is_none() {
                self.settle_plain(index)?;
            }
        }
        for at in 0..self.messages.len() {
            self.settle_queues(at)?;
            self.settle_request(at)?;
        }
        Ok(())
    }

    /// Returns true if the publisher's bytes were certainly all handled.
    fn is_handled(&self, message: &Message) -> bool {
        !self.clients[message.publisher].cut
    }

    /// Checks that each publisher's messages came in its order.
    fn settle_order(&self, index: usize) -> Result<(), String> {
        let subscription = &self.subscriptions[index];
        if subscription.queue.as_ref().is_some_and(|queue| self.queues_disturbed.contains(queue)) {
            return Ok(());
        }
        let mut last: HashMap<usize, usize> = HashMap::new();
        for at in &subscription.heard {
            let publisher = self.messages[*at].publisher;
            if let Some(before) = last.insert(publisher, *at)
                && before > *at
            {
                return Err(format!("subscription {index} heard {at} after {before}"));
            }
        }
        Ok(())
    }

    fn settle_plain(&self, index: usize) -> Result<(), String> {
        let subscription = &self.subscriptions[index];
        let heard: HashSet<usize> = subscription.heard.iter().copied().collect();
        let count = heard.len() as u64;
        let full = subscription.max.is_some_and(|max| count >= max);
        // An UNSUB that comes after more deliveries than its maximum ends the subscription at once.
        let before = subscription.heard_when_confirmed;
        if let (Some(max), Some(before)) = (subscription.max, before)
            && count > max.max(before)
        {
            return Err(format!("subscription {index} heard {count}, more than its maximum"));
        }
        // Per publisher and subject: once the first message came, no later one may be missing. With
        // many shards only if nobody else's interest, withdrawn since, can have brought the first.
        let mut begun: HashSet<(usize, &str)> = HashSet::new();
        let mut missing: HashMap<usize, usize> = HashMap::new();
        for (at, message) in self.messages.iter().enumerate() {
            if !self.may_have(subscription, message) {
                continue;
            }
            let publisher = message.publisher;
            if heard.contains(&at) {
                if let Some(gap) = missing.get(&publisher) {
                    return Err(format!("subscription {index} heard {at} but not {gap} before it"));
                }
                if self.one_shard || self.is_undisturbed(&message.subject) {
                    begun.insert((publisher, &message.subject));
                }
                continue;
            }
            let owed =
                message.known.has(index) || begun.contains(&(publisher, message.subject.as_str()));
            if owed {
                missing.entry(publisher).or_insert(at);
                let excused = subscription.ending || full || !self.is_handled(message);
                if !excused {
                    return Err(format!(
                        "lost: message {at} on {} by client {publisher} for subscription {index} ({}, \
                         maximum {:?}, known {}, heard {}) of client {}",
                        message.subject,
                        subscription.filter,
                        subscription.max,
                        message.known.has(index),
                        heard.len(),
                        subscription.client
                    ));
                }
            }
        }
        Ok(())
    }

    /// Returns true if nobody who wanted this subject stopped wanting it.
    fn is_undisturbed(&self, subject: &str) -> bool {
        self.subscriptions.iter().all(|other| {
            !(other.ending || other.max.is_some())
                || !subject::matches(other.filter.as_bytes(), subject.as_bytes())
        })
    }

    fn settle_queues(&self, at: usize) -> Result<(), String> {
        let message = &self.messages[at];
        if !self.is_handled(message) {
            return Ok(());
        }
        let members = || {
            let all = self.subscriptions.iter().enumerate();
            all.filter(|(_, member)| member.queue.is_some() && self.may_have(member, message))
        };
        for (index, member) in members() {
            let queue = member.queue.as_deref().unwrap_or_default();
            let steady = message.known.has(index) && !member.ending && member.max.is_none();
            if !steady || self.queue_heard.contains(&(at, queue.into())) {
                continue;
            }
            // A member whose connection ended may have taken the message with it.
            let taken = members().any(|(_, other)| {
                other.queue.as_deref() == Some(queue) && self.clients[other.client].gone
            });
            if !taken {
                return Err(format!(
                    "lost: message {at} on {} by client {} for queue {queue}, member {index}",
                    message.subject, message.publisher
                ));
            }
        }
        Ok(())
    }

    fn settle_request(&self, at: usize) -> Result<(), String> {
        let message = &self.messages[at];
        if message.inbox.is_none() || !self.is_handled(message) {
            return Ok(());
        }
        let told = self.no_responders.contains_key(&at);
        let candidates = || {
            let all = self.subscriptions.iter().enumerate();
            all.filter(|(_, subscription)| {
                self.may_have(subscription, message)
                    && subscription.ended_at.is_none_or(|end| end > message.written_at)
            })
        };
        let steady = |(index, subscription): (usize, &Subscription)| {
            message.known.has(index) && !subscription.ending && subscription.max.is_none()
        };
        if told && self.subscriptions.iter().any(|s| s.heard.contains(&at)) {
            return Err(format!("503 for request {at}, which somebody heard"));
        }
        if told && candidates().any(steady) {
            return Err(format!(
                "503 for request {at} on {}, which has responders",
                message.subject
            ));
        }
        let may_be_told = !self.clients[message.publisher].gone;
        // A client that has left may have taken it along.
        let was_heard = self.subscriptions.iter().any(|s| s.heard.contains(&at))
            || candidates().any(|(_, subscription)| self.clients[subscription.client].gone);
        if !told && may_be_told && !was_heard {
            return Err(format!(
                "request {at} on {} was neither heard nor refused",
                message.subject
            ));
        }
        if !told && may_be_told && candidates().next().is_none() {
            return Err(format!("no 503 for request {at} on {}", message.subject));
        }
        Ok(())
    }
}
