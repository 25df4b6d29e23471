//! The layout of messages in a batch, of a message lane or of a mailbox: a fixed head, queue names,
//! the subject it is routed by if that is another one, its subject, then the rest.
//!
//! A message that differs from the one before it in its reply and payload only, as most of a
//! publisher do, has a short head and leaves all else out. Native to one process, so there is no
//! version and no check: a frame that does not parse is our bug.

use smallvec::SmallVec;

use crate::base::few_bytes;
use crate::base::ids::{AccountId, ClientKey, ConnectionId, ShardId};
use crate::base::limits::RUN_MESSAGES_MAX;
use crate::broker::link::{Mark, PASSED_ELSEWHERE, Source, Target, Traced, link_to, shard_behind};
use crate::protocol::message::{Message, MessageRun, Tail};
use crate::protocol::nats::encode::{copy_payload, has_few_bytes};

/// account, publisher + 1, flags, subject, reply, headers, body sizes, sizes of the size texts, the
/// connection that is not to hear it in two halves, the share of a request, the publisher's shard,
/// and the size of what it is routed by: thirteen u32.
pub const HEAD_BYTES: usize = 52;
const PLAIN: u32 = 1;
/// The rest is the message's tail; without it, reply, size texts and body.
const IN_ONE_PIECE: u32 = 2;
/// It came from another account.
const PASSED: u32 = 4;
/// It is traced: the number of the trace comes behind the head.
const TRACED: u32 = 8;
/// It is only traced.
const TRACED_ONLY: u32 = 16;

const TRACE_NUMBER_BYTES: usize = size_of::<u32>();
/// Its `Mark` is in these bits, as its place among all.
const MARK_SHIFT: u32 = 5;
const MARKS: [Mark; 5] = [Mark::None, Mark::Late, Mark::Switch, Mark::Cut, Mark::End];

/// Bytes of the head of a message like the one before: size of its tail with `AGAIN`, sizes of
/// reply and size text.
const SHORT_HEAD_BYTES: usize = 8;
/// In the first u32 of a head. Accounts are far fewer.
const AGAIN: u32 = 1 << 31;

/// An upper bound of the bytes a message takes in a batch.
#[inline]
pub fn size(target: &Target<'_>, message: &Message<'_>) -> usize {
    let queues: usize = target.queues.iter().map(|queue| queue.len() + 4).sum();
    let texts = message.header_size_text.len() + message.size_text.len();
    // A tail has a blank and two line ends besides.
    HEAD_BYTES
        + target.trace.map_or(0, |_| TRACE_NUMBER_BYTES)
        + queues
        + target.route.len()
        + message.subject.len()
        + message.reply.len()
        + texts
        + message.body.len()
        + 5
}

/// The last message of a batch, as far as the next may leave it out.
#[derive(Default)]
pub struct Last {
    /// None = the next message is written whole.
    same: Option<Source>,
    /// The place of its subject in the batch.
    subject_start: usize,
    subject_size: usize,
}

impl Last {
    /// The next message begins a batch.
    pub fn forget(&mut self) {
        self.same = None;
    }
}

/// True if the messages of a run for plain subscriptions are like the last of the batch but for
/// their tails.
#[inline]
pub fn is_again(batch: &[u8], source: &Source, run: &MessageRun<'_>, last: &Last) -> bool {
    run.has_tails()
        && last.same.as_ref() == Some(source)
        && batch[last.subject_start..][..last.subject_size] == *run.subject()
}

/// Bytes that `append_again` takes.
#[inline]
pub fn size_again(run: &MessageRun<'_>) -> usize {
    SHORT_HEAD_BYTES * run.len() + run.tail_bytes()
}

/// Bytes that `append_again` takes for one message of a run.
#[inline]
pub fn size_one_again(message: &Message<'_>) -> usize {
    SHORT_HEAD_BYTES + message.tail.len()
}

/// Appends the messages of a run of which `is_again` holds; the batch has room.
#[inline]
pub fn append_again(batch: &mut Vec<u8>, run: &MessageRun<'_>) {
    if run.len() == 1 || !has_few_bytes(run) {
        return run.messages().for_each(|message| append_one_again(batch, &message));
    }
    let pairs = run
        .places()
        .map(|(tail, size_text_size)| (head_again(tail.len(), 0, size_text_size), tail));
    few_bytes::append_pairs(batch, size_again(run), pairs);
}

