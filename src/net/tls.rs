//! TLS of an accepted connection as an encrypted pipe: bytes in, bytes out, no I/O.
//!
//! Invariants: every complete record among the bytes fed has been decrypted when `feed` returns, so
//! `unread` holds less than one record or one handshake message; records leave `outgoing` and
//! `seal` in the order in which rustls numbered them. During the handshake memory is bounded by
//! `TLS_UNREAD_HANDSHAKE_BYTES_MAX` and by what rustls itself keeps.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{AlertDescription, Error, PeerIncompatible, ProtocolVersion};

use crate::base::limits::{TLS_UNREAD_BYTES_MAX, TLS_UNREAD_HANDSHAKE_BYTES_MAX};
use crate::net::client_certificate::take_refusal;
use crate::net::tls_config::{TlsServer, suite_text};

/// Plaintext bytes of a full record.
const RECORD_BYTES: usize = 16 << 10;
/// Most bytes that either version adds to a record: header, explicit nonce or inner type, and tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 16 + 1;
/// Room for a key update or a close_notify in addition to a sealed chunk.
const CONTROL_ROOM: usize = 128;

/// First bytes of the records with which a peer may begin.
const ALERT_RECORD: u8 = 0x15;
const HANDSHAKE_RECORD: u8 = 0x16;

/// Returns true if a connection's first byte begins a TLS handshake.
pub(crate) fn begins_handshake(first: u8) -> bool {
    first == HANDSHAKE_RECORD
}

/// Why a connection has no TLS, or no longer has it.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsFailure {
    TimedOut,
    /// The peer went away before the handshake ended.
    PeerGone,
    /// The peer does not speak TLS: it is told nothing.
    NotTls,
    /// More input than any message needs.
    TooLarge,
    /// The peer's key is none of those that are let in. With the key's id; None = it presented no
    /// certificate.
    NotPinned(Option<String>),
    Protocol(Error),
    /// The peer offered these versions, newest first, as they stand on the wire.
    UnsupportedVersions(Vec<u16>),
    /// The peer's certificate was refused, in nats-server's words.
    Certificate(String),
    /// Sealing was attempted after rustls had reported that no more is possible.
    Exhausted,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::TimedOut => "TLS handshake timeout",
            Self::PeerGone => "TLS handshake error: EOF",
            Self::NotTls => {
                "TLS handshake error: tls: first record does not look like a TLS handshake"
            }
            Self::TooLarge => "TLS handshake error: tls: handshake message too large",
            Self::NotPinned(_) => "TLS handshake error: certificate not pinned",
            Self::Exhausted => "TLS error: no more records can be sealed",
            Self::Certificate(reason) => {
                return write!(
                    formatter,
                    "TLS handshake error: tls: failed to verify certificate: {reason}"
                );
            }
            Self::UnsupportedVersions(offered) => {
                let offered: Vec<String> =
                    offered.iter().map(|version| format!("{version:x}")).collect();
                return write!(
                    formatter,
                    "TLS handshake error: tls: client offered only unsupported versions: [{}]",
                    offered.join(" ")
                );
            }
            Self::Protocol(error) => {
                return write!(formatter, "TLS handshake error: {}", failure_text(error));
            }
        };
        formatter.write_str(text)
    }
}

impl std::error::Error for TlsFailure {}

/// Returns the failure for an error about the record that `input` begins with.
fn failure_of(error: Error, input: &[u8]) -> TlsFailure {
    match (take_refusal(), error) {
        (Some(reason), Error::InvalidCertificate(_)) => TlsFailure::Certificate(reason),
        (_, error) => match offered_versions(input) {
            Some(offered) if is_about_versions(&error, &offered) => {
                TlsFailure::UnsupportedVersions(offered)
            }
            _ => TlsFailure::Protocol(error),
        },
    }
}

fn is_about_versions(error: &Error, offered: &[u16]) -> bool {
    let Error::PeerIncompatible(reason) = error else { return false };
    // A client of an older version lacks what rustls looks for first.
    let is_older = offered.iter().all(|version| *version < TLS_1_2);
    is_older
        || matches!(
            reason,
            PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
        )
}

const TLS_1_2: u16 = 0x0303;

