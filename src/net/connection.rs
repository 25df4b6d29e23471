//! The driver of every connection, whatever its peer speaks: a read task that feeds the session,
//! and a write task that empties its outbox.
//!
//! It handles bytes only and knows no verb of any protocol. A read in flight is never dropped; it
//! is woken by shutting the socket down, or cancelled and awaited.
//!
//! Every connection holds its two futures for its whole life, so rare awaits are boxed: an idle
//! connection does not pay for them. The two held futures are async blocks, since an async fn would
//! keep its arguments twice.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::buf::IoBuf;
use monoio::io::{
    AsyncWriteRent, CancelHandle, CancelableAsyncWriteRent, Canceller, OwnedReadHalf,
    OwnedWriteHalf, Splitable,
};
use monoio::net::TcpStream;
use monoio::task::JoinHandle;
use rustix::process::{Resource, getrlimit};

use crate::base::ids::ShardId;
use crate::base::limits::{READ_BUFFER_BYTES, SLOW_READS_MAX, SPARE_DESCRIPTORS_SHARE};
use crate::base::pool::BufferPool;
use crate::broker::byte_queue::{QueueHandle, Resumable};
use crate::net::codec::{Codec, Sealed};
use crate::net::operations::Operations;
use crate::net::read_buffer::{ReadBuffer, piece_end};
use crate::net::runtime::{Driver, TurnHook, finished_within, spawn, within};
use crate::net::session::{Session, Step, Wait};
use crate::net::tls::{TlsFacts, TlsFailure, TlsPipe};
use crate::net::tls_config::{TlsServer, public_key_id};
use crate::protocol::nats::error::CloseReason;

/// Time for a closing connection to send what it still owes, above all an `-ERR`.
const FLUSH_AT_CLOSE: Duration = Duration::from_millis(500);

/// Time for a connection that is to move to send what it was told before.
const SEND_BEFORE_MOVE: Duration = Duration::from_millis(100);

/// Reads of one connection before others get their turn, on the driver where reading does not wait.
const EPOLL_READS_PER_TURN: u32 = 8;

/// Interval at which the socket of a connection that waits for its login is checked.
const PEER_LOOK: Duration = Duration::from_millis(250);

/// What the connections of one shard share.
pub(crate) struct ConnectionContext {
    pub read_pool: Rc<BufferPool>,
    /// Buffers for decrypted TLS input.
    pub opened_pool: Rc<BufferPool>,
    /// Buffers from which TLS records are sent.
    pub sealed_pool: Rc<BufferPool>,
    pub hook: Rc<TurnHook>,
    pub operations: Rc<Operations>,
    pub resumable: Rc<Resumable>,
    pub driver: Driver,
}

/// The handle by which the shard's ticker acts on a connection that it does not own.
#[derive(Default)]
pub(crate) struct ConnectionControl {
    /// Set while a read is in flight that can be cancelled.
    canceller: RefCell<Option<Canceller>>,
    /// Reads since the last tick.
    reads: Cell<u32>,
    /// True if writes may be restarted: for peers that may take longer than the write deadline.
    retries_writes: Cell<bool>,
    /// Set while such a write is in flight.
    write_canceller: RefCell<Option<Canceller>>,
    /// A second descriptor of the socket, as long as the connection may go to another shard.
    spare: Cell<Option<StdTcpStream>>,
}

/// How the serving of a connection ended on this shard.
pub(crate) enum Ended {
    Closed,
    /// It continues on that shard.
    Moved(ShardId, MovedConnection),
}

/// A connection between two shards: neither the kernel nor a task holds anything of it.
pub(crate) struct MovedConnection {
    stream: StdTcpStream,
    /// Bytes that were read, and decrypted, but not consumed.
    unread: Vec<u8>,
    /// None = plain.
    tls: Option<Box<TlsPipe>>,
}

/// Why a reader ended.
enum Leave {
    Close(CloseReason),
    Move(ShardId),
}

/// Descriptors are given away from the lowest: one of the lower ones leaves enough for connections.
fn may_be_spare(descriptor: RawFd, descriptors_max: Option<u64>) -> bool {
    let descriptor = u64::try_from(descriptor).expect("a descriptor is not negative");
    descriptors_max.is_none_or(|max| descriptor < max / SPARE_DESCRIPTORS_SHARE)
}

impl From<CloseReason> for Leave {
    fn from(reason: CloseReason) -> Self {
        Self::Close(reason)
    }
}

