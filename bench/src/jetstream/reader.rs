//! A client that consumes: it asks for messages or is sent them, checks each, and acknowledges it.

use crate::Failure;
use crate::findings::counts::Counts;
use crate::load::event_loop::Outgoing;
use crate::load::tracker::GroupTracker;
use crate::wire::connection::Connection;
use crate::wire::frames::{read_intended_time, read_stamp};
use crate::wire::message::{Head, header, number, status, status_text};

/// Time for which a pull request waits for messages: longer than any run.
const EXPIRES_NS: u64 = 600_000_000_000;

/// The way in which messages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Pull requests overlap: another one leaves when half of what was asked for has come.
    Overlapping { batch: u64 },
    /// Another request leaves when the whole batch has come.
    InTurn { batch: u64 },
    /// The server sends unasked.
    Push,
}

/// The expectations of a client's messages.
#[derive(Clone, Debug)]
pub enum Check {
    /// All clients of all streams together get each message once.
    Shared(GroupTracker),
    /// This client gets every message of its stream, in order: the next consumer sequence, and the
    /// counts so far.
    Ordered { next: u64, counts: Counts },
}

pub struct Reader {
    pub connection: Connection,
    style: Style,
    /// True if each message is acknowledged.
    acknowledges: bool,
    /// The start of a pull request, up to the size of its body.
    pull_head: String,
    /// Messages asked for that have not come.
    asked: u64,
    check: Check,
    pub outgoing: Outgoing,
    pub consumed: u64,
    pub redelivered: u64,
    /// A status that ends a consumer or refuses a request.
    pub refusal: Option<String>,
}

impl Reader {
    /// Subscribes to `inbox`, in a queue group if there is one. `pull_subject` is where requests
    /// for messages go.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn new(
        mut connection: Connection,
        (inbox, queue): (&str, Option<&str>),
        pull_subject: &str,
        (style, acknowledges): (Style, bool),
        check: Check,
    ) -> Result<Reader, Failure> {
        connection.subscribe(inbox, queue, 1)?;
        connection.fence()?;
        Ok(Reader {
            connection,
            style,
            acknowledges,
            pull_head: format!("PUB {pull_subject} {inbox} "),
            asked: 0,
            check,
            outgoing: Outgoing::default(),
            consumed: 0,
            redelivered: 0,
            refusal: None,
        })
    }

    /// Asks for more messages if it is time to.
    pub fn ask(&mut self) {
        let count = match self.style {
            Style::Overlapping { batch } if self.asked <= batch / 2 => batch - self.asked,
            Style::InTurn { batch } if self.asked == 0 => batch,
            _ => return,
        };
        self.asked += count;
        let body = format!("{{\"expires\":{EXPIRES_NS},\"batch\":{count}}}");
        self.outgoing.push(format!("{}{}\r\n{body}\r\n", self.pull_head, body.len()).as_bytes());
    }

    /// The connection, and the parts that its messages change.
    fn parts(&mut self) -> (&mut Connection, Turn<'_>) {
        let turn = Turn {
            asked: &mut self.asked,
            check: &mut self.check,
            outgoing: &mut self.outgoing,
            redelivered: &mut self.redelivered,
            refusal: &mut self.refusal,
            acknowledges: self.acknowledges,
        };
        (&mut self.connection, turn)
    }

    /// Reads without waiting; calls `delivered` with the time at which each message was due to be
    /// published. Returns the number of messages.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn receive(&mut self, mut delivered: impl FnMut(u64)) -> Result<u32, Failure> {
        let mut count = 0;
        let (connection, mut turn) = self.parts();
        connection.try_pump(|line, payload| {
            if let Some(due_ns) = turn.take(line, payload) {
                count += 1;
                delivered(due_ns);
            }
        })?;
        self.consumed += u64::from(count);
        Ok(count)
    }

    /// Makes sure that the server has read the last acknowledgements. Messages that come meanwhile
    /// count.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn fence(&mut self) -> Result<(), Failure> {
        while !self.outgoing.is_empty() {
            self.outgoing.flush(&mut self.connection)?;
        }
        let mut late = 0;
        let (connection, mut turn) = self.parts();
        connection.fence_with(|line, payload| {
            late += u64::from(turn.take(line, payload).is_some());
        })?;
        self.consumed += late;
        Ok(())
    }

    pub fn into_check(self) -> Check {
        self.check
    }
}

/// Returns the trackers of checks that share messages.
pub fn shared_checks(checks: Vec<Check>) -> Vec<GroupTracker> {
    let shared = |check| match check {
        Check::Shared(tracker) => Some(tracker),
        Check::Ordered { .. } => None,
    };
    checks.into_iter().filter_map(shared).collect()
}

/// The parts of a reader that a message changes.
struct Turn<'a> {
    asked: &'a mut u64,
    check: &'a mut Check,
    outgoing: &'a mut Outgoing,
    redelivered: &'a mut u64,
    refusal: &'a mut Option<String>,
    acknowledges: bool,
}

