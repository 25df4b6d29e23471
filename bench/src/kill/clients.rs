//! The clients of a server that is about to be killed. Each runs until its connection breaks or it
//! is told to stop, and returns what it was promised.

use crate::Failure;
use crate::jetstream::reader::Place;
use crate::kill::ledger::MessageName;
use crate::wire::connection::{Connection, Dialer};
use crate::wire::frames::{read_stamp, stamp};
use crate::wire::message::{Head, header, number, status};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes per read.
const READ_SIZE: usize = 256 * 1024;
/// Messages of a pull request.
const BATCH: u64 = 100;
/// Time that a pull request waits for messages.
const EXPIRES_NS: u64 = 500_000_000;
/// Silence after which reading a stream back is given up.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A publisher's life.
#[derive(Debug, Default)]
pub struct Published {
    pub sent: u64,
    /// Sequences of the publisher, and where the stream has them.
    pub stored: Vec<(u64, u64)>,
    /// Refusals, in the server's words.
    pub refused: Vec<String>,
}

/// A consumer's life.
#[derive(Debug, Default)]
pub struct Consumed {
    /// Stream sequences whose acknowledgement was confirmed.
    pub confirmed: Vec<u64>,
    /// Stream sequences that were acknowledged, confirmed or not.
    pub acknowledged: Vec<u64>,
    /// Sequences that were delivered although their acknowledgement had been confirmed before this
    /// consumer began, or by itself.
    pub again: Vec<u64>,
}

/// The description of one publisher.
#[derive(Clone, Debug)]
pub struct Publisher {
    pub index: u16,
    pub subject: String,
    pub inbox: String,
    pub payload_size: usize,
    pub in_flight: u64,
}

/// Publishes until the connection breaks or `stop`, and then until everything is answered.
///
/// # Errors
/// If the first connection cannot be made.
pub fn publish(
    dialer: &Dialer,
    publisher: &Publisher,
    (stop, total): (&AtomicBool, &AtomicU64),
) -> Result<Published, Failure> {
    let mut connection = dialer.connect("midge-bench kill", READ_SIZE)?;
    connection.subscribe(&format!("{}.*", publisher.inbox), None, 1)?;
    connection.fence()?;
    let mut life = Published::default();
    let mut answered = 0;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let stopped = stop.load(Ordering::Relaxed);
        while !stopped && life.sent - answered < publisher.in_flight {
            push_message(&mut bytes, publisher, life.sent);
            life.sent += 1;
        }
        if connection.stream.write_all(&bytes).is_err() || stopped && answered == life.sent {
            return Ok(life);
        }
        let pumped = connection.pump(|line, payload| {
            let Some(head) = Head::parse(line) else { return };
            let id = head.subject.rsplit(|&byte| byte == b'.').next().and_then(number);
            let body = &payload[head.header_size.min(payload.len())..];
            answered += 1;
            match (id, sequence_of(body)) {
                (Some(id), Some(sequence)) if status(payload).is_none() => {
                    life.stored.push((id, sequence));
                    total.fetch_add(1, Ordering::Relaxed);
                }
                _ => life.refused.push(String::from_utf8_lossy(payload).into_owned()),
            }
        });
        if pumped.is_err() {
            return Ok(life);
        }
    }
}

fn push_message(bytes: &mut Vec<u8>, publisher: &Publisher, id: u64) {
    let Publisher { subject, inbox, payload_size, .. } = publisher;
    bytes.extend_from_slice(format!("PUB {subject} {inbox}.{id} {payload_size}\r\n").as_bytes());
    bytes.extend_from_slice(&stamp(publisher.index, id).to_le_bytes());
    bytes.resize(bytes.len() + payload_size - size_of::<u64>(), b'x');
    bytes.extend_from_slice(b"\r\n");
}

/// Returns the sequence that a good acknowledgement names.
fn sequence_of(body: &[u8]) -> Option<u64> {
    if body.starts_with(b"{\"error\"") {
        return None;
    }
    let start = memchr::memmem::find(body, b"\"seq\":")? + b"\"seq\":".len();
    let rest = body[start..].trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    number(&rest[..digits])
}

