//! Frames of clients, cut everywhere, and those that break the rules.

use super::*;

const KEY: [u8; 4] = [7, 1, 200, 33];

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_header(&mut bytes, first, payload.len());
    bytes[1] |= MASKED;
    bytes.extend_from_slice(&KEY);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    mask::apply(&mut bytes[start..], KEY, 0);
    bytes
}

/// What was read, as text: payload of messages, `|` where one ends, control frames in brackets.
fn read(reader: &mut FrameReader, pending: &mut Vec<u8>, told: &mut String) -> Option<FrameFault> {
    loop {
        let (part, taken) = match reader.next(pending, usize::MAX) {
            Ok(next) => next,
            Err(fault) => return Some(fault),
        };
        let text = |range: &Range<usize>| String::from_utf8_lossy(&pending[range.clone()]);
        match &part {
            Part::Data { payload, is_last, .. } => {
                told.push_str(&text(payload));
                told.push_str(if *is_last { "|" } else { "" });
            }
            Part::Ping(payload) => told.push_str(&format!("<{}>", text(payload))),
            Part::Pong => told.push_str("<>"),
            Part::Close(payload) => told.push_str(&format!("[{}]", payload.len())),
            Part::Incomplete => {}
        }
        pending.drain(..taken);
        if part == Part::Incomplete {
            return None;
        }
    }
}

#[test]
fn what_is_read_does_not_depend_on_where_it_is_cut() {
    let long = "x".repeat(70_000);
    let middle = "y".repeat(300);
    let mut bytes = Vec::new();
    for (first, payload) in [
        (TEXT | FINAL, "PING\r\n"),
        (BINARY, "PU"),
        (PING | FINAL, "are you there"),
        (CONTINUATION, ""),
        (PONG | FINAL, ""),
        (CONTINUATION | FINAL, "B"),
        (BINARY | FINAL, ""),
        (BINARY | FINAL, middle.as_str()),
        (BINARY | FINAL, long.as_str()),
        (CLOSE | FINAL, "\x03\u{8}"),
    ] {
        bytes.extend(frame(first, payload.as_bytes()));
    }
    let expected = format!("PING\r\n|PU<are you there><>B||{middle}|{long}|[2]");
    let told = |cuts: &[usize]| {
        let (mut reader, mut pending) = (FrameReader::new(true, false), Vec::new());
        let mut told = String::new();
        let mut start = 0;
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            pending.extend_from_slice(&bytes[start..cut]);
            assert_eq!(read(&mut reader, &mut pending, &mut told), None);
            start = cut;
        }
        assert!(pending.is_empty());
        told
    };
    for cut in 0..900 {
        assert_eq!(told(&[cut]), expected, "cut at {cut}");
    }
    assert_eq!(told(&(0..900).collect::<Vec<_>>()), expected);
}

#[test]
fn frames_that_break_the_rules_are_refused_in_nats_servers_words() {
    let masked = |first: u8, second: u8| vec![first, second | MASKED, 0, 0, 0, 0, 0, 0];
    for (bytes, text) in [
        (masked(BINARY | FINAL | 0x20, 0), "RSV2 and RSV3 must be clear"),
        (
            masked(BINARY | FINAL | DEFLATED, 0),
            "compressed frame received without negotiated permessage-deflate",
        ),
        (vec![BINARY | FINAL, 3], "mask bit missing"),
        (
            masked(PING | FINAL, 126),
            "control frame length bigger than maximum allowed of 125 bytes",
        ),
        (masked(PING, 3), "control frame does not have final bit set"),
        (masked(CONTINUATION | FINAL, 3), "invalid continuation frame"),
        (masked(3, 3), "unknown opcode 3"),
        (masked(11 | FINAL, 3), "unknown opcode 11"),
        (
            vec![BINARY | FINAL, 127 | MASKED, 0x80, 0, 0, 0, 0, 0, 0, 0],
            "invalid 64-bit payload length",
        ),
    ] {
        let fault = FrameReader::new(true, false).next(&mut bytes.clone(), usize::MAX);
        assert_eq!(fault.expect_err(text).to_string(), text);
    }
    let mut reader = FrameReader::new(true, true);
    let mut begun = frame(BINARY, b"x");
    assert!(reader.next(&mut begun, usize::MAX).is_ok());
    let fault =
        reader.next(&mut frame(BINARY | FINAL, b"x"), usize::MAX).expect_err("it is interrupted");
    assert_eq!(fault, FrameFault::MessageInterrupted);
    let fault = reader
        .next(&mut frame(CONTINUATION | DEFLATED, b"x"), usize::MAX)
        .expect_err("not the first");
    assert_eq!(fault, FrameFault::Continuation);
    let fault =
        reader.next(&mut frame(PING | FINAL | DEFLATED, b"x"), usize::MAX).expect_err("no data");
    assert_eq!(fault, FrameFault::ControlDeflated);
}

#[test]
fn a_peer_that_need_not_mask_may() {
    let mut reader = FrameReader::new(false, false);
    let mut told = String::new();
    let mut bytes = vec![BINARY | FINAL, 2, b'h', b'i'];
    bytes.extend(frame(BINARY | FINAL, b"ho"));
    assert_eq!(read(&mut reader, &mut bytes, &mut told), None);
    assert_eq!(told, "hi|ho|");
}

#[test]
fn headers_take_the_shortest_form() {
    for (length, size) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        let mut header = Vec::new();
        append_data_header(&mut header, true, true, false, length);
        assert_eq!(header.len(), size);
        assert!(size <= HEADER_BYTES_MAX);
    }
}
