//! Reply subjects of delivered messages: `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream
//! sequence>.<consumer sequence>.<time>.<pending>`. A newer form has a domain and the hash of an
//! account before the stream. Source: nats-server server/consumer.go ackReplyInfo.

use super::output::Delivery;
use crate::protocol::nats::encode::decimal;

pub(crate) const ACK_PREFIX: &[u8] = b"$JS.ACK.";
pub(crate) const FLOW_CONTROL_PREFIX: &[u8] = b"$JS.FC.";

/// Tokens behind `$JS.ACK`.
const TOKENS: usize = 7;
const TOKENS_WITH_DOMAIN: usize = 9;

/// A reply subject that was published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckSubject<'subject> {
    pub stream: &'subject [u8],
    pub consumer: &'subject [u8],
    pub delivery: Delivery,
}

impl<'subject> AckSubject<'subject> {
    /// `None` where it is no such subject.
    pub(crate) fn parse(subject: &'subject [u8]) -> Option<Self> {
        let rest = subject.strip_prefix(ACK_PREFIX)?;
        let mut tokens = rest.split(|byte| *byte == b'.');
        // The newer form may get more tokens in future.
        match memchr::memchr_iter(b'.', rest).count() + 1 {
            TOKENS => {}
            TOKENS_WITH_DOMAIN.. => {
                tokens.nth(1);
            }
            _ => return None,
        }
        let (stream, consumer) = (tokens.next()?, tokens.next()?);
        let mut next = || number(tokens.next()?);
        let numbers = (next(), next(), next());
        let delivery = match numbers {
            (Some(deliveries), Some(stream_sequence), Some(consumer_sequence)) => {
                Delivery { consumer_sequence, stream_sequence, deliveries }
            }
            // It reaches its consumer, and means nothing there.
            _ => Delivery::default(),
        };
        Some(Self { stream, consumer, delivery })
    }
}

fn number(token: &[u8]) -> Option<u64> {
    if token.is_empty() {
        return None;
    }
    token.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The part of a consumer's reply subjects that stays the same.
pub(crate) fn prefix(first: &[u8], stream: &[u8], consumer: &[u8]) -> Box<[u8]> {
    [first, stream, b".", consumer, b"."].concat().into()
}

/// Writes the reply subject of a delivery in the place of what `out` holds.
pub(crate) fn write(
    out: &mut Vec<u8>,
    prefix: &[u8],
    delivery: &Delivery,
    time_ns: i64,
    pending: u64,
) {
    out.clear();
    out.extend_from_slice(prefix);
    let Delivery { consumer_sequence, stream_sequence, deliveries } = *delivery;
    for number in [deliveries, stream_sequence, consumer_sequence] {
        decimal(out, number as usize);
        out.push(b'.');
    }
    if time_ns < 0 {
        out.push(b'-');
    }
    decimal(out, time_ns.unsigned_abs() as usize);
    out.push(b'.');
    decimal(out, pending as usize);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELIVERY: Delivery =
        Delivery { consumer_sequence: 3, stream_sequence: 20, deliveries: 1 };

    #[test]
    fn a_subject_is_read_as_it_was_written() {
        let mut out = b"rest".to_vec();
        write(&mut out, &prefix(ACK_PREFIX, b"S", b"c"), &DELIVERY, 1_796_020_756_362_247_457, 9);
        assert_eq!(out, b"$JS.ACK.S.c.1.20.3.1796020756362247457.9");
        let expected = AckSubject { stream: b"S", consumer: b"c", delivery: DELIVERY };
        assert_eq!(AckSubject::parse(&out), Some(expected));
    }

    #[test]
    fn both_forms_are_understood() {
        let cases: [(&[u8], bool); 6] = [
            (b"$JS.ACK.S.c.1.20.3.7.9", true),
            (b"$JS.ACK._.abcdefgh.S.c.1.20.3.7.9", true),
            (b"$JS.ACK.hub.abcdefgh.S.c.1.20.3.7.9.more", true),
            (b"$JS.ACK.S.c.1.20.3.7", false),
            (b"$JS.ACK.S.c.1.20.3.7.9.0", false),
            (b"$JS.FC.S.c.1.20.3.7.9", false),
        ];
        for (subject, is_one) in cases {
            let expected = AckSubject { stream: b"S", consumer: b"c", delivery: DELIVERY };
            let text = String::from_utf8_lossy(subject);
            assert_eq!(AckSubject::parse(subject), is_one.then_some(expected), "{text}");
        }
        for subject in
            [&b"$JS.ACK.S.c.one.20.3.7.9"[..], b"$JS.ACK.S.c.1.99999999999999999999.3.7.9"]
        {
            let delivery = Delivery::default();
            let expected = AckSubject { stream: b"S", consumer: b"c", delivery };
            assert_eq!(AckSubject::parse(subject), Some(expected), "numbers that are none");
        }
    }
}
