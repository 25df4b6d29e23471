//! The read task of a connection: it feeds the session, and switches to TLS and to WebSocket frames
//! for it.
//!
//! A read in flight is never dropped; it is woken by shutting the socket down, or cancelled and
//! awaited.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::RawFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::io::{Canceller, OwnedReadHalf};
use monoio::net::TcpStream;

use super::ends::{Ends, is_cancelled};
use crate::base::ids::ShardId;
use crate::net::duplicate::duplicate;
use crate::net::frames::{Decoded, Frames, Upgrade};
use crate::net::read_buffer::ReadBuffer;
use crate::net::runtime::{Driver, finished_within, sleep, within};
use crate::net::session::{Session, Step, Wait};
use crate::net::tls::{TlsFacts, TlsFailure, TlsPipe};
use crate::net::tls_config::{TlsServer, public_key_id};
use crate::protocol::nats::error::CloseReason;

/// Time for a connection that is to move to send what it was told before.
const SEND_BEFORE_MOVE: Duration = Duration::from_millis(100);

/// Time after which a connection that is to move looks again for a descriptor, where these are
/// scarce.
const DESCRIPTOR_WAIT: Duration = Duration::from_millis(20);

/// Reads of one connection before others get their turn, on the driver where reading does not wait.
const EPOLL_READS_PER_TURN: u32 = 8;

/// Interval at which the socket of a connection that waits for its login is checked.
const PEER_LOOK: Duration = Duration::from_millis(250);

/// Why a reader ended.
pub(super) enum Leave {
    Close(CloseReason),
    Move(ShardId),
}

impl From<CloseReason> for Leave {
    fn from(reason: CloseReason) -> Self {
        Self::Close(reason)
    }
}

/// The read task of one connection.
pub(super) struct Reader<S> {
    pub source: OwnedReadHalf<TcpStream>,
    /// Descriptor of the same socket.
    pub descriptor: RawFd,
    /// The bytes that the session reads.
    pub input: ReadBuffer,
    /// With TLS or frames: the buffer that the socket fills.
    pub encoded: Option<Box<ReadBuffer>>,
    /// With both: the frames, decrypted.
    pub framed: Option<Box<ReadBuffer>>,
    /// True if frames may be there that were not decoded.
    pub may_decode: bool,
    pub session: Rc<RefCell<S>>,
    pub ends: Rc<Ends>,
}

