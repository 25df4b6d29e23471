//! The bytes of one peer that were read and not yet consumed.
//!
//! A connection begins with the second size class, grows to 64 KiB and shrinks again. Only larger
//! messages make the buffer larger, to at most twice what has arrived, and from 256 KiB on to eight
//! times: memory of that size is resident only as far as it was written to. It keeps that size for
//! one further read. An idle connection holds the smallest class, so its next bytes take one read
//! more.

use std::rc::Rc;

use monoio::buf::{IoBufMut, SliceMut};
use monoio::io::{AsyncReadRent, CancelHandle, CancelableAsyncReadRent, OwnedReadHalf};
use monoio::net::TcpStream;

use crate::base::limits::{
    LARGE_BUFFER_GROWTH, LARGE_MESSAGE_BYTES, PIECE_BYTES, READ_BUFFER_BYTES, WHOLE_BYTES_MAX,
};
use crate::base::pool::BufferPool;

/// Reads that used less than a quarter of the buffer, in a row, before it shrinks by one class.
const SHORT_READS_BEFORE_SHRINK: u8 = 16;

/// The smallest class of a connection in use; the one below is for idle connections.
const CLASS_IN_USE_MIN: u8 = 1;

/// The unconsumed bytes of one peer. Invariant: `start <= data.len() <= data.capacity()`.
pub struct ReadBuffer {
    data: Vec<u8>,
    /// Bytes before this offset are consumed.
    start: usize,
    /// Bytes from `start` that the current command takes, as far as known.
    needed: usize,
    class: u8,
    short_reads: u8,
    pool: Rc<BufferPool>,
}

impl ReadBuffer {
    pub fn new(pool: Rc<BufferPool>) -> Self {
        Self {
            data: Vec::new(),
            start: 0,
            needed: 0,
            class: CLASS_IN_USE_MIN,
            short_reads: 0,
            pool,
        }
    }

