//! Deflated messages (RFC 7692): each is a stream of its own, without context from the one before,
//! and without the last four bytes of its last block.

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The bytes with which a flush ends, left out on the wire.
const END: [u8; 4] = [0, 0, 0xff, 0xff];

/// Bytes by which deflating may lengthen what cannot be made shorter, besides a share of it.
const GROWTH_BYTES: usize = 64;

/// The peer's bytes are not deflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

impl fmt::Display for Corrupt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("corrupt deflated data")
    }
}

/// Inflates one message at a time.
#[derive(Debug)]
pub(crate) struct Inflater {
    state: Decompress,
    /// True once the stream has said that it ends, before its message did.
    is_over: bool,
}

impl Inflater {
    pub(crate) fn new() -> Self {
        Self { state: Decompress::new(false), is_over: false }
    }

    /// Makes it ready for another message.
    pub(crate) fn reset(&mut self) {
        self.state.reset(false);
        self.is_over = false;
    }

    /// Inflates some of `input` into `output`. Returns the bytes taken and the bytes made; if the
    /// latter fill `output`, there may be more.
    ///
    /// # Errors
    /// If the input is not deflated.
    pub(crate) fn inflate(
        &mut self,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(usize, usize), Corrupt> {
        if self.is_over {
            return Ok((input.len(), 0));
        }
        let (taken, made) = (self.state.total_in(), self.state.total_out());
        match self.state.decompress(input, output, FlushDecompress::None) {
            Ok(Status::StreamEnd) => self.is_over = true,
            Ok(Status::Ok | Status::BufError) => {}
            Err(_) => return Err(Corrupt),
        }
        let count = |now: u64, before: u64| usize::try_from(now - before).expect("of slices");
        let made = count(self.state.total_out(), made);
        let taken = if self.is_over { input.len() } else { count(self.state.total_in(), taken) };
        Ok((taken, made))
    }

    /// Returns the bytes that complete a message for `inflate`.
    pub(crate) fn end() -> &'static [u8] {
        &END
    }
}

/// Deflates one message at a time.
#[derive(Debug)]
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Self {
        Self(Compress::new(Compression::fast(), false))
    }

    /// Returns an upper bound, but for very few inputs, of what `deflate` appends.
    pub(crate) fn size_max(plain_bytes: usize) -> usize {
        plain_bytes + plain_bytes / 128 + GROWTH_BYTES
    }

    /// Appends the message, deflated.
    pub(crate) fn deflate(&mut self, plain: &[u8], target: &mut Vec<u8>) {
        self.0.reset();
        let mut rest = plain;
        target.reserve(Self::size_max(plain.len()));
        loop {
            let before = self.0.total_in();
            let status = self.0.compress_vec(rest, target, FlushCompress::Sync);
            status.expect("the state is good, and there is room");
            let taken = usize::try_from(self.0.total_in() - before).expect("of a slice");
            rest = &rest[taken..];
            if rest.is_empty() && target.len() < target.capacity() {
                break;
            }
            target.reserve(GROWTH_BYTES);
        }
        assert!(target.ends_with(&END), "a flush ends with an empty block");
        target.truncate(target.len() - END.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflated(deflated: &[u8]) -> Result<Vec<u8>, Corrupt> {
        let (mut inflater, mut all) = (Inflater::new(), Vec::new());
        for input in [deflated, Inflater::end()] {
            let (mut rest, mut output) = (input, [0; 100]);
            loop {
                let (taken, made) = inflater.inflate(rest, &mut output)?;
                all.extend_from_slice(&output[..made]);
                rest = &rest[taken..];
                if rest.is_empty() && made < output.len() {
                    break;
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn what_is_deflated_comes_back() {
        let mut random = fastrand::Rng::with_seed(7692);
        let mut deflater = Deflater::new();
        for size in [0, 1, 63, 64, 65, 1000, 4096, 70_000, 200_000] {
            let even = vec![b'x'; size];
            let noise: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
            for plain in [even, noise] {
                let mut deflated = b"before".to_vec();
                deflater.deflate(&plain, &mut deflated);
                assert_eq!(inflated(&deflated[6..]), Ok(plain));
            }
        }
    }

    #[test]
    fn each_message_stands_by_itself() {
        let mut deflater = Deflater::new();
        let messages = [(); 2].map(|()| {
            let mut deflated = Vec::new();
            deflater.deflate(&b"the same words ".repeat(20), &mut deflated);
            deflated
        });
        assert_eq!(messages[0], messages[1]);
    }

    #[test]
    fn what_follows_the_end_of_a_stream_is_no_part_of_it() {
        let mut ended = Vec::with_capacity(100);
        let mut state = Compress::new(Compression::fast(), false);
        state.compress_vec(b"hello", &mut ended, FlushCompress::Finish).expect("it is short");
        ended.extend_from_slice(b"noise");
        assert_eq!(inflated(&ended), Ok(b"hello".to_vec()));
        assert_eq!(inflated(b"\xff\xff\xff\xff"), Err(Corrupt));
    }
}
