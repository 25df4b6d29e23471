//! A client that sends requests and awaits one answer to each: a publisher with its
//! acknowledgements, or a client of a bucket.
//!
//! Every request has a reply subject of its own, as client libraries do it, so that an answer says
//! which request it belongs to.

use crate::Failure;
use crate::findings::counts::Counts;
use crate::load::event_loop::Outgoing;
use crate::wire::connection::Connection;
use crate::wire::frames::{STAMP_SIZE, TIMED_STAMP_SIZE, read_stamp, stamp};
use crate::wire::message::{Head, number, status, status_text};
use std::collections::VecDeque;

/// Decimal digits of a request's number at the end of its reply subject.
const ID_DIGITS: usize = 10;
/// Characters shown of a refusal.
const REFUSAL_SHOWN_MAX: usize = 200;
/// The subscription of a client's answers.
const ANSWER_SID: u64 = 1;

/// The answer that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The stream and the sequence under which the message is stored.
    PubAck,
    /// The stored value of the key that was asked for.
    Value,
}

/// A request that is built once; only its number, stamp and time change.
#[derive(Clone, Debug)]
pub struct RequestFrame {
    bytes: Vec<u8>,
    id_offset: usize,
    /// `None`: the request has no payload.
    payload_offset: Option<usize>,
    /// The sequence in the stamp of the value that is asked for.
    expected: u64,
}

impl RequestFrame {
    /// Builds `PUB subject inbox.0000000000 size` and a payload that is empty or begins with a
    /// stamp and a time.
    pub fn new(subject: &str, inbox: &str, payload_size: usize, seed: u64) -> RequestFrame {
        assert!(payload_size == 0 || payload_size >= TIMED_STAMP_SIZE, "no room for a stamp");
        let mut bytes = format!("PUB {subject} {inbox}.").into_bytes();
        let id_offset = bytes.len();
        bytes.extend_from_slice(&[b'0'; ID_DIGITS]);
        bytes.extend_from_slice(format!(" {payload_size}\r\n").as_bytes());
        let payload_offset = (payload_size > 0).then_some(bytes.len());
        let mut random = fastrand::Rng::with_seed(seed);
        bytes.extend((0..payload_size).map(|_| random.alphanumeric() as u8));
        bytes.extend_from_slice(b"\r\n");
        RequestFrame { bytes, id_offset, payload_offset, expected: 0 }
    }

    /// Sets what the value that is asked for has in its stamp.
    pub fn expecting(mut self, sequence: u64) -> RequestFrame {
        self.expected = sequence;
        self
    }

    fn fill(&mut self, publisher: u16, id: u64, due_ns: u64) {
        let mut rest = id;
        for digit in self.bytes[self.id_offset..self.id_offset + ID_DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        if let Some(offset) = self.payload_offset {
            let word = stamp(publisher, id);
            self.bytes[offset..offset + STAMP_SIZE].copy_from_slice(&word.to_le_bytes());
            self.bytes[offset + STAMP_SIZE..offset + TIMED_STAMP_SIZE]
                .copy_from_slice(&due_ns.to_le_bytes());
        }
    }
}

/// The requests without an answer: numbers in order, each with the time at which it was due.
#[derive(Debug, Default)]
pub struct Window {
    first: u64,
    /// 0 = answered.
    due_ns: VecDeque<u64>,
    unanswered: usize,
}

impl Window {
    /// Opens the next request and returns its number.
    fn open(&mut self, due_ns: u64) -> u64 {
        let id = self.first + self.due_ns.len() as u64;
        self.due_ns.push_back(due_ns.max(1));
        self.unanswered += 1;
        id
    }

    /// Closes a request and returns when it was due; `None` if it has no open request.
    fn close(&mut self, id: u64) -> Option<u64> {
        let place = usize::try_from(id.checked_sub(self.first)?).ok()?;
        let due_ns = std::mem::take(self.due_ns.get_mut(place)?);
        if due_ns == 0 {
            return None;
        }
        self.unanswered -= 1;
        while self.due_ns.front() == Some(&0) {
            self.due_ns.pop_front();
            self.first += 1;
        }
        Some(due_ns)
    }
}

/// The answers of a client so far.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub refused: u64,
    /// The first refusal, in the server's words.
    pub refusal: Option<String>,
    /// Answers to nothing that was asked, or a second time.
    pub doubled: u64,
    /// Values that are not those of the key.
    pub foreign: u64,
}