    /// Returns the bytes that are to be parsed.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..]
    }

    /// Returns the same bytes mutably, for a codec that decrypts them in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..]
    }

    #[inline]
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.data.len());
    }

    /// Sets how many bytes, from the first unconsumed one, the parser waits for.
    pub fn expect(&mut self, needed: usize) {
        self.needed = needed;
    }

    pub fn capacity(&self) -> usize {
        self.data.capacity()
    }

    /// Appends decrypted bytes, in pooled memory.
    pub fn append(&mut self, bytes: &[u8]) {
        let length = self.data.len() - self.start;
        let wanted = length + bytes.len();
        if self.data.capacity() - self.data.len() < bytes.len() {
            let room = self.needed.min(room_max(wanted)).max(wanted);
            let mut larger = self.pool.take(room, 0);
            larger.extend_from_slice(self.bytes());
            self.pool.give_back(std::mem::replace(&mut self.data, larger));
            self.start = 0;
        }
        self.data.extend_from_slice(bytes);
    }

    /// Gives the memory back if it holds nothing, before a wait of unknown length.
    pub fn release_if_empty(&mut self) {
        if self.bytes().is_empty() {
            self.start = 0;
            self.pool.give_back(std::mem::take(&mut self.data));
        }
    }

    /// Appends bytes as if they had been read: for simulators and tests.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.compact();
        self.data.extend_from_slice(bytes);
    }

    /// Goes back to the smallest buffer; keeps unconsumed bytes.
    pub fn shrink(&mut self) {
        self.class = 0;
        self.short_reads = 0;
        self.compact();
        if self.data.capacity() > READ_BUFFER_BYTES[0] {
            let mut smaller = self.pool.take(self.data.len(), 0);
            smaller.extend_from_slice(&self.data);
            self.pool.give_back(std::mem::replace(&mut self.data, smaller));
        }
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.data.drain(..self.start);
            self.start = 0;
        }
    }

    /// Makes room for the next read.
    fn make_room(&mut self) {
        self.compact();
        let length = self.data.len();
        let class_bytes = self.class_bytes();
        let capacity = self.data.capacity();
        if length == 0 {
            // After a command larger than any class another one is likely, and growing again would
            // copy it once more in all. One read decides.
            if capacity > WHOLE_BYTES_MAX && std::mem::take(&mut self.needed) > WHOLE_BYTES_MAX {
                return;
            }
            if capacity != class_bytes {
                let fresh = self.pool.take(class_bytes, usize::from(self.class));
                self.pool.give_back(std::mem::replace(&mut self.data, fresh));
            }
            return;
        }
        // A partial command: room for all of it, as far as `room_max` allows. The free part of a
        // large buffer is used up first, since each growth copies all of it.
        let wanted = self.needed.max(length + 1).min(room_max(length)).max(class_bytes);
        let free = capacity - length;
        if free > 0 && capacity >= wanted.min(WHOLE_BYTES_MAX) {
            return;
        }
        let mut larger = self.pool.take(wanted.max(length + 1), usize::from(self.class));
        larger.extend_from_slice(&self.data);
        self.pool.give_back(std::mem::replace(&mut self.data, larger));
    }

    /// Reads once; 0 = end of stream.
    ///
    /// # Errors
    /// Those of the socket.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    pub fn fill(
        &mut self,
        source: &mut OwnedReadHalf<TcpStream>,
    ) -> impl Future<Output = std::io::Result<usize>> {
        async move {
            let (result, slice) = source.read(self.lend()).await;
            self.take_back(result, slice)
        }
    }

    /// Like `fill`, but the read can be cancelled, which loses no bytes.
    ///
    /// # Errors
    /// Those of the socket; ECANCELED if the read was cancelled.
    pub async fn fill_cancelable(
        &mut self,
        source: &mut OwnedReadHalf<TcpStream>,
        cancel: CancelHandle,
    ) -> std::io::Result<usize> {
        let (result, slice) = source.cancelable_read(self.lend(), cancel).await;
        self.take_back(result, slice)
    }

    /// Lends the free part of the buffer to a read.
    fn lend(&mut self) -> SliceMut<Vec<u8>> {
        self.make_room();
        let begin = self.data.len();
        let end = piece_end(begin, self.data.capacity());
        std::mem::take(&mut self.data).slice_mut(begin..end)
    }

    /// Takes back what `lend` gave, with the result of the read.
    fn take_back(
        &mut self,
        result: std::io::Result<usize>,
        slice: SliceMut<Vec<u8>>,
    ) -> std::io::Result<usize> {
        let room = slice.end() - slice.begin();
        self.data = slice.into_inner();
        let count = result?;
        self.adapt(count, room);
        Ok(count)
    }

    fn class_bytes(&self) -> usize {
        self.pool.class_bytes(usize::from(self.class))
    }

    fn adapt(&mut self, count: usize, room: usize) {
        if count == room {
            let class_max = match self.needed >= LARGE_MESSAGE_BYTES {
                true => self.pool.class_max(),
                false => self.pool.class_max() - 1,
            };
            self.class = (self.class + 1).min(class_max as u8);
            self.short_reads = 0;
        } else if count < self.class_bytes() / 8 && self.class > CLASS_IN_USE_MIN {
            self.short_reads += 1;
            if self.short_reads >= SHORT_READS_BEFORE_SHRINK {
                self.class -= 1;
                self.short_reads = 0;
            }
        } else {
            self.short_reads = 0;
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.data));
    }
}

/// Returns the most that a buffer may hold for a command of which `arrived` bytes are there: a peer
/// that announces a large message has to send it, or most of it, to make us hold the memory.
fn room_max(arrived: usize) -> usize {
    match arrived >= WHOLE_BYTES_MAX {
        true => arrived.saturating_mul(LARGE_BUFFER_GROWTH),
        false => arrived * 2,
    }
}

