//! Permissions of one user, compiled: the subjects it may publish and subscribe to, and the denied
//! messages that must be kept from its wider subscriptions.
//!
//! Source of the behaviour: nats-server server/client.go (setPermissions, canSubscribe,
//! checkDenySub, pubAllowedFullCheck, processInboundClientMsg). Two deliberate differences: a
//! subscription must be a subset of an allow entry, so `allow: "foo.*"` refuses `SUB foo.>`, which
//! nats-server 2.15.3 accepts and then delivers `foo.a.b` to; and `deny: "foo.*"` with `SUB foo.>`
//! filters at delivery, where nats-server refuses the whole subscription.
//!
//! Immutable and shared by all shards. Replies, whose tracking changes with every message, are in a
//! table of the session's own (`replies::ReplyTable`).

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::replies::ReplyTable;
use super::response_rule::ResponseRule;
use super::subject_set::SubjectSet;
use crate::config::auth_options::{PermissionOptions, SubjectPermissionOptions};
use crate::protocol::subject;

/// Queue group that only the server itself uses.
const SYSTEM_QUEUE_GROUP: &[u8] = b"_sys_";
/// Prefixes of replies that come back over a gateway: the present one, and an older one that stays
/// reserved.
const GATEWAY_REPLY_PREFIXES: [&[u8]; 2] = [b"_GR_.", b"$GR."];
/// Prefix of replies to a service import.
const SERVICE_REPLY_PREFIX: &[u8] = b"_R_.";
/// Prefix of JetStream's own subjects: a response sent there would be a request in the name of the
/// responder.
const JETSTREAM_PREFIX: &[u8] = b"$JS.";
/// Prefix of replication groups' traffic.
const REPLICATION_PREFIX: &[u8] = b"$NRG.";

/// The rule that an operation broke; the wire texts are in `protocol::nats::error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    Publish,
    PublishWithReply,
    Subscription,
    SubscriptionWithQueue,
}

/// The lists' verdict on publishing to a subject. It depends on the subject alone, so a session may
/// keep the verdict for the last subject it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishRight {
    Allowed,
    /// No list allows it, but it may be a tracked reply: ask the `ReplyTable`.
    OnlyAsReply,
    Denied,
}

/// The lists' verdict on a subscription.
#[derive(Clone, Debug)]
pub enum SubscribeRight {
    Allowed,
    /// Allowed, but some of the subjects that the filter matches are denied: ask before each
    /// delivery.
    AllowedWithDeliveryFilter(DeliveryFilter),
    Denied(Violation),
}

/// The user's denied subjects, for a subscription that overlaps some of them. All subscriptions of
/// a user share its one set, however many denied subjects and subscriptions there are.
#[derive(Clone, Debug)]
pub struct DeliveryFilter {
    rules: Arc<SubscribeRules>,
    /// The queue of the subscription, if entries for queues concern it.
    queue: Option<Box<[u8]>>,
}

impl DeliveryFilter {
    /// Returns true if a message with this subject, which the subscription matches, must be
    /// withheld.
    pub fn denies(&self, subject: &[u8]) -> bool {
        self.rules.plain.matches(subject)
            || self.queue.as_ref().is_some_and(|queue| {
                let mut queued = self.rules.queued.iter();
                queued.any(|rule| rule.names(queue) && rule.subjects.matches(subject))
            })
    }
}

#[derive(Clone, Debug, Default)]
pub struct Permissions {
    /// None = everything.
    publish_allow: Option<SubjectSet>,
    publish_deny: SubjectSet,
    /// Neither list is present: the common case, decided without a walk.
    publish_open: bool,
    /// None = everything.
    subscribe_allow: Option<SubscribeRules>,
    subscribe_deny: Arc<SubscribeRules>,
    responses: Option<ResponseRule>,
    /// True if the user is in the system account.
    system_account: bool,
    /// The options from which this was compiled, for users who ask what they may do.
    options: Option<Arc<PermissionOptions>>,
}