impl ConnectionControl {
    /// `retries_writes` gives `retry_write` an effect.
    pub(crate) fn new(retries_writes: bool) -> Self {
        Self { retries_writes: Cell::new(retries_writes), ..Self::default() }
    }

    /// The connection may go to another shard, as long as its session asks for it only once. Costs a descriptor until
    /// then; where they become scarce it stays.
    pub(crate) fn let_move(&self, stream: &StdTcpStream) {
        let descriptors_max = getrlimit(Resource::Nofile).current;
        let spare = stream.try_clone().ok();
        self.spare.set(spare.filter(|spare| may_be_spare(spare.as_raw_fd(), descriptors_max)));
    }

    /// Restarts the write in flight: the kernel takes as much as it has room for, then waits again
    /// until a third of its buffer is free.
    pub(crate) fn retry_write(&self) {
        if let Some(canceller) = self.write_canceller.take() {
            drop(canceller.cancel());
        }
    }

    /// Returns the handle for a write that can be cancelled, if this connection's can be.
    fn write_handle(&self) -> Option<CancelHandle> {
        if !self.retries_writes.get() {
            return None;
        }
        let canceller = Canceller::new();
        let handle = canceller.handle();
        *self.write_canceller.borrow_mut() = Some(canceller);
        Some(handle)
    }

    /// Returns the handle for a read into this buffer, if the ticker may cancel it: a read into a
    /// large buffer, or of a connection that reads so seldom that it costs nothing. A connection
    /// that was busy until now keeps its buffer, up to the third class, until its next read.
    fn cancel_handle(&self, target: &ReadBuffer) -> Option<CancelHandle> {
        let is_slow = self.reads.get() <= SLOW_READS_MAX && target.bytes().is_empty();
        let least_bytes = if is_slow { READ_BUFFER_BYTES[0] } else { READ_BUFFER_BYTES[2] };
        if target.capacity() <= least_bytes && !(is_slow && target.capacity() == 0) {
            return None;
        }
        let canceller = self.canceller.take().unwrap_or_default();
        let handle = canceller.handle();
        *self.canceller.borrow_mut() = Some(canceller);
        Some(handle)
    }

    /// Called once per tick. Takes back the buffer of a connection that has read nothing since the
    /// last tick, if it `may`. True if it did.
    pub(crate) fn shrink_if_idle(&self, may: bool) -> bool {
        if self.reads.replace(0) > 0 || !may {
            return false;
        }
        let Some(canceller) = self.canceller.take() else { return false };
        drop(canceller.cancel());
        true
    }
}

/// Starts to serve one connection, until it has ended (everything owed is sent or given up) or goes
/// to another shard; then `ended` is called.
///
/// # Errors
/// If the socket could not be given to the runtime.
pub(crate) fn serve<S: Session + 'static>(
    stream: StdTcpStream,
    session: Rc<RefCell<S>>,
    control: Rc<ConnectionControl>,
    context: Rc<ConnectionContext>,
    ended: impl FnOnce(Ended) + 'static,
) -> io::Result<()> {
    let begun = session.clone();
    let moved = MovedConnection { stream, unread: Vec::new(), tls: None };
    go_on(moved, session, control, context, ended)?;
    begun.borrow_mut().start();
    Ok(())
}

/// Continues to serve a connection that another shard served until now; otherwise like `serve`.
///
/// # Errors
/// If the socket could not be given to the runtime.
pub(crate) fn go_on<S: Session + 'static>(
    moved: MovedConnection,
    session: Rc<RefCell<S>>,
    control: Rc<ConnectionControl>,
    context: Rc<ConnectionContext>,
    ended: impl FnOnce(Ended) + 'static,
) -> io::Result<()> {
    let MovedConnection { stream, unread, tls } = moved;
    if context.driver == Driver::Epoll {
        stream.set_nonblocking(true)?;
    }
    let descriptor = stream.as_raw_fd();
    let outbox = session.borrow().queue();
    let (read_half, write_half) = TcpStream::from_std(stream)?.into_split();
    // The descriptor stays open until the abort is taken back below, so it cannot refer to another
    // socket.
    outbox.set_abort(Some(Box::new(move || {
        // Fails only if the peer is gone already, which wakes both tasks too.
        let _ = nix::sys::socket::shutdown(descriptor, nix::sys::socket::Shutdown::Both);
    })));
    let pool = if tls.is_some() { &context.opened_pool } else { &context.read_pool };
    let mut input = ReadBuffer::new(pool.clone());
    if !unread.is_empty() {
        input.extend(&unread);
    }
    let ciphertext = tls.as_ref().map(|_| Box::new(ReadBuffer::new(context.read_pool.clone())));
    if tls.as_ref().is_some_and(|pipe| pipe.has_outgoing()) {
        outbox.poke();
    }
    let codec = RefCell::new(tls.map_or(Codec::Plain, Codec::Tls));
    let ends = Rc::new(Ends { outbox, codec, context, control });
    let writer = monoio::spawn(write_loop(write_half, ends.clone()));
    let mut reader = Reader { source: read_half, descriptor, input, ciphertext, session, ends };
    spawn(async move {
        let end = match reader.run().await {
            Leave::Close(reason) => {
                Box::pin(finish(reader, reason, writer)).await;
                Ended::Closed
            }
            Leave::Move(target) => Box::pin(part(reader, target, writer)).await,
        };
        ended(end);
    });
    Ok(())
}