/// Returns the versions that a ClientHello offers. None = the bytes are not one whole ClientHello
/// in one record. Source for a hello without the extension: Go crypto/tls supportedVersionsFromMax.
fn offered_versions(record: &[u8]) -> Option<Vec<u16>> {
    const CLIENT_HELLO: u8 = 1;
    const SUPPORTED_VERSIONS: u16 = 43;
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, behind) = rest.split_at_checked(count)?;
        *rest = behind;
        Some(taken)
    }
    fn number(rest: &mut &[u8], size: usize) -> Option<usize> {
        Some(take(rest, size)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }
    fn list<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
        let count = number(rest, size)?;
        take(rest, count)
    }
    let mut rest = record;
    if take(&mut rest, 3)?[0] != HANDSHAKE_RECORD {
        return None;
    }
    let mut rest = list(&mut rest, 2)?;
    if take(&mut rest, 1)?[0] != CLIENT_HELLO {
        return None;
    }
    let mut rest = list(&mut rest, 3)?;
    let version = number(&mut rest, 2)?;
    take(&mut rest, 32)?;
    for size in [1, 2, 1] {
        list(&mut rest, size)?;
    }
    let mut extensions = list(&mut rest, 2).unwrap_or_default();
    while !extensions.is_empty() {
        let kind = number(&mut extensions, 2)?;
        let mut body = list(&mut extensions, 2)?;
        if kind == usize::from(SUPPORTED_VERSIONS) {
            let versions = list(&mut body, 1)?.chunks_exact(2);
            return Some(versions.map(|two| u16::from_be_bytes([two[0], two[1]])).collect());
        }
    }
    let all = [0x0304, TLS_1_2, 0x0302, 0x0301];
    Some(all.into_iter().filter(|known| usize::from(*known) <= version).collect())
}

/// Returns the words that operators know from nats-server if the cause is the same, else those of
/// rustls.
pub(crate) fn failure_text(error: &Error) -> String {
    let text = match error {
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate",
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => "tls: client offered only unsupported versions",
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "tls: no cipher suite supported by both client and server"
        }
        Error::AlertReceived(alert) => return format!("remote error: tls: {}", alert_text(*alert)),
        other => return format!("tls: {other}"),
    };
    text.to_owned()
}

/// Source: Go crypto/tls alert.go.
fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::CloseNotify => "close notify",
        AlertDescription::UnexpectedMessage => "unexpected message",
        AlertDescription::BadRecordMac => "bad record MAC",
        AlertDescription::RecordOverflow => "record overflow",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::IllegalParameter => "illegal parameter",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::DecodeError => "error decoding message",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::InsufficientSecurity => "insufficient security level",
        AlertDescription::InternalError => "internal error",
        AlertDescription::UserCanceled => "user canceled",
        AlertDescription::MissingExtension => "missing extension",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        other => return format!("alert({})", u8::from(other)),
    };
    text.to_owned()
}

/// Certificates in DER.
pub(crate) type PeerCertificates = Arc<[Box<[u8]>]>;

/// Facts about a connection's TLS for its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// Under nats-server's name.
    pub cipher_suite: String,
    /// The certificates that the peer presented and TLS verified, as DER, its own first; empty
    /// without `verify`. Shared with the threads that describe them.
    pub peer_certificates: PeerCertificates,
}

/// The server's side of one connection's TLS.
pub(crate) struct TlsPipe {
    connection: UnbufferedServerConnection,
    /// Ciphertext of an incomplete record or handshake message.
    unread: Vec<u8>,
    /// Plaintext that was decrypted while the writer sealed, and is not taken yet.
    opened: Vec<u8>,
    /// TLS's own bytes to be sent: handshake, alerts, tickets, key updates.
    outgoing: Vec<u8>,
    seen_input: bool,
    peer_closed: bool,
    failure: Option<TlsFailure>,
}

impl TlsPipe {
    /// Starts the server's side of a connection.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub(crate) fn new(server: &TlsServer) -> Result<Self, TlsFailure> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&server.config))
            .map_err(TlsFailure::Protocol)?;
        Ok(Self {
            connection,
            unread: Vec::new(),
            opened: Vec::new(),
            outgoing: Vec::new(),
            seen_input: false,
            peer_closed: false,
            failure: None,
        })
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Returns true if the peer has announced that it will send no more.
    pub(crate) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Returns the bytes held for an incomplete record or message.
    #[cfg(test)]
    pub(crate) fn unread_bytes(&self) -> usize {
        self.unread.len()
    }

