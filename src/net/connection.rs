//! The one driver for every kind of peer: a read task that feeds the session, a write task that empties
//! its outbox.
//!
//! Bytes only: no verb of any protocol is known here. A read in flight is never dropped; it is woken by
//! shutting the socket down, or cancelled and awaited.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::buf::IoBuf;
use monoio::io::{AsyncWriteRent, Canceller, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;

use crate::base::limits::READ_BUFFER_BYTES;
use crate::base::pool::BufferPool;
use crate::broker::outbox::{Outbox, Resumable};
use crate::net::read_buffer::ReadBuffer;
use crate::net::runtime::{Driver, TurnHook, within};
use crate::net::session::{Session, Step, Wait};
use crate::protocol::nats::error::CloseReason;

/// How long a closing connection may take to send what it still owes, an `-ERR` above all.
const FLUSH_AT_CLOSE: Duration = Duration::from_millis(500);

/// What the connections of one shard share.
pub struct ConnectionContext {
    pub read_pool: Rc<BufferPool>,
    pub hook: Rc<TurnHook>,
    pub resumable: Rc<Resumable>,
    pub driver: Driver,
}

/// What the shard's ticker may do to a connection it does not own.
#[derive(Default)]
pub struct ConnectionControl {
    /// Set while a read with a large buffer is in flight.
    canceller: RefCell<Option<Canceller>>,
    /// Reads since the last look.
    reads: Cell<u32>,
}

impl ConnectionControl {
    /// Called once per tick: a connection that read nothing since gives its large buffer back.
    pub fn shrink_if_idle(&self) {
        if self.reads.replace(0) > 0 {
            return;
        }
        if let Some(canceller) = self.canceller.take() {
            drop(canceller.cancel());
        }
    }
}

/// Serves one connection until it ends and everything owed is sent or given up.
///
/// # Errors
/// The socket could not be given to the runtime.
pub async fn serve<S: Session + 'static>(
    stream: StdTcpStream,
    session: Rc<RefCell<S>>,
    control: Rc<ConnectionControl>,
    context: Rc<ConnectionContext>,
) -> io::Result<()> {
    if context.driver == Driver::Epoll {
        stream.set_nonblocking(true)?;
    }
    let descriptor = stream.as_raw_fd();
    let outbox = session.borrow().outbox().clone();
    let (mut read_half, write_half) = TcpStream::from_std(stream)?.into_split();
    // The descriptor stays open until the abort is taken back below: it cannot mean another socket.
    outbox.set_abort(Some(Box::new(move || {
        // Fails only when the peer is gone already, which wakes both tasks too.
        let _ = nix::sys::socket::shutdown(descriptor, nix::sys::socket::Shutdown::Both);
    })));
    let mut writer = monoio::spawn(write_loop(write_half, outbox.clone(), context.clone()));
    session.borrow_mut().start();
    let reason = read_loop(&mut read_half, &session, &control, &context).await;
    // Whoever closed the outbox first knows why.
    let reason = outbox.close_reason().unwrap_or(reason);
    session.borrow_mut().close(reason);
    outbox.close(reason);
    context.hook.request();
    if !within(FLUSH_AT_CLOSE, &mut writer).await {
        outbox.abort_socket();
        writer.await;
    }
    outbox.set_abort(None);
    Ok(())
}

async fn read_loop<S: Session>(
    source: &mut OwnedReadHalf<TcpStream>,
    session: &RefCell<S>,
    control: &ConnectionControl,
    context: &ConnectionContext,
) -> CloseReason {
    let mut input = ReadBuffer::new(context.read_pool.clone());
    loop {
        // The first time there is nothing to consume yet, but the session may have its mind made up.
        loop {
            context.hook.before_batch();
            let step = session.borrow_mut().receive(&mut input);
            match step {
                Step::ReadMore => break,
                Step::Again => context.hook.yield_turn().await,
                Step::WaitFor(wait) => wait_for(wait).await,
                Step::Close(reason) => return reason,
            }
        }
        let cancel = (input.capacity() > READ_BUFFER_BYTES[1]).then(|| {
            let canceller = control.canceller.take().unwrap_or_default();
            let handle = canceller.handle();
            *control.canceller.borrow_mut() = Some(canceller);
            handle
        });
        match input.fill(source, cancel).await {
            Ok(0) => return CloseReason::ClientClosed,
            Ok(_) => control.reads.set(control.reads.get() + 1),
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error()) =>
            {
                input.shrink();
            }
            Err(_) => return CloseReason::ReadError,
        }
    }
}

async fn wait_for(wait: Wait) {
    match wait {
        Wait::Gate { gate, until, at_most: None } => gate.reached(until).await,
        Wait::Gate { gate, until, at_most: Some(at_most) } => {
            within(at_most, gate.reached(until)).await;
        }
        Wait::Sent { outbox, until, at_most } => {
            within(at_most, outbox.sent.reached(until)).await;
        }
    }
}

async fn write_loop(
    mut target: OwnedWriteHalf<TcpStream>,
    outbox: Rc<Outbox>,
    context: Rc<ConnectionContext>,
) {
    while let Some(mut chunk) = outbox.next_chunk().await {
        outbox.send_begins(Instant::now());
        let mut offset = 0;
        while offset < chunk.len() {
            let (result, slice) = target.write(chunk.slice(offset..)).await;
            chunk = slice.into_inner();
            match result {
                Ok(count) if count > 0 => {
                    offset += count;
                    outbox.send_progressed(count, Instant::now());
                }
                _ => {
                    outbox.close(CloseReason::WriteError);
                    break;
                }
            }
        }
        outbox.send_ends(chunk);
        resume_paced(&outbox, &context);
    }
    resume_paced(&outbox, &context);
    // The peer sees the end of the stream after all that was owed, and the reader wakes up.
    outbox.abort_socket();
}

/// Lets publishers on other shards go on once this consumer has drained, or is gone.
fn resume_paced(outbox: &Outbox, context: &ConnectionContext) {
    if let Some(publishers) = outbox.take_resumable() {
        context.resumable.borrow_mut().extend(publishers);
        context.hook.request();
    }
}
