//! Errors of clients, the exact texts they are sent, and the reasons for which connections close.
//!
//! Client libraries match on these texts: they are byte-equal to nats-server's. Source: nats-server
//! server/errors.go, server/client.go (ClosedState), server/monitor.go (ClosedState.String).

use std::fmt;

use super::command::Span;

/// The reason for which a connection was closed, as `/connz?state=closed` and the log show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    ClientClosed,
    AuthenticationTimeout,
    AuthenticationFailure,
    TlsHandshakeFailure,
    SlowConsumerPendingBytes,
    SlowConsumerWriteDeadline,
    WriteError,
    ReadError,
    ParseError,
    StaleConnection,
    ProtocolViolation,
    BadClientProtocolVersion,
    MaximumAccountConnectionsExceeded,
    MaximumConnectionsExceeded,
    MaximumPayloadExceeded,
    MaximumControlLineExceeded,
    MaximumSubscriptionsExceeded,
    ServerShutdown,
    AuthenticationExpired,
    NoRespondersRequiresHeaders,
    CredentialsRevoked,
    Kicked,
}

impl CloseReason {
    /// In order; whoever adds a reason adds it here.
    pub const ALL: [Self; Self::Kicked as usize + 1] = [
        Self::ClientClosed,
        Self::AuthenticationTimeout,
        Self::AuthenticationFailure,
        Self::TlsHandshakeFailure,
        Self::SlowConsumerPendingBytes,
        Self::SlowConsumerWriteDeadline,
        Self::WriteError,
        Self::ReadError,
        Self::ParseError,
        Self::StaleConnection,
        Self::ProtocolViolation,
        Self::BadClientProtocolVersion,
        Self::MaximumAccountConnectionsExceeded,
        Self::MaximumConnectionsExceeded,
        Self::MaximumPayloadExceeded,
        Self::MaximumControlLineExceeded,
        Self::MaximumSubscriptionsExceeded,
        Self::ServerShutdown,
        Self::AuthenticationExpired,
        Self::NoRespondersRequiresHeaders,
        Self::CredentialsRevoked,
        Self::Kicked,
    ];

    pub fn text(self) -> &'static str {
        match self {
            Self::ClientClosed => "Client Closed",
            Self::AuthenticationTimeout => "Authentication Timeout",
            Self::AuthenticationFailure => "Authentication Failure",
            Self::TlsHandshakeFailure => "TLS Handshake Failure",
            Self::SlowConsumerPendingBytes => "Slow Consumer (Pending Bytes)",
            Self::SlowConsumerWriteDeadline => "Slow Consumer (Write Deadline)",
            Self::WriteError => "Write Error",
            Self::ReadError => "Read Error",
            Self::ParseError => "Parse Error",
            Self::StaleConnection => "Stale Connection",
            Self::ProtocolViolation => "Protocol Violation",
            Self::BadClientProtocolVersion => "Bad Client Protocol Version",
            Self::MaximumAccountConnectionsExceeded => "Maximum Account Connections Exceeded",
            Self::MaximumConnectionsExceeded => "Maximum Connections Exceeded",
            Self::MaximumPayloadExceeded => "Maximum Message Payload Exceeded",
            Self::MaximumControlLineExceeded => "Maximum Control Line Exceeded",
            Self::MaximumSubscriptionsExceeded => "Maximum Subscriptions Exceeded",
            Self::ServerShutdown => "Server Shutdown",
            Self::AuthenticationExpired => "Authentication Expired",
            Self::NoRespondersRequiresHeaders => "No Responders Requires Headers",
            Self::CredentialsRevoked => "Credentials Revoked",
            Self::Kicked => "Kicked",
        }
    }

    /// True if what is still queued for the peer is thrown away: it cannot or must not be sent.
    pub fn discards_pending(self) -> bool {
        matches!(
            self,
            Self::SlowConsumerPendingBytes
                | Self::SlowConsumerWriteDeadline
                | Self::WriteError
                | Self::ReadError
                | Self::ClientClosed
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A reason for which a parser refuses bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// Not a verb, or a payload that is not followed by CRLF.
    UnknownOperation,
    /// Arguments that do not fit their verb: closed without a word. Where they are, if the log
    /// quotes them.
    BadArguments(&'static str, Option<Span>),
    MaximumControlLine,
    MaximumPayload {
        size: u32,
    },
    /// The peer sent `-ERR`.
    PeerError,
}

impl ProtocolError {
    /// The text between the quotes of `-ERR`, or none where nats-server closes in silence.
    pub fn wire_text(self) -> Option<&'static str> {
        match self {
            Self::UnknownOperation => Some("Unknown Protocol Operation"),
            Self::BadArguments(..) | Self::PeerError => None,
            Self::MaximumControlLine => Some(text::MAXIMUM_CONTROL_LINE),
            Self::MaximumPayload { .. } => Some("Maximum Payload Violation"),
        }
    }

    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::UnknownOperation | Self::BadArguments(..) => CloseReason::ProtocolViolation,
            Self::MaximumControlLine => CloseReason::MaximumControlLineExceeded,
            Self::MaximumPayload { .. } => CloseReason::MaximumPayloadExceeded,
            Self::PeerError => CloseReason::ParseError,
        }
    }
}

/// The other texts a client can be told, each with whether the connection stays.
pub(crate) mod text {
    pub(crate) const MAXIMUM_CONNECTIONS: &str = "maximum connections exceeded";
    pub(crate) const MAXIMUM_ACCOUNT_CONNECTIONS: &str =
        "maximum account active connections exceeded";
    pub(crate) const MAXIMUM_SUBSCRIPTIONS: &str = "maximum subscriptions exceeded";
    pub(crate) const MAXIMUM_CONTROL_LINE: &str = "maximum control line exceeded";
    pub(crate) const STALE_CONNECTION: &str = "Stale Connection";
    pub(crate) const INVALID_CLIENT_PROTOCOL: &str = "invalid client protocol";
    pub(crate) const NO_RESPONDERS_REQUIRES_HEADERS: &str =
        "no responders requires headers support";
    pub(crate) const INVALID_SUBJECT: &str = "Invalid Subject";
    pub(crate) const INVALID_PUBLISH_SUBJECT: &str = "Invalid Publish Subject";
    pub(crate) const AUTHORIZATION_VIOLATION: &str = "Authorization Violation";
    pub(crate) const CONNECTION_THROTTLING: &str =
        "Connection throttling is active. Please try again later.";
    pub(crate) const ACCOUNT_AUTHENTICATION_EXPIRED: &str = "Account Authentication Expired";
    pub(crate) const USER_AUTHENTICATION_EXPIRED: &str = "User Authentication Expired";
    pub(crate) const USER_AUTHENTICATION_REVOKED: &str = "User Authentication Revoked";
    pub(crate) const AUTHENTICATION_TIMEOUT: &str = "Authentication Timeout";
}

/// A subject between double quotes as Go's `%q` writes it: what permission errors show.
pub(crate) fn quoted(subject: &[u8]) -> String {
    let mut out = String::with_capacity(subject.len() + 2);
    out.push('"');
    for chunk in subject.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                    out.push_str(&format!("\\x{:02x}", c as u32))
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_quoted_as_go_does() {
        assert_eq!(quoted(b"foo.bar"), "\"foo.bar\"");
        assert_eq!(quoted(b"a\"b\\c\x01\xff"), "\"a\\\"b\\\\c\\x01\\xff\"");
        assert_eq!(quoted("ü".as_bytes()), "\"ü\"");
    }
}