    /// Returns the facts. Only after the handshake.
    pub(crate) fn facts(&self) -> TlsFacts {
        let version = match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "",
        };
        let suite = self.connection.negotiated_cipher_suite();
        let cipher_suite = suite.map(|suite| suite_text(suite.suite())).unwrap_or_default();
        let presented = self.connection.peer_certificates();
        let peer_certificates = presented.map_or_else(Arc::default, |presented| {
            presented.iter().map(|one| one.as_ref().into()).collect()
        });
        TlsFacts { version, cipher_suite, peer_certificates }
    }

    /// Decrypts what the peer sent, and passes plaintext to `opened` in pieces. `ciphertext` is
    /// decrypted in place: its content is useless afterwards.
    ///
    /// # Errors
    /// If what the peer sent ends the connection; there may be an alert to be sent.
    pub(crate) fn feed(
        &mut self,
        ciphertext: &mut [u8],
        mut opened: impl FnMut(&[u8]),
    ) -> Result<(), TlsFailure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if !self.opened.is_empty() {
            opened(&self.opened);
            self.opened = Vec::new();
        }
        if !self.seen_input
            && let Some(first) = ciphertext.first()
        {
            self.seen_input = true;
            if !matches!(*first, ALERT_RECORD | HANDSHAKE_RECORD) {
                return Err(self.fail(TlsFailure::NotTls));
            }
        }
        let result = if self.unread.is_empty() {
            let (taken, result) = self.process(ciphertext, &mut opened);
            self.unread.extend_from_slice(&ciphertext[taken..]);
            result
        } else {
            self.unread.extend_from_slice(ciphertext);
            self.process_unread(&mut opened)
        };
        result.map_err(|failure| self.fail(failure))?;
        let unread_bytes_max = if self.is_handshaking() {
            TLS_UNREAD_HANDSHAKE_BYTES_MAX
        } else {
            TLS_UNREAD_BYTES_MAX
        };
        if self.unread.len() > unread_bytes_max {
            return Err(self.fail(TlsFailure::TooLarge));
        }
        if self.unread.is_empty() {
            // An idle connection holds nothing.
            self.unread = Vec::new();
        }
        Ok(())
    }

    fn fail(&mut self, failure: TlsFailure) -> TlsFailure {
        self.unread = Vec::new();
        self.failure = Some(failure.clone());
        failure
    }

    fn process_unread(&mut self, opened: &mut impl FnMut(&[u8])) -> Result<(), TlsFailure> {
        let mut unread = std::mem::take(&mut self.unread);
        let (taken, result) = self.process(&mut unread, opened);
        unread.drain(..taken);
        self.unread = unread;
        result
    }

    /// Runs rustls until it needs more input; returns the number of bytes it has consumed.
    fn process(
        &mut self,
        input: &mut [u8],
        opened: &mut impl FnMut(&[u8]),
    ) -> (usize, Result<(), TlsFailure>) {
        let mut taken = 0;
        loop {
            let begun = taken;
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut input[taken..]);
            let goes_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => opened(record.payload),
                        Some(Err(error)) => break Err(error),
                        None => break Ok(true),
                    }
                },
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    Ok(true)
                }
                Ok(ConnectionState::WriteTraffic(_)) => Ok(false),
                Ok(state) => speak(state, &mut self.outgoing),
                Err(error) => Err(error),
            };
            taken += discard;
            match goes_on {
                Ok(true) => {}
                Ok(false) => return (taken, Ok(())),
                Err(error) => {
                    let failure = failure_of(error, &input[begun..]);
                    self.collect_alert(&mut input[taken..]);
                    return (taken, Err(failure));
                }
            }
        }
    }

    /// After an error rustls may still have an alert to be sent. It is asked only while it has
    /// something to say, as it must not look at input again.
    fn collect_alert(&mut self, rest: &mut [u8]) {
        while self.connection.wants_write() {
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(rest);
            let Ok(state) = state else { return };
            match speak(state, &mut self.outgoing) {
                Ok(true) => {}
                _ => return,
            }
        }
    }

    /// Appends TLS's own bytes, which must be sent before anything sealed from now on.
    pub(crate) fn take_outgoing(&mut self, target: &mut Vec<u8>) {
        target.extend_from_slice(&self.outgoing);
        self.outgoing = Vec::new();
    }

    /// Returns an upper bound for the bytes that `take_outgoing` and `seal` of `plain_bytes` may
    /// append.
    pub(crate) fn sealed_size_max(&self, plain_bytes: usize) -> usize {
        let records = plain_bytes.div_ceil(RECORD_BYTES);
        self.outgoing.len() + plain_bytes + records * RECORD_OVERHEAD + CONTROL_ROOM
    }

    /// Appends `plaintext` as records. Only after the handshake.
    ///
    /// # Errors
    /// If the connection failed, or rustls will encrypt no more.
    pub(crate) fn seal(
        &mut self,
        plaintext: &[u8],
        target: &mut Vec<u8>,
    ) -> Result<(), TlsFailure> {
        self.when_writable(target, plaintext.len(), |writer, room| writer.encrypt(plaintext, room))
    }

    /// Appends the alert that ends the stream; nothing if that is no longer possible.
    pub(crate) fn close_notify(&mut self, target: &mut Vec<u8>) {
        if self.failure.is_none() && !self.is_handshaking() {
            // Fails only if nothing can be encrypted any more: then the peer sees the socket's end.
            let _ = self.when_writable(target, 0, |writer, room| writer.queue_close_notify(room));
        }
    }

    fn when_writable(
        &mut self,
        target: &mut Vec<u8>,
        plain_bytes: usize,
        write: impl Fn(
            &mut rustls::unbuffered::WriteTraffic<'_, ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsFailure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut unread = std::mem::take(&mut self.unread);
        let mut taken = 0;
        let mut failed = None;
        // rustls must be given the bytes that the reader left: it remembers its position in them.
        let result = loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut unread[taken..]);
            let step = match state {
                Ok(ConnectionState::WriteTraffic(mut writer)) => {
                    break write_into(target, plain_bytes, |room| write(&mut writer, room));
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => self.opened.extend_from_slice(record.payload),
                        Some(Err(error)) => break Err(error),
                        None => break Ok(true),
                    }
                },
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    Ok(true)
                }
                Ok(state) => speak(state, target),
                Err(error) => Err(error),
            };
            taken += discard;
            match step {
                Ok(true) => {}
                Ok(false) => break Err(TlsFailure::Exhausted),
                Err(error) => {
                    failed = Some(TlsFailure::Protocol(error.clone()));
                    break Err(TlsFailure::Protocol(error));
                }
            }
        };
        unread.drain(..taken);
        self.unread = unread;
        if let Some(failure) = failed {
            self.fail(failure);
        }
        result
    }
}