/// Pulls and acknowledges with confirmation until the connection breaks or `stop`. `confirmed`:
/// sequences that must not come again.
///
/// # Errors
/// If the first connection cannot be made.
pub fn consume(
    dialer: &Dialer,
    (stream, consumer, inbox): (&str, &str, &str),
    confirmed: &BTreeSet<u64>,
    stop: &AtomicBool,
) -> Result<Consumed, Failure> {
    let mut connection = dialer.connect("midge-bench kill", READ_SIZE)?;
    connection.subscribe(&format!("{inbox}.pull"), None, 1)?;
    connection.subscribe(&format!("{inbox}.ack.*"), None, 2)?;
    connection.fence()?;
    let mut life = Consumed::default();
    let mut own = BTreeSet::new();
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut bytes = Vec::new();
        if asked == 0 {
            asked = BATCH;
            push_pull(&mut bytes, stream, consumer, inbox, EXPIRES_NS);
        }
        if connection.stream.write_all(&bytes).is_err() {
            break;
        }
        bytes.clear();
        let pumped = connection.pump(|line, payload| {
            let Some(head) = Head::parse(line) else { return };
            if head.sid == b"2" {
                let sequence = head.subject.rsplit(|&byte| byte == b'.').next().and_then(number);
                // Without headers: nobody would have heard the acknowledgement otherwise.
                if let Some(sequence) = sequence.filter(|_| head.header_size == 0) {
                    own.insert(sequence);
                    life.confirmed.push(sequence);
                }
                return;
            }
            if status(payload).is_some() {
                let left = header(payload, "Nats-Pending-Messages").and_then(number);
                asked -= asked.min(left.unwrap_or(asked));
                return;
            }
            asked = asked.saturating_sub(1);
            let Some(reply) = head.reply else { return };
            let Some(place) = Place::parse(reply) else { return };
            let sequence = place.stream_sequence;
            if confirmed.contains(&sequence) || own.contains(&sequence) {
                life.again.push(sequence);
            }
            life.acknowledged.push(sequence);
            bytes.extend_from_slice(b"PUB ");
            bytes.extend_from_slice(reply);
            bytes.extend_from_slice(format!(" {inbox}.ack.{sequence} 4\r\n+ACK\r\n").as_bytes());
        });
        if pumped.is_err() || connection.stream.write_all(&bytes).is_err() {
            break;
        }
    }
    Ok(life)
}

fn push_pull(bytes: &mut Vec<u8>, stream: &str, consumer: &str, inbox: &str, expires_ns: u64) {
    let body = format!("{{\"batch\":{BATCH},\"expires\":{expires_ns}}}");
    let size = body.len();
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    let frame = format!("PUB {subject} {inbox}.pull {size}\r\n{body}\r\n");
    bytes.extend_from_slice(frame.as_bytes());
}

/// Reads a whole stream through a consumer that was just made.
///
/// # Errors
/// If the connection breaks, or messages that should come do not.
pub fn read_back(
    dialer: &Dialer,
    (stream, consumer, inbox): (&str, &str, &str),
    message_count: u64,
) -> Result<Vec<(u64, MessageName)>, Failure> {
    let mut connection: Connection = dialer.connect("midge-bench kill", READ_SIZE)?;
    connection.subscribe(&format!("{inbox}.pull"), None, 1)?;
    let mut held = Vec::new();
    let (mut asked, mut heard) = (0, Instant::now());
    while (held.len() as u64) < message_count {
        if asked == 0 {
            let mut bytes = Vec::new();
            push_pull(&mut bytes, stream, consumer, inbox, EXPIRES_NS);
            connection.stream.write_all(&bytes)?;
            asked = BATCH;
        }
        let before = held.len();
        connection.pump(|line, payload| {
            let Some(head) = Head::parse(line) else { return };
            if status(payload).is_some() {
                asked = 0;
                return;
            }
            asked = asked.saturating_sub(1);
            let body = &payload[head.header_size.min(payload.len())..];
            let place = head.reply.and_then(Place::parse);
            let sequence = place.map_or(0, |place| place.stream_sequence);
            held.push((sequence, read_stamp(body).unwrap_or((u16::MAX, u64::MAX))));
        })?;
        if held.len() > before {
            heard = Instant::now();
        }
        if heard.elapsed() > SILENCE_MAX {
            return Err(Failure::new(format!(
                "stream {stream} holds {message_count} messages by its own count, and only {} came",
                held.len()
            )));
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_acknowledgement_names_a_sequence() {
        assert_eq!(sequence_of(br#"{"stream":"S", "seq":12,"duplicate": true}"#), Some(12));
        assert_eq!(sequence_of(br#"{"error":{"code":503},"stream":"S","seq":0}"#), None);
        assert_eq!(sequence_of(b""), None);
    }
}