/// `append_again` for one message of a run.
#[inline]
pub fn append_one_again(batch: &mut Vec<u8>, message: &Message<'_>) {
    let head = head_again(message.tail.len(), message.reply.len(), message.size_text.len());
    batch.extend_from_slice(&head);
    copy_payload(batch, message.tail);
}

#[inline]
fn head_again(tail: usize, reply: usize, size_text: usize) -> [u8; SHORT_HEAD_BYTES] {
    let sizes = reply as u32 | (size_text as u32) << 16;
    (u64::from(tail as u32 | AGAIN) | u64::from(sizes) << 32).to_le_bytes()
}

/// Appends a message of shard `own` with all that belongs to it; the batch has room.
pub fn append(
    batch: &mut Vec<u8>,
    source: &Source,
    target: &Target<'_>,
    message: &Message<'_>,
    own: ShardId,
    last: &mut Last,
) {
    last.same = target.is_plain().then_some(*source);
    let flags = (u32::from(target.plain) * PLAIN)
        | (u32::from(!message.tail.is_empty()) * IN_ONE_PIECE)
        | (u32::from(!target.passed.is_empty()) * PASSED)
        | target.trace.map_or(0, |traced| TRACED | (u32::from(traced.only) * TRACED_ONLY))
        | ((target.mark as u32) << MARK_SHIFT)
        | (u32::from(target.hops) << 8)
        | ((target.queues.len() as u32) << 16);
    // Connections count from 5: 0 is free for none.
    let no_echo = source.no_echo.map_or(0, |connection| connection.0);
    let fields = [
        source.account.0,
        source.publisher.map_or(0, |client| client.0 + 1),
        flags,
        message.subject.len() as u32,
        message.reply.len() as u32,
        message.headers.len() as u32,
        message.body.len() as u32,
        message.header_size_text.len() as u32 | (message.size_text.len() as u32) << 16,
        no_echo as u32,
        (no_echo >> 32) as u32,
        source.share,
        u32::from(target.home.map_or(own, |link| shard_behind(link, own)).0),
        target.route.len() as u32,
    ];
    let mut head = [0u8; HEAD_BYTES];
    for (place, field) in head.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    batch.extend_from_slice(&head);
    if let Some(traced) = target.trace {
        batch.extend_from_slice(&traced.number.to_le_bytes());
    }
    for queue in target.queues {
        batch.extend_from_slice(&(queue.len() as u32).to_le_bytes());
        batch.extend_from_slice(queue);
    }
    batch.extend_from_slice(target.route);
    last.subject_start = batch.len();
    last.subject_size = message.subject.len();
    batch.extend_from_slice(message.subject);
    if message.tail.is_empty() {
        batch.extend_from_slice(message.reply);
        batch.extend_from_slice(message.header_size_text);
        batch.extend_from_slice(message.size_text);
        copy_payload(batch, message.body);
    } else {
        copy_payload(batch, message.tail);
    }
}

/// Messages of a batch, with all that belongs to them.
#[derive(Debug)]
pub struct Part<'a> {
    pub source: &'a Source,
    pub target: &'a Target<'a>,
    pub run: MessageRun<'a>,
}

/// The place where reading a batch goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    at: usize,
    /// The start of the last message with a whole head, for those that leave it out.
    whole_at: usize,
}

impl Cursor {
    pub fn is_at_end(&self, batch: &[u8]) -> bool {
        self.at == batch.len()
    }

    /// Bytes of the batch between an earlier place and this one.
    pub fn bytes_since(&self, before: &Self) -> usize {
        self.at - before.at
    }
}

/// The outcome of delivering a part of a batch.
pub struct Taken {
    /// Messages of it that were taken; at least one.
    pub messages: usize,
    /// The next may come.
    pub goes_on: bool,
}

