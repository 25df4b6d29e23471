//! Pull requests that wait for messages, in the order in which they are served: one message for
//! each in turn. Source: nats-server server/consumer.go waitQueue, nextWaiting, processWaiting.
//!
//! Invariants: no more than `waiting_max` requests; with priorities, lower numbers stand first;
//! nothing is to be done for any of them before `next_look_ns`.

use std::collections::VecDeque;

use super::output::Output;
use super::pin::Pin;
use super::request::{PriorityRequest, PullRequest};
use super::rules::{PriorityPolicy, Rules};
use super::status::{self, heartbeat};
use crate::storage::consumer_state::SequencePair;

/// The priority of requests without one.
const LAST: i64 = i64::MAX;

/// A pull request that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub reply: Box<[u8]>,
    /// Messages that it still wants.
    pub left: i64,
    pub delivered: u64,
    /// Bytes that it still takes; 0 = no limit.
    pub bytes_left: i64,
    expires_ns: Option<i64>,
    heartbeat_ns: i64,
    heartbeat_at_ns: i64,
    no_wait: bool,
    priority: Option<Box<PriorityRequest>>,
}

impl Waiter {
    fn priority(&self) -> i64 {
        self.priority.as_ref().map_or(LAST, |priority| priority.priority)
    }

    fn id(&self) -> &[u8] {
        self.priority.as_ref().map_or(&[], |priority| &priority.id)
    }

    fn is_expired(&self, now_ns: i64) -> bool {
        self.expires_ns.is_some_and(|expires_ns| expires_ns <= now_ns)
    }

    fn next_look_ns(&self) -> i64 {
        let heartbeat_ns = if self.heartbeat_ns > 0 { self.heartbeat_at_ns } else { i64::MAX };
        self.expires_ns.unwrap_or(i64::MAX).min(heartbeat_ns)
    }

    fn ended(&self, status: status::Status) -> Output {
        status.with_rest(&self.reply, self.left, self.bytes_left)
    }
}

/// The numbers that decide which request is served next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Supply {
    pub now_ns: i64,
    /// The size of the message to be delivered.
    pub size: usize,
    /// Messages that wait, this one included, and those that wait for acknowledgements.
    pub pending: u64,
    pub pending_acks: usize,
}

/// The pull requests of a consumer.
#[derive(Debug)]
pub(crate) struct Waiting {
    queue: VecDeque<Waiter>,
    no_wait_count: usize,
    next_look_ns: i64,
    /// The last time at which a client showed itself.
    activity_ns: i64,
}