/// Lets `write` fill the free end of `target`.
fn write_into(
    target: &mut Vec<u8>,
    plain_bytes: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), TlsFailure> {
    let begin = target.len();
    let records = plain_bytes.div_ceil(RECORD_BYTES);
    let mut room = plain_bytes + records * RECORD_OVERHEAD + CONTROL_ROOM;
    loop {
        target.resize(begin + room, 0);
        match write(&mut target[begin..]) {
            Ok(written) => {
                target.truncate(begin + written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(needed)) if needed.required_size > room => {
                room = needed.required_size;
            }
            Err(_) => {
                target.truncate(begin);
                return Err(TlsFailure::Exhausted);
            }
        }
    }
}

/// Handles the states in which TLS itself has something to send; false if it waits for input.
fn speak(
    state: ConnectionState<'_, '_, ServerConnectionData>,
    outgoing: &mut Vec<u8>,
) -> Result<bool, Error> {
    match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let begin = outgoing.len();
            if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
                outgoing.resize(begin + needed.required_size, 0);
                let encoded = data.encode(&mut outgoing[begin..]);
                assert!(encoded.is_ok(), "the buffer has the size that was asked for");
            }
            Ok(true)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(true)
        }
        // Early data is disabled.
        ConnectionState::ReadEarlyData(_) => Err(Error::General("early data".into())),
        _ => Ok(false),
    }
}

#[cfg(test)]
pub(in crate::net) mod tests;