impl<S: Session> Reader<S> {
    /// Keeps no local state while it waits for bytes, where a connection spends its life.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    pub(super) fn run(&mut self) -> impl Future<Output = Leave> {
        async move {
            loop {
                match self.work().await {
                    Ok(None) => {}
                    Ok(Some(at_most)) => match Box::pin(self.fill_within(at_most)).await {
                        Some(Ok(0)) => return CloseReason::ClientClosed.into(),
                        Some(Err(_)) => return CloseReason::ReadError.into(),
                        Some(Ok(_)) | None => continue,
                    },
                    Err(leave) => return leave,
                }
                match self.read().await {
                    Ok(0) => return CloseReason::ClientClosed.into(),
                    Err(_) => return CloseReason::ReadError.into(),
                    Ok(_) => {}
                }
                // On this driver a read that finds bytes completes at once: a fast peer would never
                // yield.
                if self.count_read().is_multiple_of(EPOLL_READS_PER_TURN)
                    && self.ends.context.driver == Driver::Epoll
                {
                    self.ends.context.hook.yield_turn().await;
                }
                if self.encoded.is_some() && self.decode().is_err() {
                    return CloseReason::ReadError.into();
                }
            }
        }
    }

    /// Returns the number of reads since the last tick, this one included.
    fn count_read(&self) -> u32 {
        let reads = self.ends.control.reads.get() + 1;
        self.ends.control.reads.set(reads);
        reads
    }

    /// Lets the session process what is there until it needs to read; Some = for at most that long.
    /// The first time there is nothing to consume, but the session may already have a decision.
    async fn work(&mut self) -> Result<Option<Duration>, Leave> {
        let at_most = loop {
            self.ends.context.hook.before_batch();
            let step = self.session.borrow_mut().receive(&mut self.input);
            match step {
                Step::ReadMore if self.may_decode => {
                    self.ends.context.hook.yield_turn().await;
                    self.decode_frames();
                }
                Step::ReadMore => break None,
                Step::ReadMoreWithin(at_most) => break Some(at_most),
                Step::Again => self.ends.context.hook.yield_turn().await,
                Step::WaitFor(wait) => {
                    if !Box::pin(wait_for(wait, self.descriptor)).await {
                        return Err(CloseReason::ClientClosed.into());
                    }
                }
                Step::StartTls(server) => Box::pin(self.start_tls(&server)).await?,
                Step::StartFrames(upgrade) => self.start_frames(*upgrade),
                Step::Move(target) => {
                    if Box::pin(self.may_leave()).await {
                        return Err(Leave::Move(target));
                    }
                }
                Step::Leave(target) => {
                    Box::pin(self.leave()).await?;
                    return Err(Leave::Move(target));
                }
                Step::Close(reason) => return Err(reason.into()),
            }
        };
        if at_most.is_none() && self.encoded.is_some() {
            let failure = self.ends.codec.borrow_mut().frames().and_then(|it| it.failure());
            if let Some(failure) = failure {
                self.session.borrow_mut().framing_failed(failure);
                return Err(self.take_leave(CloseReason::ReadError));
            }
            if self.ends.codec.borrow_mut().frames().is_some_and(|frames| frames.peer_closed()) {
                return Err(self.take_leave(CloseReason::ClientClosed));
            }
            if self.ends.codec.borrow().peer_closed() {
                // The writer goes first: answers to the last commands may still be read.
                self.ends.context.hook.yield_turn().await;
                return Err(CloseReason::ClientClosed.into());
            }
            self.input.release_if_empty();
        }
        Ok(at_most)
    }

    /// Returns true if the connection may go to another shard: everything it was told has been sent,
    /// and a second descriptor of its socket is there. A peer that does not read gets little time
    /// to.
    async fn may_leave(&mut self) -> bool {
        let Ends { outbox, control, .. } = &*self.ends;
        let until = outbox.sent.value().saturating_add(outbox.pending_bytes() as u64);
        let is_sent = within(SEND_BEFORE_MOVE, outbox.sent.reached(until)).await;
        if !is_sent || outbox.is_closing() || !outbox.is_idle() {
            return false;
        }
        let spare = duplicate(self.descriptor).ok();
        let has_spare = spare.is_some();
        control.spare.set(spare.map(StdTcpStream::from));
        has_spare
    }

    /// Waits until everything that the connection was told has been sent, and there is a second
    /// descriptor of its socket. Err = it was closed meanwhile.
    async fn leave(&mut self) -> Result<(), Leave> {
        let Ends { outbox, control, context, .. } = &*self.ends;
        loop {
            if let Some(reason) = outbox.close_reason() {
                return Err(reason.into());
            }
            let pending = outbox.pending_bytes() as u64;
            if pending > 0 {
                outbox.sent.reached(outbox.sent.value().saturating_add(pending)).await;
            } else if !outbox.is_idle() {
                context.hook.yield_turn().await;
            } else if let Ok(spare) = duplicate(self.descriptor) {
                control.spare.set(Some(StdTcpStream::from(spare)));
                return Ok(());
            } else {
                sleep(DESCRIPTOR_WAIT).await;
            }
        }
    }

    /// Reads once. A connection that stays idle meanwhile exchanges its buffer for a smaller one.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    fn read(&mut self) -> impl Future<Output = io::Result<usize>> {
        async move {
            loop {
                let target = self.encoded.as_deref_mut().unwrap_or(&mut self.input);
                let handle = self.ends.control.cancel_handle(target);
                self.ends.context.operations.reads.submit();
                let result = match handle {
                    None => target.fill(&mut self.source).await,
                    Some(handle) => {
                        Box::pin(target.fill_cancelable(&mut self.source, handle)).await
                    }
                };
                self.ends.context.operations.reads.complete();
                match result {
                    Err(error) if is_cancelled(&error) => {
                        self.encoded.as_deref_mut().unwrap_or(&mut self.input).shrink();
                    }
                    result => return result,
                }
            }
        }
    }

    /// Reads once, within `at_most`; None = nothing arrived. The read is cancelled and awaited,
    /// never dropped.
    async fn fill_within(&mut self, at_most: Duration) -> Option<io::Result<usize>> {
        let canceller = Canceller::new();
        self.ends.context.operations.reads.submit();
        let target = self.encoded.as_deref_mut().unwrap_or(&mut self.input);
        let mut read = pin!(target.fill_cancelable(&mut self.source, canceller.handle()));
        let result = match finished_within(at_most, read.as_mut()).await {
            Some(result) => result,
            None => {
                drop(canceller.cancel());
                // Bytes that arrived at the same moment are not lost.
                read.await
            }
        };
        self.ends.context.operations.reads.complete();
        match result {
            Err(error) if is_cancelled(&error) => None,
            other => Some(other),
        }
    }

    /// Decodes for the session what the socket brought.
    fn decode(&mut self) -> Result<(), TlsFailure> {
        let result = self.decrypt();
        self.decode_frames();
        result
    }

    fn decrypt(&mut self) -> Result<(), TlsFailure> {
        let mut codec = self.ends.codec.borrow_mut();
        let (Some(encoded), Some(pipe)) = (&mut self.encoded, codec.tls()) else {
            return Ok(());
        };
        let target = self.framed.as_deref_mut().unwrap_or(&mut self.input);
        let result = pipe.feed(encoded.bytes_mut(), |opened| target.append(opened));
        encoded.consume(encoded.bytes().len());
        if pipe.has_outgoing() {
            self.ends.outbox.poke();
        }
        result
    }

    /// Decodes frames, if the connection has them: as many as the session is to handle now.
    fn decode_frames(&mut self) {
        let mut codec = self.ends.codec.borrow_mut();
        let Some(frames) = codec.frames() else { return };
        let Some(framed) = self.framed.as_mut().or(self.encoded.as_mut()) else { return };
        let limits = self.session.borrow().frame_limits();
        let deflaters = &self.ends.context.deflaters;
        let decoded = frames.decode(framed, &mut self.input, limits, deflaters);
        self.may_decode = decoded == Decoded::Some;
        if frames.has_outgoing() {
            self.ends.outbox.poke();
        }
        if let Some(framed) = &mut self.framed {
            framed.release_if_empty();
        }
    }

    /// Ends a connection whose peer is told so in a last frame, after everything else.
    fn take_leave(&self, reason: CloseReason) -> Leave {
        self.ends.outbox.close_after_sending(reason);
        reason.into()
    }

    /// Switches to frames. What was read already belongs to them.
    fn start_frames(&mut self, upgrade: Upgrade) {
        self.ends.codec.borrow_mut().set_frames(Frames::new(upgrade));
        let pool = self.ends.context.opened_pool.clone();
        let framed = std::mem::replace(&mut self.input, ReadBuffer::new(pool));
        match self.encoded {
            Some(_) => self.framed = Some(Box::new(framed)),
            None => self.encoded = Some(Box::new(framed)),
        }
        self.may_decode = true;
        self.ends.outbox.poke();
    }

    /// Switches from plain to TLS, and tells the session the outcome.
    async fn start_tls(&mut self, server: &TlsServer) -> Result<(), CloseReason> {
        let outcome = self.handshake(server).await;
        if let Some(reason) = self.ends.outbox.close_reason() {
            return Err(reason);
        }
        let failed = outcome.is_err();
        self.session.borrow_mut().tls_ended(outcome);
        if failed {
            return Err(CloseReason::TlsHandshakeFailure);
        }
        self.ends.outbox.hold(false);
        Ok(())
    }

    async fn handshake(&mut self, server: &TlsServer) -> Result<TlsFacts, TlsFailure> {
        let deadline = Instant::now() + server.timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        // Once nothing in the clear is in flight, there is no await until the codec is switched, so
        // nothing more can leave in the clear.
        while self.ends.outbox.pending_bytes() > 0 && !self.ends.outbox.is_closing() {
            let until = self.ends.outbox.sent.value() + self.ends.outbox.pending_bytes() as u64;
            if !within(left(), self.ends.outbox.sent.reached(until)).await {
                return Err(TlsFailure::TimedOut);
            }
        }
        if self.ends.outbox.is_closing() {
            return Err(TlsFailure::PeerGone);
        }
        self.ends.outbox.hold(true);
        self.ends.codec.borrow_mut().set_tls(TlsPipe::new(server)?);
        // Bytes that were read after the plaintext belong to TLS.
        let mut encoded = ReadBuffer::new(self.ends.context.read_pool.clone());
        encoded.extend(self.input.bytes());
        self.input = ReadBuffer::new(self.ends.context.opened_pool.clone());
        let mut is_new = !encoded.bytes().is_empty();
        self.encoded = Some(Box::new(encoded));
        loop {
            if is_new {
                if !within(left(), self.ends.context.hook.heavy_step()).await {
                    return Err(TlsFailure::TimedOut);
                }
                self.decrypt()?;
                if let Some(facts) = self.facts() {
                    let own = facts.peer_certificates.first().map(|der| &**der);
                    if !server.is_pinned(own) {
                        return Err(TlsFailure::NotPinned(own.and_then(public_key_id)));
                    }
                    return Ok(facts);
                }
            }
            match self.fill_within(left()).await {
                None => return Err(TlsFailure::TimedOut),
                Some(Ok(0) | Err(_)) => return Err(TlsFailure::PeerGone),
                Some(Ok(_)) => is_new = true,
            }
        }
    }

    /// Returns the facts of TLS, once the handshake has ended.
    fn facts(&self) -> Option<TlsFacts> {
        let mut codec = self.ends.codec.borrow_mut();
        codec.tls().filter(|pipe| !pipe.is_handshaking()).map(|pipe| pipe.facts())
    }
}

/// Waits. False if the peer went away from a wait that concerns it alone.
async fn wait_for(wait: Wait, descriptor: RawFd) -> bool {
    match wait {
        Wait::Login { gate } => {
            while !within(PEER_LOOK, gate.reached(1)).await {
                if peer_is_gone(descriptor) {
                    return false;
                }
            }
        }
        Wait::Gate { gate, until, at_most: None } => gate.reached(until).await,
        Wait::Gate { gate, until, at_most: Some(at_most) } => {
            within(at_most, gate.reached(until)).await;
        }
        Wait::Sent { queue, until, at_most } => {
            within(at_most, queue.sent.reached(until)).await;
        }
    }
    true
}

/// Returns true if the peer has closed or reset a connection that nobody reads. Bytes not read yet
/// hide an orderly close.
fn peer_is_gone(descriptor: RawFd) -> bool {
    use nix::errno::Errno;
    use nix::sys::socket::{MsgFlags, SockaddrStorage, getpeername, recv};
    if getpeername::<SockaddrStorage>(descriptor).err() == Some(Errno::ENOTCONN) {
        return true;
    }
    match recv(descriptor, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(count) => count == 0,
        Err(errno) => errno != Errno::EAGAIN && errno != Errno::EINTR,
    }
}
