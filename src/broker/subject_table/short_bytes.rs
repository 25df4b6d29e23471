//! Owned bytes that live inside their owner when they are short, as nearly all subjects are.

/// Bytes kept without an allocation. Chosen so that a `ShortBytes` is 32 bytes.
pub(crate) const INLINE_BYTES_MAX: usize = 30;

const _: () = assert!(size_of::<ShortBytes>() == 32, "two of them make a cache line");

/// An immutable byte string.
#[derive(Debug)]
pub(crate) enum ShortBytes {
    Inline { byte_count: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Boxed(Box<[u8]>),
}

impl ShortBytes {
    pub(crate) fn new(source: &[u8]) -> ShortBytes {
        if source.len() > INLINE_BYTES_MAX {
            return ShortBytes::Boxed(source.into());
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..source.len()].copy_from_slice(source);
        ShortBytes::Inline { byte_count: source.len() as u8, bytes }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            ShortBytes::Inline { byte_count, bytes } => &bytes[..usize::from(*byte_count)],
            ShortBytes::Boxed(bytes) => bytes,
        }
    }

    /// Reads where the bytes begin. The result means nothing; it is there to be waited for.
    #[inline]
    pub(crate) fn touch(&self) -> u32 {
        u32::from(matches!(self, ShortBytes::Inline { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_around_the_inline_bound_is_kept() {
        for length in 0..=INLINE_BYTES_MAX + 3 {
            let source: Vec<u8> = (0..length as u8).collect();
            let kept = ShortBytes::new(&source);
            assert_eq!(kept.as_slice(), source);
            assert_eq!(matches!(kept, ShortBytes::Boxed(_)), length > INLINE_BYTES_MAX);
        }
    }
}