#[derive(Clone, Debug, Default)]
struct SubscribeRules {
    plain: SubjectSet,
    queued: Vec<QueueRule>,
}

/// The entries `"subject queue"` with the same queue.
#[derive(Clone, Debug)]
struct QueueRule {
    queue: Box<[u8]>,
    subjects: SubjectSet,
}

impl Permissions {
    /// Returns permissions without any lists.
    pub fn unrestricted(system_account: bool) -> Self {
        Self { publish_open: true, system_account, ..Self::default() }
    }

    /// Compiles the options of one user.
    ///
    /// # Errors
    /// If an entry is not a subject, or not a subject and a queue.
    pub fn compile(
        options: &PermissionOptions,
        system_account: bool,
    ) -> Result<Self, PermissionsError> {
        let (publish_allow, publish_deny) = lists(options.publish.as_ref());
        let (subscribe_allow, subscribe_deny) = lists(options.subscribe.as_ref());
        let responses = options.allow_responses.as_ref().map(ResponseRule::from);
        // An empty allow list counts as absent, unless `allow_responses` is set: then only
        // responses are allowed.
        let publish_allow = match !publish_allow.is_empty() || responses.is_some() {
            true => Some(publish_set(publish_allow)?),
            false => None,
        };
        let subscribe_allow = match subscribe_allow.is_empty() {
            true => None,
            false => Some(SubscribeRules::compile(subscribe_allow)?),
        };
        let publish_deny = publish_set(publish_deny)?;
        Ok(Self {
            publish_open: publish_allow.is_none() && publish_deny.is_empty(),
            publish_allow,
            publish_deny,
            subscribe_allow,
            subscribe_deny: Arc::new(SubscribeRules::compile(subscribe_deny)?),
            responses,
            system_account,
            options: Some(Arc::new(options.clone())),
        })
    }

    /// Returns the configured permissions; None = none.
    pub fn options(&self) -> Option<&Arc<PermissionOptions>> {
        self.options.as_ref()
    }

    /// Returns true if there is no publish list: only the reserved prefixes are refused.
    #[inline]
    pub fn is_publish_open(&self) -> bool {
        self.publish_open
    }

    /// Returns the rule for responses; None = reply subjects need not be tracked.
    pub fn responses(&self) -> Option<ResponseRule> {
        self.responses
    }

    /// Decides whether `subject`, after account mapping, may be published to.
    #[inline]
    pub fn may_publish(&self, subject: &[u8]) -> PublishRight {
        if matches!(subject.first(), Some(b'_' | b'$')) && self.is_reserved_subject(subject) {
            return PublishRight::Denied;
        }
        if self.publish_open {
            return PublishRight::Allowed;
        }
        self.may_publish_by_lists(subject)
    }

    fn may_publish_by_lists(&self, subject: &[u8]) -> PublishRight {
        let allowed = self.publish_allow.as_ref().is_none_or(|allow| allow.matches(subject))
            && !self.publish_deny.matches(subject);
        match (allowed, self.responses) {
            (true, _) => PublishRight::Allowed,
            (false, Some(_)) => PublishRight::OnlyAsReply,
            (false, None) => PublishRight::Denied,
        }
    }

    fn is_reserved_subject(&self, subject: &[u8]) -> bool {
        is_gateway_reply(subject)
            || (!self.system_account && subject.starts_with(REPLICATION_PREFIX))
    }

    /// Makes the whole check of one PUB: lists, tracked replies, reserved prefixes. `subject` is
    /// the subject after account mapping; `reply` is empty if there is none. A tracked reply used
    /// up here stays used up.
    ///
    /// # Errors
    /// The violation to report to the client; the message is dropped and the connection stays open.
    #[inline]
    pub fn check_publish(
        &self,
        subject: &[u8],
        reply: &[u8],
        replies: &mut ReplyTable,
        now: Instant,
    ) -> Result<(), Violation> {
        let allowed = match self.may_publish(subject) {
            PublishRight::Allowed => true,
            PublishRight::Denied => false,
            PublishRight::OnlyAsReply => match self.responses {
                Some(rule) => replies.use_up(subject, rule, now),
                None => false,
            },
        };
        if !allowed {
            return Err(Violation::Publish);
        }
        if is_reserved_reply(reply) {
            return Err(Violation::PublishWithReply);
        }
        Ok(())
    }

