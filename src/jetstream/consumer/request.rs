//! Pull requests: what they ask for, and those that are refused at once. Source: nats-server
//! server/consumer.go processNextMsgRequest.

use super::rules::{PriorityPolicy, Rules};
use crate::config::go_text::{SignedDuration, format_duration};

/// The fields of a pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullRequest {
    pub batch: i64,
    /// 0 = it waits for ever.
    pub expires_ns: i64,
    pub no_wait: bool,
    /// 0 = no limit.
    pub bytes_max: i64,
    /// 0 = none.
    pub heartbeat_ns: i64,
    /// Of every request in JSON.
    pub priority: Option<PriorityRequest>,
}

/// The fields of a pull request that are for priority groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PriorityRequest {
    pub group: Box<[u8]>,
    pub id: Box<[u8]>,
    pub min_pending: i64,
    pub min_ack_pending: i64,
    pub priority: i64,
}

impl PullRequest {
    /// A request for so many messages, without conditions.
    pub(crate) fn of(batch: i64) -> Self {
        Self { batch, expires_ns: 0, no_wait: false, bytes_max: 0, heartbeat_ns: 0, priority: None }
    }

    /// A body that is not JSON: a number, or anything else for one message. `None`: it is JSON.
    pub(crate) fn plain(body: &[u8]) -> Option<Self> {
        let body = body.trim_ascii();
        if body.starts_with(b"{") {
            return None;
        }
        let number = std::str::from_utf8(body).ok().and_then(|text| text.parse().ok());
        Some(Self::of(number.unwrap_or(1)))
    }

    /// The status of a request that a consumer does not take.
    pub(crate) fn refusal(&self, rules: &Rules) -> Option<String> {
        if self.heartbeat_ns > 0 && self.heartbeat_ns.saturating_mul(2) > self.expires_ns {
            return Some("400 Bad Request - heartbeat value too large".into());
        }
        if rules.batch_max > 0 && self.batch > rules.batch_max {
            return Some(format!("409 Exceeded MaxRequestBatch of {}", rules.batch_max));
        }
        if rules.expires_max_ns > 0 && self.expires_ns > rules.expires_max_ns {
            let most = format_duration(SignedDuration(rules.expires_max_ns));
            return Some(format!("409 Exceeded MaxRequestExpires of {most}"));
        }
        if rules.request_bytes_max > 0 && self.bytes_max > rules.request_bytes_max {
            return Some(format!("409 Exceeded MaxRequestMaxBytes of {}", rules.request_bytes_max));
        }
        let of_priority = self.priority.as_ref().and_then(|priority| priority.refusal(rules));
        of_priority.map(|text| format!("400 Bad Request - {text}"))
    }
}

impl PriorityRequest {
    fn refusal(&self, rules: &Rules) -> Option<&'static str> {
        let has_minimum = self.min_pending != 0 || self.min_ack_pending != 0;
        if has_minimum && rules.priority != PriorityPolicy::Overflow {
            return Some("Not a Overflow Priority consumer");
        }
        if !self.id.is_empty() && rules.priority != PriorityPolicy::PinnedClient {
            return Some("Not a Pinned Client Priority consumer");
        }
        if !(0..=9).contains(&self.priority) {
            return Some("Priority must be between 0 and 9");
        }
        if rules.priority == PriorityPolicy::None {
            return None;
        }
        if self.group.is_empty() {
            return Some("Priority Group missing");
        }
        (!rules.groups.contains(&self.group)).then_some("Invalid Priority Group")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_are_not_json_ask_for_a_number_of_messages() {
        let cases: [(&[u8], Option<i64>); 7] = [
            (b"", Some(1)),
            (b"5", Some(5)),
            (b" 5 ", Some(5)),
            (b"-1", Some(-1)),
            (b"junk", Some(1)),
            (b"1.5", Some(1)),
            (b" {}", None),
        ];
        for (body, batch) in cases {
            assert_eq!(PullRequest::plain(body), batch.map(PullRequest::of), "{body:?}");
        }
    }

    #[test]
    fn requests_beyond_a_limit_are_refused_in_order() {
        let second = 1_000_000_000;
        let rules = Rules {
            batch_max: 3,
            expires_max_ns: second,
            request_bytes_max: 500,
            priority: PriorityPolicy::Overflow,
            groups: vec![b"A"[..].into()],
            ..Rules::default()
        };
        let group = |group: &[u8]| PriorityRequest { group: group.into(), ..Default::default() };
        let ask = |priority| PullRequest { priority: Some(priority), ..PullRequest::of(1) };
        let cases = [
            (PullRequest::of(3), None),
            (PullRequest::of(4), Some("409 Exceeded MaxRequestBatch of 3")),
            (
                PullRequest { expires_ns: 2 * second, ..PullRequest::of(1) },
                Some("409 Exceeded MaxRequestExpires of 1s"),
            ),
            (
                PullRequest { bytes_max: 501, ..PullRequest::of(1) },
                Some("409 Exceeded MaxRequestMaxBytes of 500"),
            ),
            (
                PullRequest { heartbeat_ns: 2, expires_ns: 3, ..PullRequest::of(9) },
                Some("400 Bad Request - heartbeat value too large"),
            ),
            (ask(group(b"A")), None),
            (ask(group(b"")), Some("400 Bad Request - Priority Group missing")),
            (ask(group(b"B")), Some("400 Bad Request - Invalid Priority Group")),
            (
                ask(PriorityRequest { id: b"x"[..].into(), ..group(b"A") }),
                Some("400 Bad Request - Not a Pinned Client Priority consumer"),
            ),
            (
                ask(PriorityRequest { priority: 10, ..group(b"A") }),
                Some("400 Bad Request - Priority must be between 0 and 9"),
            ),
        ];
        for (request, refusal) in cases {
            assert_eq!(request.refusal(&rules).as_deref(), refusal, "{request:?}");
        }
        let asks = ask(PriorityRequest { min_pending: 1, ..group(b"A") });
        let refusal = "400 Bad Request - Not a Overflow Priority consumer";
        assert_eq!(asks.refusal(&Rules::default()).as_deref(), Some(refusal));
    }
}