/// What the two tasks of a connection share.
struct Ends {
    outbox: QueueHandle,
    codec: RefCell<Codec>,
    context: Rc<ConnectionContext>,
    control: Rc<ConnectionControl>,
}

/// The write task of one connection. It returns its half of the socket, unless that was shut down.
type Writer = JoinHandle<Option<OwnedWriteHalf<TcpStream>>>;

/// Takes apart a connection that has no operation in flight. Whatever is pushed meanwhile stays in
/// its queue.
async fn part<S: Session>(reader: Reader<S>, target: ShardId, writer: Writer) -> Ended {
    let Reader { source, mut input, ends, .. } = reader;
    ends.outbox.retire();
    let write_half = writer.await;
    ends.outbox.set_abort(None);
    // Dropped separately, the halves would shut the socket down.
    if let Some(write_half) = write_half {
        drop(source.reunite(write_half));
    }
    let unread = input.bytes().to_vec();
    input.consume(unread.len());
    input.release_if_empty();
    let tls = match ends.codec.take() {
        Codec::Plain => None,
        Codec::Tls(pipe) => Some(pipe),
    };
    let stream = ends.control.spare.take().expect("looked at before, and never taken since");
    Ended::Moved(target, MovedConnection { stream, unread, tls })
}

/// Sends what is still owed, or gives up.
async fn finish<S: Session>(reader: Reader<S>, reason: CloseReason, mut writer: Writer) {
    let Ends { outbox, context, .. } = &*reader.ends;
    // A failing network ends thousands of connections at once: only so many per turn.
    context.hook.end_step().await;
    // The reason given by whoever closed the outbox first takes precedence.
    let reason = outbox.close_reason().unwrap_or(reason);
    reader.session.borrow_mut().close(reason);
    outbox.close(reason);
    context.hook.request();
    if !within(FLUSH_AT_CLOSE, &mut writer).await {
        outbox.abort_socket();
        writer.await;
    }
    outbox.set_abort(None);
}

/// The read task of one connection.
struct Reader<S> {
    source: OwnedReadHalf<TcpStream>,
    /// Descriptor of the same socket.
    descriptor: RawFd,
    /// The bytes that the session reads.
    input: ReadBuffer,
    /// With TLS: the buffer that the socket fills.
    ciphertext: Option<Box<ReadBuffer>>,
    session: Rc<RefCell<S>>,
    ends: Rc<Ends>,
}

impl<S: Session> Reader<S> {
    /// Keeps no local state while it waits for bytes, where a connection spends its life.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    fn run(&mut self) -> impl Future<Output = Leave> {
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
                Step::Settle(None) => drop(self.ends.control.spare.take()),
                Step::Settle(Some(target)) => match Box::pin(self.may_leave()).await {
                    true => return Err(Leave::Move(target)),
                    false => drop(self.ends.control.spare.take()),
                },
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