    /// To be called for each message with a reply subject that is delivered to this user: tracks
    /// the reply subject if responses are allowed and no list allows it anyway.
    pub fn note_delivery(&self, reply: &[u8], replies: &mut ReplyTable, now: Instant) {
        let Some(rule) = self.responses else { return };
        if !reply.is_empty() && self.may_publish(reply) == PublishRight::OnlyAsReply {
            replies.remember(reply, rule, now);
        }
    }

    /// Decides whether `filter` may be subscribed to, in `queue` if given. Whether the filter is
    /// valid is checked later: an invalid one that no list refuses is an `Invalid Subject`.
    pub fn may_subscribe(&self, filter: &[u8], queue: Option<&[u8]>) -> SubscribeRight {
        let allowed = queue != Some(SYSTEM_QUEUE_GROUP)
            && self.subscribe_allow.as_ref().is_none_or(|rules| rules.allow(filter, queue))
            && !self.subscribe_deny.deny(filter, queue);
        if !allowed {
            return SubscribeRight::Denied(match queue {
                Some(_) => Violation::SubscriptionWithQueue,
                None => Violation::Subscription,
            });
        }
        match SubscribeRules::delivery_filter(&self.subscribe_deny, filter, queue) {
            Some(filter) => SubscribeRight::AllowedWithDeliveryFilter(filter),
            None => SubscribeRight::Allowed,
        }
    }
}

impl SubscribeRules {
    fn compile(entries: &[String]) -> Result<Self, PermissionsError> {
        let mut rules = Self::default();
        for entry in entries {
            match split_queue(entry)? {
                (pattern, None) => rules.plain.insert(pattern),
                (pattern, Some(queue)) => rules.queued_for(queue).insert(pattern),
            }
        }
        Ok(rules)
    }

    /// Returns the subjects of the entries for this queue, none at first.
    fn queued_for(&mut self, queue: &[u8]) -> &mut SubjectSet {
        let index = match self.queued.iter().position(|rule| rule.queue.as_ref() == queue) {
            Some(index) => index,
            None => {
                self.queued
                    .push(QueueRule { queue: queue.into(), subjects: SubjectSet::default() });
                self.queued.len() - 1
            }
        };
        &mut self.queued[index].subjects
    }

    /// Evaluates an allow list: a queue subscription whose subject is covered by queue entries
    /// needs one of those to name its queue; any other subscription needs a plain entry.
    fn allow(&self, filter: &[u8], queue: Option<&[u8]>) -> bool {
        if let Some(queue) = queue {
            let mut covering = self.covering(filter).peekable();
            if covering.peek().is_some() {
                return covering.any(|rule| rule.names(queue));
            }
        }
        self.plain.covers(filter)
    }

    /// Evaluates a deny list: a plain entry denies the subject to all, a queue entry to its queue.
    fn deny(&self, filter: &[u8], queue: Option<&[u8]>) -> bool {
        self.plain.covers(filter)
            || queue.is_some_and(|queue| self.covering(filter).any(|rule| rule.names(queue)))
    }

    fn covering<'a>(&'a self, filter: &'a [u8]) -> impl Iterator<Item = &'a QueueRule> {
        self.queued.iter().filter(|rule| rule.subjects.covers(filter))
    }

    /// Returns what must be withheld from a subscription because its filter overlaps denied
    /// subjects.
    fn delivery_filter(
        rules: &Arc<Self>,
        filter: &[u8],
        queue: Option<&[u8]>,
    ) -> Option<DeliveryFilter> {
        // A literal filter is denied as a whole or not at all.
        if !subject::has_wildcard(filter) {
            return None;
        }
        let queue = queue.filter(|queue| {
            let mut queued = rules.queued.iter();
            queued.any(|rule| rule.names(queue) && rule.subjects.may_overlap(filter))
        });
        let concerned = queue.is_some() || rules.plain.may_overlap(filter);
        concerned.then(|| DeliveryFilter { rules: rules.clone(), queue: queue.map(Into::into) })
    }
}

