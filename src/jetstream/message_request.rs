//! The body of requests for messages.

use super::json::decode::{Decoded, Object, Reader};
use super::json::timestamp::Timestamp;

/// A request for messages by sequence, time or subject. Source: nats-server JSApiMsgGetRequest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MessageRequest {
    pub sequence: u64,
    pub last_of: String,
    pub next_of: String,
    pub batch: i64,
    pub bytes_max: i64,
    pub start_time: Option<Timestamp>,
    pub last_of_each: Vec<String>,
    pub up_to_sequence: u64,
    pub up_to_time: Option<Timestamp>,
    pub no_headers: bool,
}

impl Object for MessageRequest {
    const GO_NAME: &'static str = "JSApiMsgGetRequest";
    const FIELDS: &'static [&'static str] = &[
        "seq",
        "last_by_subj",
        "next_by_subj",
        "batch",
        "max_bytes",
        "start_time",
        "multi_last",
        "up_to_seq",
        "up_to_time",
        "no_hdr",
    ];

    fn read_field(&mut self, field: &'static str, reader: &mut Reader<'_>) -> Decoded {
        match field {
            "seq" => reader.uint64(&mut self.sequence),
            "last_by_subj" => reader.string(&mut self.last_of),
            "next_by_subj" => reader.string(&mut self.next_of),
            "batch" => reader.int(&mut self.batch),
            "max_bytes" => reader.int(&mut self.bytes_max),
            "start_time" => Timestamp::read_optional(&mut self.start_time, reader),
            "multi_last" => reader.strings(&mut self.last_of_each),
            "up_to_seq" => reader.uint64(&mut self.up_to_sequence),
            "up_to_time" => Timestamp::read_optional(&mut self.up_to_time, reader),
            _ => reader.bool(&mut self.no_headers),
        }
    }
}

impl MessageRequest {
    /// True if it asks in two ways that exclude each other, whatever else it asks.
    pub(super) fn contradicts_itself(&self) -> bool {
        let (by_sequence, by_last) = (self.sequence > 0, !self.last_of.is_empty());
        let by_time = self.start_time.is_some();
        (by_sequence && (by_last || by_time))
            || (by_time && by_last)
            || (by_last && !self.next_of.is_empty())
    }

    /// True if it names nothing to begin with.
    pub(super) fn names_no_message(&self) -> bool {
        self.sequence == 0
            && self.last_of.is_empty()
            && self.next_of.is_empty()
            && self.start_time.is_none()
    }
}
