//! The read task of a connection: it feeds the session, and switches to TLS for it.
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
use crate::net::codec::Codec;
use crate::net::duplicate::duplicate;
use crate::net::read_buffer::ReadBuffer;
use crate::net::runtime::{Driver, finished_within, within};
use crate::net::session::{Session, Step, Wait};
use crate::net::tls::{TlsFacts, TlsFailure, TlsPipe};
use crate::net::tls_config::{TlsServer, public_key_id};
use crate::protocol::nats::error::CloseReason;

/// Time for a connection that is to move to send what it was told before.
const SEND_BEFORE_MOVE: Duration = Duration::from_millis(100);

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
    /// With TLS: the buffer that the socket fills.
    pub ciphertext: Option<Box<ReadBuffer>>,
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
                if self.ciphertext.is_some() && self.open_ciphertext().is_err() {
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
                Step::ReadMore => break None,
                Step::ReadMoreWithin(at_most) => break Some(at_most),
                Step::Again => self.ends.context.hook.yield_turn().await,
                Step::WaitFor(wait) => {
                    if !Box::pin(wait_for(wait, self.descriptor)).await {
                        return Err(CloseReason::ClientClosed.into());
                    }
                }
                Step::StartTls(server) => Box::pin(self.start_tls(&server)).await?,
                Step::Move(target) => {
                    if Box::pin(self.may_leave()).await {
                        return Err(Leave::Move(target));
                    }
                }
                Step::Close(reason) => return Err(reason.into()),
            }
        };
        if at_most.is_none() && self.ciphertext.is_some() {
            if self.ends.codec.borrow_mut().tls().is_some_and(|pipe| pipe.peer_closed()) {
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

    /// Reads once. A connection that stays idle meanwhile exchanges its buffer for a smaller one.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    fn read(&mut self) -> impl Future<Output = io::Result<usize>> {
        async move {
            loop {
                let target = self.ciphertext.as_deref_mut().unwrap_or(&mut self.input);
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
                        self.ciphertext.as_deref_mut().unwrap_or(&mut self.input).shrink();
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
        let target = self.ciphertext.as_deref_mut().unwrap_or(&mut self.input);
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

    /// Decrypts for the session what the socket brought.
    fn open_ciphertext(&mut self) -> Result<(), TlsFailure> {
        let mut codec = self.ends.codec.borrow_mut();
        let (Some(ciphertext), Some(pipe)) = (&mut self.ciphertext, codec.tls()) else {
            return Ok(());
        };
        let input = &mut self.input;
        let result = pipe.feed(ciphertext.bytes_mut(), |opened| input.append(opened));
        ciphertext.consume(ciphertext.bytes().len());
        if pipe.has_outgoing() {
            self.ends.outbox.poke();
        }
        result
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
        *self.ends.codec.borrow_mut() = Codec::Tls(Box::new(TlsPipe::new(server)?));
        // Bytes that were read after the plaintext belong to TLS.
        let mut ciphertext = ReadBuffer::new(self.ends.context.read_pool.clone());
        ciphertext.extend(self.input.bytes());
        self.input = ReadBuffer::new(self.ends.context.opened_pool.clone());
        let mut is_new = !ciphertext.bytes().is_empty();
        self.ciphertext = Some(Box::new(ciphertext));
        loop {
            if is_new {
                if !within(left(), self.ends.context.hook.heavy_step()).await {
                    return Err(TlsFailure::TimedOut);
                }
                self.open_ciphertext()?;
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