impl Turn<'_> {
    /// Takes one message or status. Returns the time at which a message was due to be published.
    fn take(&mut self, line: &[u8], payload: &[u8]) -> Option<u64> {
        let head = Head::parse(line)?;
        let (headers, body) = payload.split_at(head.header_size.min(payload.len()));
        if let Some(code) = status(headers) {
            self.take_status(code, head.reply, headers);
            return None;
        }
        *self.asked = self.asked.saturating_sub(1);
        let reply = head.reply.unwrap_or_default();
        let place = Place::parse(reply);
        if place.is_some_and(|place| place.delivered > 1) {
            *self.redelivered += 1;
        }
        match self.check {
            Check::Shared(tracker) => match read_stamp(body) {
                Some((publisher, sequence)) => tracker.record(publisher, sequence),
                None => tracker.record_foreign(),
            },
            Check::Ordered { next, counts } => {
                counts.received += 1;
                match place.map(|place| place.consumer_sequence) {
                    Some(sequence) if sequence == *next => *next += 1,
                    Some(sequence) if sequence < *next => counts.doubled += 1,
                    Some(sequence) => {
                        counts.lost += sequence - *next;
                        *next = sequence + 1;
                    }
                    None => counts.foreign += 1,
                }
            }
        }
        if self.acknowledges {
            self.outgoing.push(b"PUB ");
            self.outgoing.push(reply);
            self.outgoing.push(b" 4\r\n+ACK\r\n");
        }
        Some(read_intended_time(body).unwrap_or(0))
    }

    fn take_status(&mut self, code: u64, reply: Option<&[u8]>, headers: &[u8]) {
        match code {
            // Flow control asks for an empty answer; a heartbeat names the one that is missing.
            100 => {
                if let Some(reply) = reply.or_else(|| header(headers, "Nats-Consumer-Stalled")) {
                    self.outgoing.push(b"PUB ");
                    self.outgoing.push(reply);
                    self.outgoing.push(b" 0\r\n\r\n");
                }
            }
            // The end of a pull request, with what it still had to get.
            404 | 408 => {
                let missing = header(headers, "Nats-Pending-Messages").and_then(number);
                *self.asked = self.asked.saturating_sub(missing.unwrap_or(*self.asked));
            }
            _ => {
                self.refusal.get_or_insert_with(|| status_text(headers));
            }
        }
    }
}

/// The numbers in a delivery's reply subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub delivered: u64,
    pub stream_sequence: u64,
    pub consumer_sequence: u64,
}

impl Place {
    /// Parses `$JS.ACK.stream.consumer.delivered.stream_sequence.consumer_sequence.time.pending`,
    /// or the longer form with domain and account in front of the stream.
    pub fn parse(reply: &[u8]) -> Option<Place> {
        let mut words = [&b""[..]; 12];
        let mut count = 0;
        for word in reply.split(|&byte| byte == b'.') {
            *words.get_mut(count)? = word;
            count += 1;
        }
        let first = match count {
            9 => 4,
            11 | 12 => 6,
            _ => return None,
        };
        Some(Place {
            delivered: number(words[first])?,
            stream_sequence: number(words[first + 1])?,
            consumer_sequence: number(words[first + 2])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frames::stamp;

    fn turn<T>(check: &mut Check, asked: &mut u64, action: impl FnOnce(&mut Turn<'_>) -> T) -> T {
        let (mut outgoing, mut redelivered, mut refusal) = (Outgoing::default(), 0, None);
        let mut turn = Turn {
            asked,
            check,
            outgoing: &mut outgoing,
            redelivered: &mut redelivered,
            refusal: &mut refusal,
            acknowledges: true,
        };
        action(&mut turn)
    }

    #[test]
    fn both_forms_of_a_delivery_are_read() {
        let place = Some(Place { delivered: 1, stream_sequence: 2, consumer_sequence: 3 });
        assert_eq!(Place::parse(b"$JS.ACK.S.C.1.2.3.1700000000.9"), place);
        assert_eq!(Place::parse(b"$JS.ACK._.hash.S.C.1.2.3.1700000000.9"), place);
        assert_eq!(Place::parse(b"$JS.ACK._.hash.S.C.1.2.3.1700000000.9.token"), place);
        assert_eq!(Place::parse(b"$JS.ACK.S.C.1.2"), None);
        assert_eq!(Place::parse(b""), None);
    }

    #[test]
    fn an_ordered_client_counts_gaps_and_repetitions() {
        let mut check = Check::Ordered { next: 1, counts: Counts::default() };
        let mut asked = 10;
        for sequence in [1, 2, 5, 4, 6] {
            let line = format!("MSG a 1 $JS.ACK.S.C.1.{sequence}.{sequence}.7.0 8\r\n");
            let taken =
                |turn: &mut Turn<'_>| turn.take(line.as_bytes(), &stamp(0, 0).to_le_bytes());
            assert!(turn(&mut check, &mut asked, taken).is_some());
        }
        let Check::Ordered { next, counts } = check else { panic!("it stays what it is") };
        assert_eq!((next, asked), (7, 5));
        assert_eq!((counts.received, counts.lost, counts.doubled), (5, 2, 1));
    }

    #[test]
    fn the_end_of_a_request_gives_back_what_it_did_not_bring() {
        let mut check = Check::Shared(GroupTracker::new(1));
        let mut asked = 700;
        let headers = "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 200\r\n\r\n";
        let line = format!("HMSG i 1 {0} {0}\r\n", headers.len());
        let taken =
            turn(&mut check, &mut asked, |turn| turn.take(line.as_bytes(), headers.as_bytes()));
        assert_eq!((taken, asked), (None, 500));
        turn(&mut check, &mut asked, |turn| {
            let headers = "NATS/1.0 409 Consumer Deleted\r\n\r\n";
            let line = format!("HMSG i 1 {0} {0}\r\n", headers.len());
            assert_eq!(turn.take(line.as_bytes(), headers.as_bytes()), None);
            assert_eq!(turn.refusal.as_deref(), Some("409 Consumer Deleted"));
        });
    }
}
