//! The end of a WebSocket connection: status codes, and the words beside them.
//!
//! Source: nats-server server/websocket.go (wsEnqueueCloseMessage, wsHandleControlFrame).

use super::frame::{CONTROL_BYTES_MAX, FrameFault};
use crate::protocol::nats::error::CloseReason;

const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
pub(crate) const INVALID_DATA: u16 = 1007;
const POLICY: u16 = 1008;
pub(crate) const TOO_BIG: u16 = 1009;
const INTERNAL: u16 = 1011;
const TLS: u16 = 1015;

/// Returns the payload of a close frame, cut to the size of a control frame.
pub(crate) fn payload(status: u16, text: &str) -> Vec<u8> {
    const CUT: &str = "...";
    let room = CONTROL_BYTES_MAX - size_of::<u16>();
    let mut payload = status.to_be_bytes().to_vec();
    if text.len() <= room {
        payload.extend_from_slice(text.as_bytes());
    } else {
        let end = (0..=room - CUT.len()).rev().find(|end| text.is_char_boundary(*end));
        payload.extend_from_slice(&text.as_bytes()[..end.unwrap_or(0)]);
        payload.extend_from_slice(CUT.as_bytes());
    }
    payload
}

/// Returns the payload of the frame for that reason; None = the peer is told nothing.
pub(crate) fn payload_for(reason: CloseReason) -> Option<Vec<u8>> {
    let status = match reason {
        CloseReason::ClientClosed => NORMAL,
        CloseReason::AuthenticationTimeout
        | CloseReason::AuthenticationFailure
        | CloseReason::MaximumAccountConnectionsExceeded
        | CloseReason::MaximumConnectionsExceeded
        | CloseReason::MaximumControlLineExceeded
        | CloseReason::MaximumSubscriptionsExceeded
        | CloseReason::AuthenticationExpired
        | CloseReason::CredentialsRevoked => POLICY,
        CloseReason::ParseError
        | CloseReason::ProtocolViolation
        | CloseReason::BadClientProtocolVersion => PROTOCOL_ERROR,
        CloseReason::MaximumPayloadExceeded => TOO_BIG,
        CloseReason::StaleConnection | CloseReason::ServerShutdown => GOING_AWAY,
        CloseReason::NoRespondersRequiresHeaders | CloseReason::Kicked => INTERNAL,
        CloseReason::TlsHandshakeFailure => TLS,
        // The connection is broken, or stands still.
        CloseReason::SlowConsumerPendingBytes
        | CloseReason::SlowConsumerWriteDeadline
        | CloseReason::WriteError
        | CloseReason::ReadError => return None,
    };
    Some(payload(status, reason.text()))
}

/// Returns the payload with which a peer's close frame is answered.
///
/// # Errors
/// If the frame breaks the rules.
pub(crate) fn answer_to(received: &[u8]) -> Result<Vec<u8>, FrameFault> {
    let Some((status, text)) = received.split_first_chunk::<2>() else {
        return if received.is_empty() { Ok(Vec::new()) } else { Err(FrameFault::ClosePayload) };
    };
    let status = u16::from_be_bytes(*status);
    if !is_valid_status(status) {
        return Err(FrameFault::CloseStatus(status));
    }
    Ok(match std::str::from_utf8(text) {
        Ok(text) => payload(status, text),
        Err(_) => payload(INVALID_DATA, "invalid utf8 body in close frame"),
    })
}

/// Source: RFC 6455, 7.4.
fn is_valid_status(status: u16) -> bool {
    let is_reserved = matches!(status, 1004..=1006 | 1015..=2999);
    (1000..5000).contains(&status) && !is_reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_sent_back_with_its_words() {
        assert_eq!(answer_to(b"\x03\xe8bye"), Ok(b"\x03\xe8bye".to_vec()));
        assert_eq!(answer_to(b"\x03\xe8"), Ok(b"\x03\xe8".to_vec()));
        assert_eq!(answer_to(b""), Ok(Vec::new()));
        let invalid = payload(INVALID_DATA, "invalid utf8 body in close frame");
        assert_eq!(answer_to(b"\x03\xe8\xff"), Ok(invalid));
        assert_eq!(answer_to(b"\x03"), Err(FrameFault::ClosePayload));
        for status in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            let fault = FrameFault::CloseStatus(status);
            assert_eq!(answer_to(&status.to_be_bytes()), Err(fault), "{status}");
        }
        for status in [1000_u16, 1003, 1007, 1014, 3000, 4999] {
            assert!(answer_to(&status.to_be_bytes()).is_ok(), "{status}");
        }
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let whole = "x".repeat(123);
        assert_eq!(payload(NORMAL, &whole).len(), CONTROL_BYTES_MAX);
        assert!(!payload(NORMAL, &whole).ends_with(b"..."));
        let longer = payload(NORMAL, &"x".repeat(124));
        assert!(longer.len() == CONTROL_BYTES_MAX && longer.ends_with(b"x..."));
        let cut = payload(NORMAL, &"ä".repeat(100));
        assert!(cut.len() <= CONTROL_BYTES_MAX);
        assert!(std::str::from_utf8(&cut[2..]).is_ok());
    }
}