/// Returns the end of one turn's read or send that starts at `begin`, in a buffer that ends at
/// `end`.
pub(super) fn piece_end(begin: usize, end: usize) -> usize {
    match end > WHOLE_BYTES_MAX {
        true => end.min(begin + PIECE_BYTES),
        false => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_bytes_grow_by_what_arrived_and_leave_nothing_behind() {
        let mut buffer = buffer();
        buffer.expect(1 << 30);
        let mut size = 0;
        for index in 0..200_usize {
            let bytes = vec![index as u8; index * 7];
            buffer.append(&bytes);
            size += bytes.len();
            assert_eq!(buffer.bytes().len(), size);
            assert!(buffer.bytes().ends_with(&bytes));
            assert!(buffer.capacity() <= room_max(size).max(READ_BUFFER_BYTES[3]));
            if index % 50 == 0 {
                buffer.consume(size);
                size = 0;
            }
        }
        buffer.release_if_empty();
        assert!(buffer.capacity() > 0);
        buffer.consume(size);
        buffer.release_if_empty();
        assert_eq!(buffer.capacity(), 0);
    }

    fn buffer() -> ReadBuffer {
        ReadBuffer::new(Rc::new(BufferPool::new(&READ_BUFFER_BYTES, 1 << 20)))
    }

    #[test]
    fn a_partial_command_makes_it_twice_and_a_large_one_eight_times_what_arrived_at_most() {
        let mut buffer = buffer();
        buffer.extend(&[b'x'; 300]);
        buffer.expect(1 << 30);
        buffer.make_room();
        assert!(buffer.capacity() <= READ_BUFFER_BYTES[2]);
        for _ in 0..12 {
            let length = buffer.bytes().len();
            buffer.extend(&vec![b'x'; length]);
            buffer.make_room();
            let arrived = buffer.bytes().len();
            let factor = if arrived < WHOLE_BYTES_MAX { 2 } else { 8 };
            let bound = (factor * arrived).max(READ_BUFFER_BYTES[4]);
            assert!(buffer.capacity() <= bound, "{arrived}");
        }
    }

    #[test]
    fn a_large_message_is_hardly_copied_while_it_arrives() {
        for (size, copied_max) in [(1 << 20, 1 << 19), (16 << 20, 3 << 20), (64 << 20, 19 << 20)] {
            let mut buffer = buffer();
            let (mut copied, mut capacity) = (0, 0);
            while buffer.bytes().len() < size {
                buffer.expect(size);
                let slice = buffer.lend();
                let (begin, end) = (slice.begin(), slice.end());
                buffer.data = slice.into_inner();
                if buffer.data.capacity() != capacity {
                    copied += begin;
                    capacity = buffer.data.capacity();
                }
                buffer.data.resize(end, b'x');
                buffer.adapt(end - begin, end - begin);
            }
            assert!(copied <= copied_max, "{copied} bytes copied for {size}");
        }
    }

    #[test]
    fn a_large_messages_room_is_kept_for_the_next_one_and_freed_after_a_small_one() {
        const SIZE: usize = 8 << 20;
        let mut buffer = buffer();
        let read = |buffer: &mut ReadBuffer, count: usize| {
            let slice = buffer.lend();
            let begin = slice.begin();
            buffer.data = slice.into_inner();
            buffer.data.resize(begin + count, b'x');
        };
        let mut grown = Vec::new();
        for _ in 0..3 {
            let mut times = 0;
            while buffer.bytes().len() < SIZE {
                let before = buffer.capacity();
                let left = SIZE - buffer.bytes().len();
                read(&mut buffer, left.min(64 << 10));
                times += usize::from(buffer.capacity() != before);
                buffer.expect(SIZE);
            }
            buffer.consume(SIZE);
            grown.push(times);
        }
        assert!(grown[0] > 1 && grown[1..] == [0, 0], "{grown:?}");
        for _ in 0..2 {
            read(&mut buffer, 10);
            buffer.consume(10);
        }
        assert!(buffer.capacity() <= WHOLE_BYTES_MAX);
    }

    #[test]
    fn only_a_message_larger_than_any_buffer_is_read_in_pieces() {
        let room_with = |length: usize| {
            let mut buffer = buffer();
            buffer.extend(&vec![b'x'; length]);
            buffer.expect(1 << 20);
            let slice = buffer.lend();
            (slice.end() - slice.begin(), slice.get_ref().capacity() - length)
        };
        let (room, free) = room_with(READ_BUFFER_BYTES[4] / 2);
        assert_eq!(room, free);
        let (room, free) = room_with(READ_BUFFER_BYTES[4] + 1);
        assert!(room == PIECE_BYTES && free > room, "{room}, {free}");
    }

    #[test]
    fn consumed_bytes_leave_and_the_rest_stays() {
        let mut buffer = buffer();
        buffer.extend(b"hello world");
        buffer.consume(6);
        buffer.make_room();
        assert_eq!(buffer.bytes(), b"world");
        buffer.shrink();
        assert_eq!(buffer.bytes(), b"world");
    }
}