/// Calls `deliver` for the parts of a batch that came to shard `own`, from `cursor` on, in order,
/// until it is to stop; what it did not take of a run comes again. `tails` is scratch space.
#[inline]
pub fn read_on(
    batch: &[u8],
    own: ShardId,
    cursor: &mut Cursor,
    tails: &mut Vec<Tail>,
    mut deliver: impl FnMut(&Part<'_>) -> Taken,
) {
    // Of the last message with a whole head, for those that leave it out; they have no queues.
    let mut whole: Option<(Source, Target<'_>, &[u8])> = None;
    while cursor.at < batch.len() {
        if field(&batch[cursor.at..], 0) & AGAIN == 0 {
            let mut queues: SmallVec<[&[u8]; 4]> = SmallVec::new();
            let (source, target, message, after) =
                read_whole(&batch[cursor.at..], own, &mut queues);
            *cursor = Cursor { at: batch.len() - after.len(), whole_at: cursor.at };
            let part = Part {
                source: &source,
                target: &Target { queues: &queues, ..target },
                run: MessageRun::one(message),
            };
            let taken = deliver(&part);
            whole = Some((source, target, message.subject));
            if !taken.goes_on {
                return;
            }
            continue;
        }
        let whole_at = cursor.whole_at;
        let (source, target, subject) = whole.get_or_insert_with(|| {
            let (source, target, message, _) =
                read_whole(&batch[whole_at..], own, &mut SmallVec::new());
            (source, target, message.subject)
        });
        tails.clear();
        let mut at = cursor.at;
        while let Some((size, 0, size_text_size)) = short_head(&batch[at..])
            && tails.len() < RUN_MESSAGES_MAX
        {
            tails.push(Tail::new(at + SHORT_HEAD_BYTES, size, size_text_size));
            at += SHORT_HEAD_BYTES + size;
        }
        let taken = if !tails.is_empty() {
            let run = MessageRun::new(subject, batch, tails).repeated();
            let taken = deliver(&Part { source, target, run });
            debug_assert!((1..=tails.len()).contains(&taken.messages));
            let next = tails.get(taken.messages);
            cursor.at = next.map_or(at, |next| next.start() - SHORT_HEAD_BYTES);
            taken
        } else if let Some((size, reply, size_text_size)) = short_head(&batch[at..]) {
            let tail = &batch[at + SHORT_HEAD_BYTES..][..size];
            cursor.at += SHORT_HEAD_BYTES + size;
            let message = Message::in_one_piece(subject, tail, reply, size_text_size);
            deliver(&Part { source, target, run: MessageRun::one(message).repeated() })
        } else {
            unreachable!("a batch holds whole messages");
        };
        if !taken.goes_on {
            return;
        }
    }
}

/// The message at `cursor` of a batch that came to shard `own`, and moves on behind it; its queues
/// are left out. There is one.
pub(crate) fn next<'a>(
    batch: &'a [u8],
    own: ShardId,
    cursor: &mut Cursor,
) -> (Source, Target<'a>, Message<'a>) {
    let short = short_head(&batch[cursor.at..]);
    if short.is_none() {
        cursor.whole_at = cursor.at;
    }
    let whole = &batch[cursor.whole_at..];
    let (source, target, message, after) = read_whole(whole, own, &mut SmallVec::new());
    let Some((size, reply, size_text_size)) = short else {
        cursor.at = batch.len() - after.len();
        return (source, target, message);
    };
    let tail = &batch[cursor.at + SHORT_HEAD_BYTES..][..size];
    cursor.at += SHORT_HEAD_BYTES + size;
    (source, target, Message::in_one_piece(message.subject, tail, reply, size_text_size))
}

/// Sizes of tail, reply and size text of a message with a short head that `rest` begins with.
#[inline]
fn short_head(rest: &[u8]) -> Option<(usize, usize, usize)> {
    let (first, sizes) =
        rest.first_chunk::<SHORT_HEAD_BYTES>().map(|head| (field(head, 0), field(head, 1)))?;
    (first & AGAIN != 0).then_some((
        (first & !AGAIN) as usize,
        (sizes & 0xffff) as usize,
        (sizes >> 16) as usize,
    ))
}

/// The message with a whole head that `batch` begins with, its queues apart, and what comes after
/// it.
fn read_whole<'a>(
    batch: &'a [u8],
    own: ShardId,
    queues: &mut SmallVec<[&'a [u8]; 4]>,
) -> (Source, Target<'a>, Message<'a>, &'a [u8]) {
    let (head, mut rest) = batch.split_at(HEAD_BYTES);
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at(count);
        rest = after;
        taken
    };
    let flags = field(head, 2);
    let trace = (flags & TRACED != 0).then(|| Traced {
        number: field(take(TRACE_NUMBER_BYTES), 0),
        only: flags & TRACED_ONLY != 0,
    });
    for _ in 0..flags >> 16 {
        let size = field(take(4), 0);
        queues.push(take(size as usize));
    }
    let route = take(field(head, 12) as usize);
    let subject = take(field(head, 3) as usize);
    let (reply_size, body_size) = (field(head, 4) as usize, field(head, 6) as usize);
    let texts = field(head, 7);
    let (header_text_size, size_text_size) = ((texts & 0xffff) as usize, (texts >> 16) as usize);
    let message = if flags & IN_ONE_PIECE != 0 {
        let blank = usize::from(reply_size > 0);
        let tail = take(reply_size + blank + size_text_size + 2 + body_size + 2);
        Message::in_one_piece(subject, tail, reply_size, size_text_size)
    } else {
        let reply = take(reply_size);
        let header_size_text = take(header_text_size);
        let size_text = take(size_text_size);
        let body = take(body_size);
        let headers = &body[..field(head, 5) as usize];
        Message { subject, reply, headers, body, header_size_text, size_text, tail: &[] }
    };
    let no_echo = u64::from(field(head, 8)) | u64::from(field(head, 9)) << 32;
    let source = Source {
        account: AccountId(field(head, 0)),
        publisher: field(head, 1).checked_sub(1).map(ClientKey),
        no_echo: (no_echo != 0).then_some(ConnectionId(no_echo)),
        share: field(head, 10),
    };
    let target = Target {
        plain: flags & PLAIN != 0,
        trace,
        mark: MARKS[(flags >> MARK_SHIFT & 7) as usize],
        hops: (flags >> 8) as u8,
        home: link_to(ShardId(field(head, 11) as u16), own),
        queues: &[],
        route,
        passed: if flags & PASSED != 0 { PASSED_ELSEWHERE } else { &[] },
    };
    (source, target, message, rest)
}

