//! A client's subscribing: through its rights and limits to the broker.

use super::session::ClientSession;
use crate::auth::permissions::SubscribeRight;
use crate::broker::Broker;
use crate::protocol::nats::error::{quoted, text};
use crate::protocol::subject;

impl ClientSession {
    /// Handles SUB. False = it was refused.
    pub(super) fn subscribe(
        &mut self,
        broker: &mut Broker,
        filter: &[u8],
        queue: &[u8],
        sid: &[u8],
    ) -> bool {
        let named_queue = (!queue.is_empty()).then_some(queue);
        let deny = match self.rights.permissions.may_subscribe(filter, named_queue) {
            SubscribeRight::Allowed => None,
            SubscribeRight::AllowedWithDeliveryFilter(deny) => Some(deny),
            SubscribeRight::Denied(_) => {
                self.refuse_subscription(filter, queue, sid);
                return false;
            }
        };
        let tokens_max = self.rights.subject_tokens_max as usize;
        if tokens_max > 0 && subject::token_count(filter) > tokens_max {
            let subject = quoted(filter);
            self.violation(
                &format!("Permissions Violation for Subscription to {subject}, too many tokens"),
                &format!(
                    "Subscription Violation Too Many Tokens - Subject {subject}, SID {}",
                    String::from_utf8_lossy(sid)
                ),
            );
            return false;
        }
        if broker.subscription_count(self.key) >= self.rights.subscriptions_max {
            self.refuse_for_the_limit();
            return false;
        }
        if !subject::is_valid_filter(filter) {
            self.outbox.push_error(text::INVALID_SUBJECT);
            return false;
        }
        broker.subscribe(self.key, filter, queue, sid, deny);
        self.ok();
        true
    }
}
