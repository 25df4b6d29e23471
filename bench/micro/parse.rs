//! The client parser on a read buffer full of small messages.
//!
//! - `parse/pub_16`: what a session does with a PUB in its plain spelling.
//! - `parse/pub_16_full`: the same bytes by the incremental parser, which also takes every other
//!   spelling.
//! - `parse/pub_16_reply`, `parse/hpub_16`: with a reply subject; with a header of 24 bytes.

use std::hint::black_box;

use criterion::Criterion;
use midge::testing::protocol::nats::command::Command;
use midge::testing::protocol::nats::parser::{Parsed, Parser, ParserLimits};
use midge::testing::protocol::nats::plain::plain_publish;

use super::cpu_time::CpuTime;

const LIMITS: ParserLimits =
    ParserLimits { control_line_bytes_max: 4096, payload_bytes_max: 1 << 20, headers: true };

/// Messages in the buffer: as many as a read of 64 KiB brings.
const MESSAGE_COUNT: usize = 1_400;

pub fn bench(criterion: &mut Criterion<CpuTime>) {
    let plain = b"PUB orders.eu.new 16\r\n0123456789abcdef\r\n";
    let reply = b"PUB orders.eu.new _INBOX.aBcDeFgHiJkLmNoPqRsTuV.1 16\r\n0123456789abcdef\r\n";
    let headers = b"HPUB orders.eu.new 24 40\r\nNATS/1.0\r\nkey: value\r\n\r\n0123456789abcdef\r\n";
    each_message(criterion, "parse/pub_16", plain, |bytes| {
        let (publish, consumed) = plain_publish(bytes, &LIMITS).expect("a plain PUB");
        black_box(publish);
        consumed
    });
    each_message(criterion, "parse/pub_16_full", plain, full);
    each_message(criterion, "parse/pub_16_reply", reply, |bytes| {
        let (publish, consumed) = plain_publish(bytes, &LIMITS).expect("a plain PUB");
        black_box(publish);
        consumed
    });
    each_message(criterion, "parse/hpub_16", headers, full);
}

fn full(bytes: &[u8]) -> usize {
    match Parser::default().next(bytes, &LIMITS) {
        Ok(Parsed::Command { command: Command::Publish(publish), consumed }) => {
            black_box(publish);
            consumed
        }
        other => panic!("not a message: {other:?}"),
    }
}

/// One iteration is one message; the next one begins where it ended.
fn each_message(
    criterion: &mut Criterion<CpuTime>,
    name: &str,
    message: &[u8],
    parse: impl Fn(&[u8]) -> usize,
) {
    let buffer = message.repeat(MESSAGE_COUNT);
    let mut position = 0;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            if position == buffer.len() {
                position = 0;
            }
            position += parse(black_box(&buffer[position..]));
        });
    });
}