#[inline]
fn field(head: &[u8], index: usize) -> u32 {
    let bytes: [u8; 4] = head[index * 4..index * 4 + 4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::LinkId;

    const MESSAGE: Message<'static> = Message {
        subject: b"a.b",
        reply: b"r",
        headers: b"hh",
        body: b"hhpayload",
        header_size_text: b"2",
        size_text: b"09",
        tail: b"",
    };
    const SOURCE: Source = Source {
        account: AccountId(3),
        publisher: Some(ClientKey(0)),
        no_echo: Some(ConnectionId(5 << 32 | 7)),
        share: 77,
    };
    /// The shards that write and read.
    const OWN: ShardId = ShardId(2);
    const PEER: ShardId = ShardId(1);
    const TARGET: Target<'static> = Target {
        plain: true,
        trace: Some(Traced { number: 7, only: true }),
        mark: Mark::End,
        hops: 2,
        home: Some(LinkId(0)),
        queues: &[b"q1", b"", b"q3"],
        route: b"x.y",
        passed: PASSED_ELSEWHERE,
    };
    /// `Target::PLAIN` as another shard sees it.
    const PLAIN_OVER_THERE: Target<'static> = Target { home: Some(LinkId(1)), ..Target::PLAIN };

    type Sent<'a> = (Source, Target<'a>, Message<'a>);

    /// A message as its publisher's plain line had it.
    fn plain<'a>(subject: &'a [u8], tail: &'a [u8], reply: usize, digits: usize) -> Message<'a> {
        Message::in_one_piece(subject, tail, reply, digits)
    }

    /// The messages that come out of a batch of `sent`, and which of them were written short.
    fn round_trip(sent: &[Sent<'_>]) -> Vec<bool> {
        let (mut batch, mut last) = (Vec::new(), Last::default());
        for (source, target, message) in sent {
            let before = batch.len();
            let run = MessageRun::one(*message);
            if target.is_plain() && !batch.is_empty() && is_again(&batch, source, &run, &last) {
                append_again(&mut batch, &run);
                assert_eq!(batch.len() - before, size_again(&run));
                assert_eq!(batch.len() - before, size_one_again(message));
            } else {
                append(&mut batch, source, target, message, OWN, &mut last);
                assert!(batch.len() - before <= size(target, message));
            }
        }
        let (mut seen, mut short) = (Vec::new(), Vec::new());
        let mut cursor = Cursor::default();
        // It stops after every other part and takes runs in two: nothing is lost or seen twice.
        while !cursor.is_at_end(&batch) {
            read_on(&batch, PEER, &mut cursor, &mut Vec::new(), |part| {
                let run = part.run.up_to(part.run.len().div_ceil(2));
                for message in run.messages() {
                    seen.push(format!("{:?}", (part.source, part.target, message)));
                    short.push(run.repeats());
                }
                Taken { messages: run.len(), goes_on: seen.len() % 2 == 0 }
            });
        }
        let arrived = |sent: &Sent<'_>| {
            let target = if sent.1.home.is_some() {
                sent.1
            } else {
                Target { home: PLAIN_OVER_THERE.home, ..sent.1 }
            };
            format!("{:?}", (sent.0, target, sent.2))
        };
        let expected: Vec<String> = sent.iter().map(arrived).collect();
        assert_eq!(seen, expected);
        // The same one by one, but for the queues.
        let mut cursor = Cursor::default();
        for (source, target, message) in sent {
            let home = target.home.or(PLAIN_OVER_THERE.home);
            let target = Target { home, queues: &[], ..*target };
            let found = next(&batch, PEER, &mut cursor);
            assert_eq!(format!("{found:?}"), format!("{:?}", (source, target, message)));
        }
        assert!(cursor.is_at_end(&batch));
        short
    }

    #[test]
    fn frames_come_back_as_they_went_in() {
        let source = Source { publisher: None, no_echo: None, ..SOURCE };
        let target = Target { plain: false, hops: 0, queues: &[], ..TARGET };
        let sent = [(SOURCE, TARGET, MESSAGE), (source, target, MESSAGE)];
        assert_eq!(round_trip(&sent), [false, false]);
    }

    #[test]
    fn a_run_written_at_once_is_its_messages_written_one_by_one() {
        let first = plain(b"a", b"1\r\nx\r\n", 0, 1);
        for size in [0, 3, 100, 300, 3000] {
            let tail =
                [format!("{size}\r\n").into_bytes(), vec![b'y'; size], b"\r\n".to_vec()].concat();
            let digits = size.to_string().len();
            let input = [b"--".as_slice(), &tail, b"-", &tail].concat();
            let place = Tail::new(2, tail.len(), digits);
            let places = [place, place.at(3 + tail.len())];
            let run = MessageRun::new(b"a", &input, &places);
            let (mut at_once, mut last) = (Vec::new(), Last::default());
            append(&mut at_once, &SOURCE, &Target::PLAIN, &first, OWN, &mut last);
            let mut one_by_one = at_once.clone();
            assert!(is_again(&at_once, &SOURCE, &run, &last));
            let other = MessageRun::new(b"b", &input, &places);
            assert!(!is_again(&at_once, &SOURCE, &other, &last));
            append_again(&mut at_once, &run);
            assert_eq!(at_once.len() - one_by_one.len(), size_again(&run));
            run.messages().for_each(|message| append_one_again(&mut one_by_one, &message));
            assert_eq!(at_once, one_by_one);
        }
    }

    #[test]
    fn only_a_message_like_the_one_before_is_written_short() {
        let first = (SOURCE, Target::PLAIN, plain(b"a", b"r 3\r\none\r\n", 1, 1));
        let again = (SOURCE, Target::PLAIN, plain(b"a", b"003\r\ntwo\r\n", 0, 3));
        let other_subject = (SOURCE, Target::PLAIN, plain(b"b", b"0\r\n\r\n", 0, 1));
        let from = |source| (source, Target::PLAIN, first.2);
        let other_account = from(Source { account: AccountId(4), ..SOURCE });
        let other_publisher = from(Source { publisher: None, ..SOURCE });
        let may_hear_itself = from(Source { no_echo: None, ..SOURCE });
        let to_a_group = (SOURCE, Target { queues: &[b"q"], ..Target::PLAIN }, first.2);
        let with_headers = (SOURCE, Target::PLAIN, MESSAGE);
        let passed_on = (SOURCE, TARGET, MESSAGE);
        let trace = Some(Traced { number: 1, only: false });
        let traced = (SOURCE, Target { trace, ..Target::PLAIN }, first.2);
        let routed_elsewhere = (SOURCE, Target { route: b"b", ..Target::PLAIN }, first.2);
        let short = round_trip(&[first, again, first, other_subject, other_subject, first]);
        assert_eq!(short, [false, true, true, false, true, false]);
        for other in [
            other_account,
            other_publisher,
            may_hear_itself,
            to_a_group,
            with_headers,
            passed_on,
            traced,
            routed_elsewhere,
        ] {
            assert_eq!(round_trip(&[first, other, first, first]), [false, false, false, true]);
        }
    }
}