pub struct Asker {
    pub connection: Connection,
    pub index: u16,
    frames: Vec<RequestFrame>,
    /// The frame of the first request: clients of one bucket begin at different keys.
    first_frame: usize,
    window: Window,
    window_max: usize,
    /// Requests that it may still send.
    left: u64,
    answer: Answer,
    pub outgoing: Outgoing,
    /// True if the server has not taken what was sent before.
    pub held_back: bool,
    /// Due times of requests in `outgoing` that nothing held back, until the kernel has them.
    pub due_ns: Vec<u64>,
    pub tally: Tally,
}

/// The numbers that make a client what it is.
#[derive(Clone, Copy, Debug)]
pub struct AskerSettings {
    pub index: u16,
    pub first_frame: usize,
    pub window_max: usize,
    pub left: u64,
    pub answer: Answer,
}

impl Asker {
    /// Subscribes to the client's inbox.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn new(
        mut connection: Connection,
        inbox: &str,
        frames: Vec<RequestFrame>,
        settings: AskerSettings,
    ) -> Result<Asker, Failure> {
        assert!(!frames.is_empty(), "a client needs a subject");
        connection.subscribe(&format!("{inbox}.*"), None, ANSWER_SID)?;
        connection.fence()?;
        Ok(Asker {
            connection,
            index: settings.index,
            frames,
            first_frame: settings.first_frame,
            window: Window::default(),
            window_max: settings.window_max,
            left: settings.left,
            answer: settings.answer,
            outgoing: Outgoing::default(),
            held_back: false,
            due_ns: Vec::new(),
            tally: Tally::default(),
        })
    }

    pub fn unanswered(&self) -> usize {
        self.window.unanswered
    }

    pub fn sent(&self) -> u64 {
        self.window.first + self.window.due_ns.len() as u64
    }

    pub fn may_ask(&self) -> bool {
        self.left > 0 && self.window.unanswered < self.window_max
    }

    pub fn has_all_answers(&self) -> bool {
        self.window.unanswered == 0 && self.outgoing.is_empty()
    }

    pub fn has_asked_all(&self) -> bool {
        self.left == 0
    }

    /// Appends the next request to what goes out.
    pub fn ask(&mut self, due_ns: u64) {
        let id = self.window.open(due_ns);
        let place = (self.first_frame as u64 + id) % self.frames.len() as u64;
        let frame = &mut self.frames[place as usize];
        frame.fill(self.index, id, due_ns);
        self.outgoing.push(&frame.bytes);
        self.left -= 1;
    }

    /// Reads without waiting; calls `answered` with the due time of each request that was answered
    /// well. Returns the number of answers.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn receive(&mut self, mut answered: impl FnMut(u64)) -> Result<u32, Failure> {
        let (window, tally) = (&mut self.window, &mut self.tally);
        let (frames, first_frame, kind) = (&self.frames, self.first_frame as u64, self.answer);
        let mut count = 0;
        self.connection.try_pump(|line, payload| {
            count += 1;
            let Some((id, header_size)) = Head::parse(line).and_then(answer_of) else {
                tally.foreign += 1;
                return;
            };
            let Some(due_ns) = window.close(id) else {
                tally.doubled += 1;
                return;
            };
            let (headers, body) = payload.split_at(header_size.min(payload.len()));
            let frame = &frames[((first_frame + id) % frames.len() as u64) as usize];
            match judge(kind, headers, body, frame.expected) {
                Judgement::Good => {
                    tally.answered += 1;
                    answered(due_ns);
                }
                Judgement::Foreign => tally.foreign += 1,
                Judgement::Refused(text) => {
                    tally.refused += 1;
                    tally.refusal.get_or_insert(text);
                }
            }
        })?;
        Ok(count)
    }

    /// Adds its answers to the counts of a run.
    pub fn count(&self, counts: &mut Counts) {
        counts.received += self.tally.answered;
        counts.lost += self.window.unanswered as u64;
        counts.doubled += self.tally.doubled;
        counts.foreign += self.tally.foreign;
    }
}

