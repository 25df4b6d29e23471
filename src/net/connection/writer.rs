//! The write task of a connection: it sends what is in the outbox, sealed or plain.

use std::rc::Rc;
use std::time::Instant;

use monoio::buf::IoBuf;
use monoio::io::{AsyncWriteRent, CancelableAsyncWriteRent, OwnedWriteHalf};
use monoio::net::TcpStream;
use monoio::task::JoinHandle;

use super::ends::{Ends, is_cancelled};
use crate::net::codec::Sealed;
use crate::net::read_buffer::piece_end;
use crate::protocol::nats::error::CloseReason;

/// The write task of one connection. It returns its half of the socket, unless that was shut down.
pub(super) type Writer = JoinHandle<Option<OwnedWriteHalf<TcpStream>>>;

#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
pub(super) fn write_loop(
    mut target: OwnedWriteHalf<TcpStream>,
    ends: Rc<Ends>,
) -> impl Future<Output = Option<OwnedWriteHalf<TcpStream>>> {
    async move {
        loop {
            let Some(mut chunk) = ends.outbox.next_chunk().await else { break };
            ends.context.hook.before_send();
            ends.outbox.send_begins(Instant::now());
            ends.control.sends.set(ends.control.sends.get().saturating_add(1));
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
        if let Some(reason) = ends.outbox.close_reason()
            && !ends.codec.borrow().is_plain()
        {
            let bytes = ends.codec.borrow_mut().finish(reason, &ends.context.sealed_pool);
            Box::pin(write_all(&mut target, bytes, &ends, |_| {})).await;
        }
        // The peer sees the end of the stream after everything owed, and the reader wakes up.
        ends.outbox.abort_socket();
        None
    }
}

/// Sends one chunk encoded, after the layers' own bytes.
async fn send_sealed(target: &mut OwnedWriteHalf<TcpStream>, ends: &Ends, chunk: &[u8]) {
    let Ends { outbox, codec, context, .. } = ends;
    let mut offset = 0;
    loop {
        let sealed =
            codec.borrow_mut().seal(&chunk[offset..], &context.sealed_pool, &context.deflaters);
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