impl QueueRule {
    /// Returns true if the entry's queue pattern matches `queue`. Queue names are opaque, so `v1.*`
    /// matches the name `v1.*` itself, and only then every `v1.x`.
    fn names(&self, queue: &[u8]) -> bool {
        if queue == self.queue.as_ref() {
            return true;
        }
        // An empty token of a queue name is not matched by `*`, but `>` takes whatever follows.
        let mut queue_tokens = subject::tokens(queue);
        for token in subject::tokens(&self.queue) {
            let Some(found) = queue_tokens.next() else { return false };
            match token {
                b">" => return true,
                b"*" if found.is_empty() || found == b">" => return false,
                b"*" => {}
                _ if found == token => {}
                _ => return false,
            }
        }
        queue_tokens.next().is_none()
    }
}

/// Returns true if a client may not use `reply` as a reply subject.
#[inline]
pub(crate) fn is_reserved_reply(reply: &[u8]) -> bool {
    match reply.first() {
        Some(b'_') => reply.starts_with(SERVICE_REPLY_PREFIX) || is_gateway_reply(reply),
        Some(b'$') => starts_and_goes_on(reply, JETSTREAM_PREFIX) || is_gateway_reply(reply),
        _ => false,
    }
}

fn is_gateway_reply(subject: &[u8]) -> bool {
    GATEWAY_REPLY_PREFIXES.iter().any(|prefix| starts_and_goes_on(subject, prefix))
}

fn starts_and_goes_on(subject: &[u8], prefix: &[u8]) -> bool {
    subject.len() > prefix.len() && subject.starts_with(prefix)
}

/// Why a permission entry was refused; the words are nats-server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermissionsError {
    Subject(String),
    Queue(String),
}

impl fmt::Display for PermissionsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(entry) => write!(formatter, "subject {entry:?} is not a valid subject"),
            Self::Queue(entry) => write!(formatter, "queue {entry:?} is not a valid queue"),
        }
    }
}

impl std::error::Error for PermissionsError {}

/// Returns the allow and the deny list; an absent list is empty.
fn lists(options: Option<&SubjectPermissionOptions>) -> (&[String], &[String]) {
    let list = |list: fn(&SubjectPermissionOptions) -> &Option<Vec<String>>| {
        options.and_then(|options| list(options).as_deref()).unwrap_or_default()
    };
    (list(|options| &options.allow), list(|options| &options.deny))
}

fn publish_set(entries: &[String]) -> Result<SubjectSet, PermissionsError> {
    let mut set = SubjectSet::default();
    for entry in entries {
        if !subject::is_valid_filter(entry.as_bytes()) {
            return Err(PermissionsError::Subject(entry.clone()));
        }
        set.insert(entry.as_bytes());
    }
    Ok(set)
}

/// Splits `"subject"` or `"subject queue"`.
fn split_queue(entry: &str) -> Result<(&[u8], Option<&[u8]>), PermissionsError> {
    if subject::is_valid_filter(entry.as_bytes()) {
        return Ok((entry.as_bytes(), None));
    }
    let parts: Vec<&str> = entry.split_whitespace().collect();
    let [pattern, queue] = parts[..] else {
        return Err(PermissionsError::Subject(entry.to_owned()));
    };
    if !subject::is_valid_filter(pattern.as_bytes()) {
        return Err(PermissionsError::Subject(pattern.to_owned()));
    }
    if !subject::is_valid_filter(queue.as_bytes()) {
        return Err(PermissionsError::Queue(queue.to_owned()));
    }
    Ok((pattern.as_bytes(), Some(queue.as_bytes())))
}

#[cfg(test)]
mod tests;