/// Returns the number of the request that a message answers, and the size of its headers.
fn answer_of(head: Head<'_>) -> Option<(u64, usize)> {
    let digits = head.subject.len().checked_sub(ID_DIGITS)?;
    Some((number(&head.subject[digits..])?, head.header_size))
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Good,
    Foreign,
    Refused(String),
}

/// Judges one answer; `expected` is the sequence in the stamp of the value that was asked for.
fn judge(kind: Answer, headers: &[u8], body: &[u8], expected: u64) -> Judgement {
    if status(headers).is_some() {
        return Judgement::Refused(status_text(headers));
    }
    match kind {
        Answer::PubAck => {
            // Errors come first in an answer, so the beginning tells them.
            let stored = memchr::memmem::find(body, b"\"seq\":").is_some();
            match stored && !body.starts_with(b"{\"error\":") {
                true => Judgement::Good,
                false => {
                    let shown = &body[..body.len().min(REFUSAL_SHOWN_MAX)];
                    Judgement::Refused(String::from_utf8_lossy(shown).into_owned())
                }
            }
        }
        Answer::Value if headers.is_empty() => Judgement::Foreign,
        Answer::Value => match read_stamp(body) {
            Some((0, sequence)) if sequence == expected => Judgement::Good,
            _ => Judgement::Foreign,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_closes_each_request_once_in_any_order() {
        let mut window = Window::default();
        assert_eq!([window.open(10), window.open(20), window.open(30)], [0, 1, 2]);
        assert_eq!(window.close(1), Some(20));
        assert_eq!(window.close(1), None, "a second answer");
        assert_eq!((window.unanswered, window.first), (2, 0));
        assert_eq!(window.close(0), Some(10));
        assert_eq!((window.unanswered, window.first), (1, 2));
        assert_eq!(window.close(0), None, "of long ago");
        assert_eq!(window.close(3), None, "never asked");
        assert_eq!(window.open(40), 3);
        assert_eq!((window.close(3), window.close(2)), (Some(40), Some(30)));
        assert_eq!((window.unanswered, window.first), (0, 4));
    }

    #[test]
    fn a_frame_carries_the_number_in_its_reply_and_in_its_stamp() {
        let mut frame = RequestFrame::new("a.b", "_INBOX.x", 20, 1);
        frame.fill(3, 42, 7);
        let text = b"PUB a.b _INBOX.x.0000000042 20\r\n";
        assert!(frame.bytes.starts_with(text));
        assert_eq!(read_stamp(&frame.bytes[text.len()..]), Some((3, 42)));
        assert_eq!(frame.bytes.len(), text.len() + 22);
        let mut empty = RequestFrame::new("a", "i", 0, 1);
        empty.fill(0, 9_999_999_999, 0);
        assert_eq!(empty.bytes, b"PUB a i.9999999999 0\r\n\r\n");
        let head = Head::parse(b"MSG _INBOX.x.0000000042 1 20\r\n").unwrap();
        assert_eq!(answer_of(head), Some((42, 0)));
    }

    #[test]
    fn only_what_was_stored_or_asked_for_is_good() {
        let ack = |body: &str| judge(Answer::PubAck, b"", body.as_bytes(), 0);
        assert_eq!(ack(r#"{"stream":"S", "seq":7}"#), Judgement::Good);
        let refused = r#"{"error":{"code":400,"err_code":10054},"stream":"S","seq":0}"#;
        assert_eq!(ack(refused), Judgement::Refused(refused.to_string()));
        assert!(matches!(ack("+OK"), Judgement::Refused(_)));
        let nobody = judge(Answer::PubAck, b"NATS/1.0 503\r\n\r\n", b"", 0);
        assert_eq!(nobody, Judgement::Refused("503".to_string()));
        let headers = b"NATS/1.0\r\nNats-Sequence: 3\r\n\r\n";
        let value =
            |sequence, key| judge(Answer::Value, headers, &stamp(0, sequence).to_le_bytes(), key);
        assert_eq!(value(5, 5), Judgement::Good);
        assert_eq!(value(5, 6), Judgement::Foreign);
        assert_eq!(judge(Answer::Value, headers, b"", 0), Judgement::Foreign);
    }
}