impl Waiting {
    pub(crate) fn new(now_ns: i64) -> Self {
        Self {
            queue: VecDeque::new(),
            no_wait_count: 0,
            next_look_ns: i64::MAX,
            activity_ns: now_ns,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The time before which nothing happens to any request.
    pub(crate) fn next_look_ns(&self) -> i64 {
        self.next_look_ns
    }

    pub(crate) fn activity_ns(&self) -> i64 {
        self.activity_ns
    }

    pub(crate) fn note_activity(&mut self, now_ns: i64) {
        self.activity_ns = self.activity_ns.max(now_ns);
    }

    /// Messages that all requests want.
    pub(crate) fn wanted(&self) -> i64 {
        self.queue.iter().fold(0, |sum: i64, waiter| sum.saturating_add(waiter.left))
    }

    pub(crate) fn replies(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.iter().map(|waiter| &*waiter.reply)
    }

    /// Takes a request; false if there is no room.
    pub(crate) fn push(
        &mut self,
        reply: &[u8],
        request: PullRequest,
        rules: &Rules,
        now_ns: i64,
    ) -> bool {
        if self.queue.len() >= rules.waiting_max {
            return false;
        }
        let expires_ns = request.expires_ns;
        let waiter = Waiter {
            reply: reply.into(),
            left: request.batch,
            delivered: 0,
            bytes_left: request.bytes_max,
            expires_ns: (expires_ns != 0).then(|| now_ns.saturating_add(expires_ns)),
            heartbeat_ns: request.heartbeat_ns,
            heartbeat_at_ns: now_ns.saturating_add(request.heartbeat_ns),
            no_wait: request.no_wait,
            priority: match rules.priority {
                PriorityPolicy::None => None,
                _ => request.priority.map(Box::new),
            },
        };
        self.next_look_ns = self.next_look_ns.min(waiter.next_look_ns());
        self.no_wait_count += usize::from(waiter.no_wait);
        self.note_activity(now_ns);
        self.insert(waiter, rules.priority);
        true
    }

    fn insert(&mut self, waiter: Waiter, policy: PriorityPolicy) {
        if policy != PriorityPolicy::Prioritized {
            return self.queue.push_back(waiter);
        }
        let priority = waiter.priority();
        let place = self.queue.partition_point(|other| other.priority() <= priority);
        self.queue.insert(place, waiter);
    }

    fn pop(&mut self) -> Option<Waiter> {
        let waiter = self.queue.pop_front()?;
        self.no_wait_count -= usize::from(waiter.no_wait);
        Some(waiter)
    }

    /// Brings the request to the front that gets the next message. Those that cannot get it, or no
    /// message at all, end with a status. `new_pin` makes the id of a client that gets the pin.
    pub(crate) fn select(
        &mut self,
        supply: &Supply,
        rules: &Rules,
        pin: &mut Option<Pin>,
        new_pin: &mut dyn FnMut() -> Box<str>,
        out: &mut VecDeque<Output>,
    ) -> Option<&Waiter> {
        let mut passed = 0;
        while let Some(waiter) = self.queue.front_mut() {
            if waiter.is_expired(supply.now_ns) {
                out.push_back(waiter.ended(status::REQUEST_TIMEOUT));
                if let Some(expires_ns) = waiter.expires_ns {
                    self.activity_ns = self.activity_ns.max(expires_ns);
                }
                self.pop();
                continue;
            }
            let mut was_pinned_now = false;
            let is_passed = match (&pin, rules.priority) {
                (None, PriorityPolicy::PinnedClient) if waiter.id().is_empty() => {
                    if let Some(priority) = waiter.priority.as_mut() {
                        let id = new_pin();
                        priority.id = id.as_bytes().into();
                        let pinned =
                            Pin::new(&priority.group, id, supply.now_ns, rules.pin_ns, out);
                        *pin = Some(pinned);
                        was_pinned_now = true;
                    }
                    false
                }
                (None, PriorityPolicy::PinnedClient) => {
                    out.push_back(waiter.ended(status::WRONG_PIN));
                    self.pop();
                    continue;
                }
                (Some(pin), _) if waiter.id() == pin.id.as_bytes() => false,
                (Some(_), _) if waiter.id().is_empty() => true,
                (Some(_), _) => {
                    out.push_back(waiter.ended(status::WRONG_PIN));
                    self.pop();
                    continue;
                }
                (None, PriorityPolicy::Overflow) => !overflows(waiter, supply),
                (None, _) => false,
            };
            if is_passed {
                self.queue.rotate_left(1);
                passed += 1;
                if passed >= self.queue.len() {
                    return None;
                }
                continue;
            }
            if waiter.bytes_left > 0 && supply.size as i64 > waiter.bytes_left {
                out.push_back(waiter.ended(status::TOO_LARGE));
                if was_pinned_now {
                    *pin = None;
                }
                self.pop();
                continue;
            }
            break;
        }
        self.queue.front()
    }

    /// Notes that the first request got a message. It ends if that was its last one, with a status
    /// if it asked for bytes and some are left.
    pub(crate) fn served(
        &mut self,
        size: usize,
        now_ns: i64,
        policy: PriorityPolicy,
        out: &mut VecDeque<Output>,
    ) {
        self.note_activity(now_ns);
        let is_alone = self.queue.len() == 1;
        let Some(waiter) = self.queue.front_mut() else { return };
        waiter.delivered += 1;
        if waiter.bytes_left > 0 {
            waiter.bytes_left -= size as i64;
            if waiter.bytes_left <= 0 {
                waiter.left = 1;
            }
        }
        waiter.left -= 1;
        if waiter.left <= 0 {
            if waiter.bytes_left > 0 {
                out.push_back(waiter.ended(status::BATCH_COMPLETED));
            }
            self.pop();
            return;
        }
        if waiter.heartbeat_ns > 0 {
            waiter.heartbeat_at_ns = now_ns.saturating_add(waiter.heartbeat_ns);
        }
        if !is_alone {
            let waiter = self.queue.pop_front().expect("it was the first");
            self.insert(waiter, policy);
        }
    }

    /// Removes the first request: nobody listens at its reply subject.
    pub(crate) fn drop_first(&mut self) {
        self.pop();
    }

    /// Ends the requests that expired, and sends heartbeats to the others. With `at_end`, nothing
    /// more is to be delivered now: requests that do not wait end, too.
    pub(crate) fn look(
        &mut self,
        now_ns: i64,
        at_end: bool,
        delivered: SequencePair,
        out: &mut VecDeque<Output>,
    ) {
        if now_ns < self.next_look_ns && !(at_end && self.no_wait_count > 0) {
            return;
        }
        let mut next_look_ns = i64::MAX;
        let (mut activity_ns, mut no_wait_count) = (self.activity_ns, 0);
        self.queue.retain_mut(|waiter| {
            if waiter.is_expired(now_ns) {
                out.push_back(waiter.ended(status::REQUEST_TIMEOUT));
                activity_ns = activity_ns.max(waiter.expires_ns.unwrap_or_default());
                return false;
            }
            let waits = waiter.expires_ns.is_some() && waiter.delivered == 0;
            if at_end && waiter.no_wait && !waits {
                out.push_back(status::NO_MESSAGES.to(&waiter.reply));
                activity_ns = activity_ns.max(now_ns);
                return false;
            }
            if waiter.heartbeat_ns > 0 && waiter.heartbeat_at_ns <= now_ns {
                let SequencePair { consumer, stream } = delivered;
                out.push_back(heartbeat(&waiter.reply, consumer, stream, b""));
                waiter.heartbeat_at_ns = now_ns.saturating_add(waiter.heartbeat_ns);
            }
            no_wait_count += usize::from(waiter.no_wait);
            next_look_ns = next_look_ns.min(waiter.next_look_ns());
            true
        });
        (self.activity_ns, self.next_look_ns) = (activity_ns, next_look_ns);
        self.no_wait_count = no_wait_count;
    }

    /// Removes the requests at whose reply subjects nobody listens.
    pub(crate) fn sweep(&mut self, mut is_wanted: impl FnMut(&[u8]) -> bool) {
        self.queue.retain(|waiter| is_wanted(&waiter.reply));
        self.no_wait_count = self.queue.iter().filter(|waiter| waiter.no_wait).count();
    }

    /// Ends all requests.
    pub(crate) fn end(&mut self, status: status::Status, out: &mut VecDeque<Output>) {
        out.extend(self.queue.drain(..).map(|waiter| waiter.ended(status)));
        self.no_wait_count = 0;
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self, rules: &Rules) {
        assert!(self.queue.len() <= rules.waiting_max);
        if rules.priority == PriorityPolicy::Prioritized {
            assert!(self.queue.iter().is_sorted_by_key(Waiter::priority));
        }
        let no_wait_count = self.queue.iter().filter(|waiter| waiter.no_wait).count();
        assert_eq!(self.no_wait_count, no_wait_count);
        let first_look = self.queue.iter().map(Waiter::next_look_ns).min();
        assert!(first_look.is_none_or(|first| self.next_look_ns <= first));
    }
}

/// True if a request of an overflow consumer is to be served.
fn overflows(waiter: &Waiter, supply: &Supply) -> bool {
    let Some(priority) = &waiter.priority else { return true };
    let (pending, acks) = (priority.min_pending, priority.min_ack_pending);
    if pending <= 0 && acks <= 0 {
        return true;
    }
    (pending > 0 && pending as u64 <= supply.pending)
        || (acks > 0 && acks as u64 <= supply.pending_acks as u64)
}
