//! The driver of every connection, whatever its peer speaks: a read task that feeds the session,
//! and a write task that empties its outbox.
//!
//! It handles bytes only and knows no verb of any protocol.
//!
//! Every connection holds its two futures for its whole life, so rare awaits are boxed: an idle
//! connection does not pay for them. The two held futures are async blocks, since an async fn would
//! keep its arguments twice.

mod control;
mod ends;
mod reader;
mod writer;

use std::cell::RefCell;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use monoio::io::Splitable;
use monoio::net::TcpStream;

use crate::base::ids::ShardId;
use crate::base::pool::BufferPool;
use crate::net::codec::Codec;
use crate::net::read_buffer::ReadBuffer;
use crate::net::runtime::{Driver, spawn, within};
use crate::net::session::Session;
use crate::protocol::nats::error::CloseReason;
pub(crate) use control::ConnectionControl;
pub(crate) use ends::ConnectionContext;
use ends::Ends;
use reader::{Leave, Reader};
use writer::{Writer, write_loop};

/// Time for a closing connection to send what it still owes, above all an `-ERR`.
const FLUSH_AT_CLOSE: Duration = Duration::from_millis(500);

/// How the serving of a connection ended on this shard.
pub(crate) enum Ended {
    Closed,
    /// It continues on that shard.
    Moved(ShardId, MovedConnection),
}

/// A connection between two shards: neither the kernel nor a task holds anything of it.
pub(crate) struct MovedConnection {
    stream: StdTcpStream,
    /// Bytes that were read, and decoded, but not consumed.
    unread: Vec<u8>,
    /// Frames that were read, and decrypted, but not decoded.
    undecoded: Vec<u8>,
    codec: Codec,
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
    let moved = MovedConnection {
        stream,
        unread: Vec::new(),
        undecoded: Vec::new(),
        codec: Codec::default(),
    };
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
    let MovedConnection { stream, unread, undecoded, mut codec } = moved;
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
    let pool = if codec.is_plain() { &context.read_pool } else { &context.opened_pool };
    let mut input = ReadBuffer::new(pool.clone());
    if !unread.is_empty() {
        input.extend(&unread);
    }
    let buffer = |pool: &Rc<BufferPool>| Box::new(ReadBuffer::new(pool.clone()));
    let mut encoded = (!codec.is_plain()).then(|| buffer(&context.read_pool));
    let has_both = codec.tls().is_some() && codec.frames().is_some();
    let mut framed = has_both.then(|| buffer(&context.opened_pool));
    let may_decode = codec.frames().is_some();
    if let Some(buffer) = framed.as_mut().or(encoded.as_mut())
        && !undecoded.is_empty()
    {
        buffer.extend(&undecoded);
    }
    if codec.has_outgoing() {
        outbox.poke();
    }
    let ends = Rc::new(Ends { outbox, codec: codec.into(), context, control });
    let writer = monoio::spawn(write_loop(write_half, ends.clone()));
    let source = read_half;
    let mut reader =
        Reader { source, descriptor, input, encoded, framed, may_decode, session, ends };
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

/// Takes apart a connection that has no operation in flight. Whatever is pushed meanwhile stays in
/// its queue.
async fn part<S: Session>(reader: Reader<S>, target: ShardId, writer: Writer) -> Ended {
    let Reader { source, mut input, mut encoded, mut framed, ends, .. } = reader;
    ends.outbox.retire();
    let write_half = writer.await;
    ends.outbox.set_abort(None);
    // Dropped separately, the halves would shut the socket down.
    if let Some(write_half) = write_half {
        drop(source.reunite(write_half));
    }
    let take_all = |buffer: &mut ReadBuffer| {
        let bytes = buffer.bytes().to_vec();
        buffer.consume(bytes.len());
        buffer.release_if_empty();
        bytes
    };
    let unread = take_all(&mut input);
    let undecoded = framed.as_mut().or(encoded.as_mut()).map(|buffer| take_all(buffer));
    let undecoded = undecoded.unwrap_or_default();
    let codec = ends.codec.take();
    let stream = ends.control.spare.take().expect("made just before");
    Ended::Moved(target, MovedConnection { stream, unread, undecoded, codec })
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
