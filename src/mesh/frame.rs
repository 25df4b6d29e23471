//! How messages lie in a batch of a message lane: a fixed head, queue names, subject, reply, body.
//!
//! Native to one process, so there is no version and no check: a frame that does not parse is our bug.

use smallvec::SmallVec;

use crate::base::ids::{AccountId, ClientKey, ConnectionId};
use crate::broker::link::Forward;
use crate::protocol::message::Message;
use crate::protocol::nats::encode::copy_payload;

/// account, publisher + 1, flags, subject, reply, headers, body sizes, sizes of the size texts, and the
/// connection that is not to hear it in two halves: ten u32.
const HEAD_BYTES: usize = 40;
const PLAIN: u32 = 1;

/// Bytes `forward` takes in a batch.
pub fn size(forward: &Forward<'_>) -> usize {
    let queues: usize = forward.queues.iter().map(|queue| queue.len() + 4).sum();
    let message = &forward.message;
    let texts = message.header_size_text.len() + message.size_text.len();
    HEAD_BYTES + queues + message.subject.len() + message.reply.len() + texts + message.body.len()
}

/// Appends `forward`; the batch has room.
pub fn append(batch: &mut Vec<u8>, forward: &Forward<'_>) {
    let message = &forward.message;
    let flags = (u32::from(forward.plain) * PLAIN)
        | (u32::from(forward.hops) << 8)
        | ((forward.queues.len() as u32) << 16);
    // Connections count from 5: 0 is free for none.
    let no_echo = forward.no_echo.map_or(0, |connection| connection.0);
    let fields = [
        forward.account.0,
        forward.publisher.map_or(0, |client| client.0 + 1),
        flags,
        message.subject.len() as u32,
        message.reply.len() as u32,
        message.headers.len() as u32,
        message.body.len() as u32,
        message.header_size_text.len() as u32 | (message.size_text.len() as u32) << 16,
        no_echo as u32,
        (no_echo >> 32) as u32,
    ];
    let mut head = [0u8; HEAD_BYTES];
    for (place, field) in head.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    batch.extend_from_slice(&head);
    for queue in forward.queues {
        batch.extend_from_slice(&(queue.len() as u32).to_ne_bytes());
        batch.extend_from_slice(queue);
    }
    batch.extend_from_slice(message.subject);
    batch.extend_from_slice(message.reply);
    batch.extend_from_slice(message.header_size_text);
    batch.extend_from_slice(message.size_text);
    copy_payload(batch, message.body);
}

/// Calls `deliver` for each message of a batch, in order.
pub fn for_each(batch: &[u8], mut deliver: impl FnMut(&Forward<'_>)) {
    let mut rest = batch;
    while !rest.is_empty() {
        let (head, after) = rest.split_at(HEAD_BYTES);
        let field = |index: usize| {
            let bytes: [u8; 4] = head[index * 4..index * 4 + 4].try_into().expect("four bytes");
            u32::from_ne_bytes(bytes)
        };
        let flags = field(2);
        rest = after;
        let mut take = |count: usize| {
            let (taken, after) = rest.split_at(count);
            rest = after;
            taken
        };
        let mut queues: SmallVec<[&[u8]; 4]> = SmallVec::new();
        for _ in 0..flags >> 16 {
            let size = u32::from_ne_bytes(take(4).try_into().expect("four bytes"));
            queues.push(take(size as usize));
        }
        let subject = take(field(3) as usize);
        let reply = take(field(4) as usize);
        let header_size_text = take((field(7) & 0xffff) as usize);
        let size_text = take((field(7) >> 16) as usize);
        let body = take(field(6) as usize);
        let headers = &body[..field(5) as usize];
        let no_echo = u64::from(field(8)) | u64::from(field(9)) << 32;
        deliver(&Forward {
            account: AccountId(field(0)),
            publisher: field(1).checked_sub(1).map(ClientKey),
            no_echo: (no_echo != 0).then_some(ConnectionId(no_echo)),
            message: Message {
                subject,
                reply,
                headers,
                body,
                header_size_text,
                size_text,
                tail: b"",
            },
            plain: flags & PLAIN != 0,
            hops: (flags >> 8) as u8,
            queues: &queues,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went_in() {
        let message = Message {
            subject: b"a.b",
            reply: b"r",
            headers: b"hh",
            body: b"hhpayload",
            header_size_text: b"2",
            size_text: b"09",
            tail: b"",
        };
        let first = Forward {
            account: AccountId(3),
            publisher: Some(ClientKey(0)),
            no_echo: Some(ConnectionId(5 << 32 | 7)),
            message,
            plain: true,
            hops: 2,
            queues: &[b"q1", b"", b"q3"],
        };
        let second =
            Forward { publisher: None, no_echo: None, plain: false, hops: 0, queues: &[], ..first };
        let mut batch = Vec::new();
        append(&mut batch, &first);
        append(&mut batch, &second);
        assert_eq!(batch.len(), size(&first) + size(&second));
        let mut seen = Vec::new();
        for_each(&batch, |forward| seen.push(format!("{forward:?}")));
        assert_eq!(seen, [format!("{first:?}"), format!("{second:?}")]);
    }
}