    /// Returns true if the connection may go to another shard: a second descriptor of its socket is
    /// there, and everything it was told has been sent. A peer that does not read gets little time
    /// to.
    async fn may_leave(&mut self) -> bool {
        let Ends { outbox, control, .. } = &*self.ends;
        let spare = control.spare.take();
        let has_spare = spare.is_some();
        control.spare.set(spare);
        if !has_spare {
            return false;
        }
        let until = outbox.sent.value().saturating_add(outbox.pending_bytes() as u64);
        within(SEND_BEFORE_MOVE, outbox.sent.reached(until)).await
            && !outbox.is_closing()
            && outbox.is_idle()
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

fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error())
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

#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
fn write_loop(
    mut target: OwnedWriteHalf<TcpStream>,
    ends: Rc<Ends>,
) -> impl Future<Output = Option<OwnedWriteHalf<TcpStream>>> {
    async move {
        loop {
            let Some(mut chunk) = ends.outbox.next_chunk().await else { break };
            ends.context.hook.before_send();
            ends.outbox.send_begins(Instant::now());
            if ends.codec.borrow().is_plain() {
                let mut offset = 0;
                while offset < chunk.len() {
                    ends.context.operations.writes.submit();
                    let end = piece_end(offset, chunk.len());
                    let piece = chunk.slice(offset..end);
                    let (result, slice) = match ends.control.write_handle() {
                        None => target.write(piece).await,
                        Some(handle) => Box::pin(target.cancelable_write(piece, handle)).await,
                    };
                    ends.context.operations.writes.complete();
                    chunk = slice.into_inner();
                    match result {
                        Err(error) if is_cancelled(&error) => {}
                        Ok(count) if count > 0 => {
                            offset += count;
                            ends.outbox.send_progressed(count, Instant::now());
                        }
                        _ => {
                            ends.outbox.close(CloseReason::WriteError);
                            break;
                        }
                    }
                }
            } else {
                Box::pin(send_sealed(&mut target, &ends, &chunk)).await;
            }
            ends.outbox.send_ends(chunk);
            resume_paced(&ends);
        }
        resume_paced(&ends);
        if ends.outbox.is_retired() {
            return Some(target);
        }
        if !ends.codec.borrow().is_plain()
            && !ends.outbox.close_reason().is_some_and(|why| why.discards_pending())
        {
            let bytes = ends.codec.borrow_mut().finish(&ends.context.sealed_pool);
            Box::pin(write_all(&mut target, bytes, &ends, |_| {})).await;
        }
        // The peer sees the end of the stream after everything owed, and the reader wakes up.
        ends.outbox.abort_socket();
        None
    }
}

/// Sends one chunk as TLS records, after TLS's own records.
async fn send_sealed(target: &mut OwnedWriteHalf<TcpStream>, ends: &Ends, chunk: &[u8]) {
    let Ends { outbox, codec, context, .. } = ends;
    let mut offset = 0;
    loop {
        let sealed = codec.borrow_mut().seal(&chunk[offset..], &context.sealed_pool);
        // After a failure an empty chunk stands for the alert, which `finish` sends.
        let Ok(Sealed { bytes, plain_bytes }) = sealed else {
            return outbox.close(CloseReason::WriteError);
        };
        offset += plain_bytes;
        let size = bytes.len();
        let (mut written, mut credited) = (0, 0);
        // Pending bytes are counted as plaintext: part of the records counts for its share of it.
        let progressed = |count: usize| {
            written += count;
            let share = (plain_bytes as u128 * written as u128 / size as u128) as usize;
            outbox.send_progressed(share - credited, Instant::now());
            credited = share;
        };
        if !write_all(target, bytes, ends, progressed).await {
            return outbox.close(CloseReason::WriteError);
        }
        if offset >= chunk.len() {
            return;
        }
    }
}

/// Sends a whole buffer and gives it back to the pool; false = the socket takes no more.
async fn write_all(
    target: &mut OwnedWriteHalf<TcpStream>,
    mut bytes: Vec<u8>,
    Ends { context, control, .. }: &Ends,
    mut progressed: impl FnMut(usize),
) -> bool {
    let mut offset = 0;
    while offset < bytes.len() {
        context.operations.writes.submit();
        let (result, slice) = match control.write_handle() {
            None => target.write(bytes.slice(offset..)).await,
            Some(handle) => target.cancelable_write(bytes.slice(offset..), handle).await,
        };
        context.operations.writes.complete();
        bytes = slice.into_inner();
        match result {
            Err(error) if is_cancelled(&error) => {}
            Ok(count) if count > 0 => {
                offset += count;
                progressed(count);
            }
            _ => return false,
        }
    }
    context.sealed_pool.give_back(bytes);
    true
}

/// Lets publishers on other shards continue once this consumer has drained, or is gone.
fn resume_paced(Ends { outbox, context, .. }: &Ends) {
    if let Some(publishers) = outbox.take_resumable() {
        context.resumable.borrow_mut().extend(publishers);
        context.hook.request();
    }
}
